//===- ExecutorTest.cpp - Steps compute what the model defines ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Executor.h"

#include "FakeModel.h"
#include "FakePackage.h"
#include "qlm/Runtime/Model.h"
#include "gtest/gtest.h"

#include <chrono>
#include <ctime>
#include <thread>

using namespace qlm;
using namespace qlm::test;

static std::unique_ptr<Model> load(const FakePackage &package, int threads) {
  Model::Options options;
  options.threads = threads;
  Result<std::unique_ptr<Model>> model = Model::load(package.path(), options);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return model.take();
}

static std::vector<float>
logitsOf(Model &model, const std::vector<int32_t> &tokens, int64_t chunk) {
  std::vector<float> all;
  Status status = model.logits(tokens, chunk, [&](int64_t row, float *logits) {
    EXPECT_EQ(row, static_cast<int64_t>(all.size()) / fakeVocabulary);
    all.insert(all.end(), logits, logits + fakeVocabulary);
  });
  EXPECT_TRUE(status.ok()) << status.message();
  return all;
}

TEST(ExecutorTest, LogitsAreTheModelsForAnyChunkAndThreads) {
  FakePackage package;
  std::vector<int32_t> tokens;
  for (int i = 0; i < 37; ++i)
    tokens.push_back(i * 11 % 29);
  std::vector<float> expected = fakeLogits(tokens);
  for (int threads : {1, 2}) {
    std::unique_ptr<Model> model = load(package, threads);
    for (int64_t chunk : {0, 1, 3, 8, 1000})
      EXPECT_EQ(logitsOf(*model, tokens, chunk), expected)
          << "chunk " << chunk << ", threads " << threads;
  }
}

TEST(ExecutorTest, LogitsGiveTheirPagesBack) {
  FakePackage package({/*maxBatch=*/1, /*maxContext=*/16, /*maxStepTokens=*/8});
  std::unique_ptr<Model> model = load(package, 1);
  std::vector<int32_t> tokens(16, 3);
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(logitsOf(*model, tokens, 0), fakeLogits(tokens));
}

TEST(ExecutorTest, RefusesTokensThatBreakTheLimits) {
  FakePackage package;
  std::unique_ptr<Model> model = load(package, 1);
  auto message = [&](const std::vector<int32_t> &tokens, int64_t chunk) {
    return model->logits(tokens, chunk, [](int64_t, float *) {}).message();
  };
  EXPECT_EQ(message({}, 0),
            "tokens must number from 1 to the context's 64, got 0");
  EXPECT_EQ(message(std::vector<int32_t>(65, 1), 0),
            "tokens must number from 1 to the context's 64, got 65");
  EXPECT_EQ(message({1, 32}, 0), "token id must be from 0 to 31, got 32");
  EXPECT_EQ(message({-1}, 0), "token id must be from 0 to 31, got -1");
  EXPECT_EQ(message({1}, -2), "chunk must not be negative, got -2");
}

TEST(ExecutorTest, ThreadsAreCutToTheCoresWithANote) {
  FakePackage package;
  std::unique_ptr<Model> all = load(package, 0);
  EXPECT_EQ(all->note(), "");
  std::unique_ptr<Model> many = load(package, 10000);
  EXPECT_EQ(many->threads(), all->threads());
  EXPECT_EQ(many->note().rfind("using ", 0), 0u);
  Model::Options options;
  options.threads = -1;
  EXPECT_EQ(Model::load(package.path(), options).status().message(),
            "threads must not be negative, got -1");
}

TEST(ExecutorTest, ReservedMemoryIsResidentAndClean) {
  // A pool of 16 MB, which can not be lost in the noise.
  FakePackage package({/*maxBatch=*/1, /*maxContext=*/65536,
                       /*maxStepTokens=*/8});
  int64_t pool = 65536 / fakePageTokens * 2 * fakeHidden * 4 * fakePageTokens;
  Model::Options options;
  options.threads = 1;
  options.reserveMemory = true;
  int64_t before = peakResidentBytes();
  Result<std::unique_ptr<Model>> model = Model::load(package.path(), options);
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_GE(peakResidentBytes() - before, pool * 9 / 10);
  std::vector<int32_t> tokens = {1, 2, 3};
  EXPECT_EQ(logitsOf(**model, tokens, 0), fakeLogits(tokens));
}

TEST(ExecutorTest, ProfileGroupsLaunchesByLabel) {
  FakePackage package;
  std::unique_ptr<Model> model = load(package, 2);
  StepProfile profile;
  model->getExecutor().setProfile(&profile);
  logitsOf(*model, {1, 2, 3}, 1);
  std::vector<ProfileEntry> entries = profile.summarize(model->getManifest());
  ASSERT_EQ(entries.size(), 5u);
  bool foundHead = false;
  for (const ProfileEntry &entry : entries) {
    EXPECT_EQ(entry.launches, 3);
    EXPECT_NE(entry.label.substr(0, 8), "layers.0");
    if (entry.label == "lm_head") {
      foundHead = true;
      EXPECT_EQ(entry.bytes, 3 * 32 * 32 * 4);
    }
  }
  EXPECT_TRUE(foundHead);
}

TEST(StepBatchTest, RefusesRowsThatDoNotFit) {
  Manifest manifest = *parseManifest(
      fakeManifest({/*maxBatch=*/2, /*maxContext=*/8, /*maxStepTokens=*/6})
          .dump(),
      "m");
  StepBatch batch = StepBatch::create(manifest.plan).take();
  std::vector<int32_t> tokens(8, 1);
  EXPECT_FALSE(batch.addSequence(tokens.data(), 7, 0, {0, 1}, 1));
  EXPECT_FALSE(batch.addSequence(tokens.data(), 0, 0, {0, 1}, 0));
  EXPECT_FALSE(batch.addSequence(tokens.data(), 5, 0, {0}, 1)) << "pages";
  EXPECT_FALSE(batch.addSequence(tokens.data(), 1, 0, {0, 1, 2}, 1)) << "table";
  EXPECT_EQ(batch.getSizes().sequences, 0);
  EXPECT_TRUE(batch.addSequence(tokens.data(), 5, 3, {4, 2}, 2));
  EXPECT_TRUE(batch.addSequence(tokens.data(), 1, 0, {1}, 1));
  EXPECT_FALSE(batch.addSequence(tokens.data(), 1, 0, {3}, 1)) << "sequences";

  auto argument = [&](format::StepArgument which, int64_t count) {
    const int32_t *data = batch.argument(which);
    return std::vector<int32_t>(data, data + count);
  };
  using format::StepArgument;
  using Row = std::vector<int32_t>;
  EXPECT_EQ(argument(StepArgument::Positions, 6), (Row{3, 4, 5, 6, 7, 0}));
  EXPECT_EQ(argument(StepArgument::TokenSequences, 6), (Row{0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(argument(StepArgument::SequenceOffsets, 3), (Row{0, 5, 6}));
  EXPECT_EQ(argument(StepArgument::ContextLengths, 2), (Row{8, 1}));
  EXPECT_EQ(argument(StepArgument::BlockTables, 4), (Row{4, 2, 1, 0}));
  EXPECT_EQ(argument(StepArgument::LogitRows, 3), (Row{3, 4, 5}));
}

// After a text, a loaded model waits without using the processor.
TEST(ExecutorTest, AnIdleModelUsesNoTime) {
  FakePackage package;
  std::unique_ptr<Model> model = load(package, 2);
  Request request;
  request.prompt = {1, 2, 3};
  request.maxNewTokens = 5;
  ASSERT_TRUE(model->generate({request}).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::clock_t begin = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  double used = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  EXPECT_LT(used, 0.05);
}
