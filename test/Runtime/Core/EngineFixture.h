//===- EngineFixture.h - A model of the fake package ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_RUNTIME_CORE_ENGINEFIXTURE_H
#define QLM_TEST_RUNTIME_CORE_ENGINEFIXTURE_H

#include "FakeModel.h"
#include "FakePackage.h"
#include "qlm/Runtime/Model.h"
#include "gtest/gtest.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace qlm::test {

/// Loads a fake package and asks its model. The engine checks its bookkeeping
/// after each step.
class EngineFixture : public testing::Test {
protected:
  void open(
      const FakeLimits &limits = {}, EngineOptions engine = {},
      const std::function<void(const FakePackage &)> &change =
          [](const FakePackage &) {}) {
    model.reset();
    package = std::make_unique<FakePackage>(limits);
    change(*package);
    Model::Options options;
    options.threads = 2;
    options.engine = std::move(engine);
    options.engine.checkInvariants = true;
    // The fake vocabulary is small; its tokens are sampled on all threads too.
    if (options.engine.parallelLogits == EngineOptions().parallelLogits)
      options.engine.parallelLogits = 1;
    Result<std::unique_ptr<Model>> loaded =
        Model::load(package->path(), options);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    model = loaded.take();
  }

  Request ask(const std::string &prompt, int64_t maxNewTokens) {
    Request request;
    Result<std::vector<int32_t>> tokens = model->encode(prompt);
    EXPECT_TRUE(tokens.ok()) << tokens.status().message();
    request.prompt = tokens.take();
    request.maxNewTokens = maxNewTokens;
    return request;
  }

  GenerationResult run(const Request &request) {
    Result<std::vector<GenerationResult>> results = model->generate({request});
    EXPECT_TRUE(results.ok()) << results.status().message();
    return results->front();
  }

  std::string refusal(const Request &request) {
    return model->generate({request}).status().message();
  }

  std::unique_ptr<FakePackage> package;
  std::unique_ptr<Model> model;
};

} // namespace qlm::test

#endif // QLM_TEST_RUNTIME_CORE_ENGINEFIXTURE_H
