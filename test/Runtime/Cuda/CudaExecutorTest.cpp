//===- CudaExecutorTest.cpp - Steps on the fake driver --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../Core/FakeModel.h"
#include "CudaPackage.h"
#include "FakeCuda.h"
#include "gtest/gtest.h"

using namespace qlm;
using namespace qlm::test;

namespace {
class CudaExecutorTest : public testing::Test {
protected:
  void SetUp() override { fakeCudaReset(); }
  void TearDown() override {
    model.reset();
    EXPECT_STREQ(fakeCudaViolations(), "");
    EXPECT_EQ(fakeCudaLiveObjects(), 0);
  }
  void open(
      const FakeLimits &limits = {},
      const std::function<void(Json &)> &change = [](Json &) {}) {
    package = std::make_unique<CudaPackage>(limits, change);
    Result<std::unique_ptr<Model>> loaded = package->load();
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    model = loaded.take();
  }
  static Request ask(const std::vector<int32_t> &prompt, int64_t count) {
    Request request;
    request.prompt = prompt;
    request.maxNewTokens = count;
    return request;
  }
  std::vector<std::vector<int32_t>> run(const std::vector<Request> &requests) {
    Result<std::vector<GenerationResult>> results = model->generate(requests);
    EXPECT_TRUE(results.ok()) << results.status().message();
    std::vector<std::vector<int32_t>> tokens;
    for (const GenerationResult &result : *results) {
      EXPECT_TRUE(result.status.ok()) << result.status.message();
      tokens.push_back(result.tokens);
    }
    return tokens;
  }

  std::unique_ptr<CudaPackage> package;
  std::unique_ptr<Model> model;
};
using Tokens = std::vector<int32_t>;
} // namespace

TEST_F(CudaExecutorTest, GivesTheLogitsOfTheDefinition) {
  open();
  Tokens tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9};
  std::vector<float> expected = fakeLogits(tokens);
  for (int64_t chunk : {0, 1, 3, 5}) {
    std::vector<float> logits(expected.size(), -1);
    Status status =
        model->logits(tokens, chunk, [&](int64_t row, const float *values) {
          std::copy_n(values, fakeVocabulary, &logits[row * fakeVocabulary]);
        });
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(logits, expected) << "chunk " << chunk;
  }
}

TEST_F(CudaExecutorTest, RunsRequestsOfAllLengthsSideBySide) {
  open();
  EXPECT_EQ(run({ask({22, 23, 24}, 100), ask({0}, 4),
                 ask({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 2), ask({7}, 1)}),
            (std::vector<Tokens>{
                {25, 26, 27, 28, fakeEos}, {1, 2, 3, 4}, {12, 13}, {8}}));
}

TEST_F(CudaExecutorTest, CapturesDecodingOnceForEachPowerOfTwo) {
  open({/*maxBatch=*/5, /*maxContext=*/64, /*maxStepTokens=*/8});
  // 1, 2, 4, 5 rows, without and with the choice of tokens.
  EXPECT_EQ(fakeCudaCalls("cuGraphInstantiateWithFlags"), 8);
  int launches = fakeCudaCalls("cuLaunchKernelEx");
  run({ask({0}, 6)});
  EXPECT_EQ(fakeCudaCalls("cuGraphLaunch"), 6);
  EXPECT_EQ(fakeCudaCalls("cuLaunchKernelEx"), launches)
      << "the choice of a token is in the graph";
  run({ask({0, 1, 2}, 1)});
  EXPECT_EQ(fakeCudaCalls("cuGraphLaunch"), 6) << "a prompt needs no graph";
}

TEST_F(CudaExecutorTest, TakesTheFirstVariantThatFits) {
  open({/*maxBatch=*/4, /*maxContext=*/64, /*maxStepTokens=*/8});
  // Graphs of 1, 2 and 4 rows, without and with the choice of tokens: five
  // launches and one more, of which those of the first two are the dependent
  // variant.
  EXPECT_EQ(fakeCudaDependentLaunches(), 2 * (5 + 6));
}

TEST_F(CudaExecutorTest, RunsClustersOfAnySize) {
  for (int64_t blocks : {2, 8, 16}) {
    open({}, [&](Json &manifest) {
      for (Json &launch : manifest["launches"])
        for (Json &variant : launch["variants"])
          if (variant["kernel"] == "gpu_attend") {
            variant["cluster"] = blocks;
            variant["grid"]["count"] = blocks;
          }
    });
    EXPECT_EQ(run({ask({3, 4}, 2)}), (std::vector<Tokens>{{5, 6}}));
  }
}

TEST_F(CudaExecutorTest, ChoosesTokensOnTheDevice) {
  open();
  Executor &executor = model->getExecutor();
  SamplingOptions greedy, warm, penalized;
  warm.temperature = 1;
  penalized.repetitionPenalty = 2;
  EXPECT_TRUE(executor.canSample(greedy));
  EXPECT_TRUE(executor.canSample(warm));
  EXPECT_FALSE(executor.canSample(penalized));
  SamplingOptions frequent, present, biased;
  frequent.frequencyPenalty = 0.5f;
  present.presencePenalty = -0.5f;
  biased.logitBias = {{3, 1.0f}};
  for (const SamplingOptions &each : {frequent, present, biased})
    EXPECT_FALSE(executor.canSample(each));

  StepBatch &batch = executor.batch();
  batch.clear();
  int32_t tokens[] = {4, 9, fakePoison};
  for (int32_t i = 0; i < 3; ++i)
    ASSERT_TRUE(batch.addSequence(&tokens[i], 1, 0, {i}, 1));
  executor.sampleRow(0, greedy, 0.25);
  executor.sampleRow(1, warm, 0.5);
  executor.sampleRow(2, greedy, 0.75);
  size_t fetched = fakeCudaFetchedBytes();
  ASSERT_TRUE(executor.run().ok());
  EXPECT_EQ(fakeCudaFetchedBytes() - fetched, 3 * sizeof(format::SampleResult))
      << "no logits come to the host";
  EXPECT_EQ(executor.sampled(0)->token, 5);
  EXPECT_EQ(executor.sampled(0)->logProbability, 0.25f);
  EXPECT_EQ(executor.sampled(1)->token, 9);
  EXPECT_EQ(executor.sampled(2).status().message(),
            "the model's logits are not finite numbers");
}

TEST_F(CudaExecutorTest, BeginsTheNextStepByItself) {
  open();
  run({ask({0}, 6)});
  // One for each token: nothing was run in vain. The stream was waited for
  // twice: at the end of the page of four tokens, and at that of the text.
  EXPECT_EQ(fakeCudaCalls("cuGraphLaunch"), 6);
  EXPECT_EQ(fakeCudaCalls("cuEventSynchronize"), 4);
}

TEST_F(CudaExecutorTest, EndsTheSameWhetherStepsAreAheadOrNot) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < 7; ++i) {
    Request request = ask(Tokens(static_cast<size_t>(1 + i % 3), i), 5 + 9 * i);
    request.sampling.temperature = i % 2 ? 1 : 0;
    request.sampling.seed = static_cast<uint64_t>(i);
    requests.push_back(request);
  }
  open({/*maxBatch=*/4, /*maxContext=*/64, /*maxStepTokens=*/8});
  std::vector<Tokens> fed = run(requests);
  EXPECT_GT(fakeCudaCalls("cuEventSynchronize"), 20);
  model.reset();
  fakeCudaReset();
  open({/*maxBatch=*/4, /*maxContext=*/64, /*maxStepTokens=*/8},
       [](Json &manifest) {
         // Kernels that leave no tokens for the next step: those are in the
         // arena then.
         manifest["sampling"][0]["args"][3] = Json::array({"arena", 0});
       });
  EXPECT_EQ(run(requests), fed);
  EXPECT_EQ(fakeCudaCalls("cuEventSynchronize"), 0);
}

namespace {
/// Steps of the executor alone, of sequences with a page each.
class AheadTest : public CudaExecutorTest {
protected:
  struct Row {
    int32_t token;
    int64_t position;
    int32_t page;
  };
  /// Runs a step of \p rows that is expected to go on; the tokens chosen.
  Tokens step(const std::vector<Row> &rows, double uniform = 0) {
    Executor &executor = model->getExecutor();
    executor.batch().clear();
    for (const Row &row : rows)
      EXPECT_TRUE(executor.batch().addSequence(&row.token, 1, row.position,
                                               {row.page}, 1));
    for (size_t i = 0; i < rows.size(); ++i)
      executor.sampleRow(static_cast<int64_t>(i), {}, uniform);
    executor.expectNext(std::vector<double>(rows.size(), 0.5));
    Status status = executor.run();
    EXPECT_TRUE(status.ok()) << status.message();
    Tokens tokens;
    for (size_t i = 0; i < rows.size(); ++i)
      tokens.push_back(executor.sampled(static_cast<int64_t>(i))->token);
    return tokens;
  }
  static int steps() { return fakeCudaCalls("cuGraphLaunch"); }
};
} // namespace

TEST_F(AheadTest, TakesTheStepThatWasExpected) {
  open();
  EXPECT_EQ(step({{4, 0, 0}, {9, 0, 1}}), (Tokens{5, 10}));
  EXPECT_EQ(steps(), 2);
  EXPECT_EQ(step({{5, 1, 0}, {10, 1, 1}}, 0.5), (Tokens{6, 11}));
  EXPECT_EQ(steps(), 3);
}

TEST_F(AheadTest, LeavesOutRowsThatEnded) {
  open();
  EXPECT_EQ(step({{4, 0, 0}, {9, 0, 1}, {14, 0, 2}}), (Tokens{5, 10, 15}));
  EXPECT_EQ(step({{5, 1, 0}, {15, 1, 2}}, 0.5), (Tokens{6, 16}));
  EXPECT_EQ(steps(), 2) << "one that is left out ends the running ahead";
  EXPECT_EQ(step({{6, 2, 0}, {16, 2, 2}}, 0.5), (Tokens{7, 17}));
  EXPECT_EQ(steps(), 4);
}

TEST_F(AheadTest, RunsAnotherStepThanWasExpected) {
  // Another token, position, page, order or draw, and a sequence that joins.
  const std::pair<std::vector<Row>, double> others[] = {
      {{{6, 1, 0}, {10, 1, 1}}, 0.5},
      {{{5, 0, 0}, {10, 1, 1}}, 0.5},
      {{{5, 1, 2}, {10, 1, 1}}, 0.5},
      {{{10, 1, 1}, {5, 1, 0}}, 0.5},
      {{{5, 1, 0}, {10, 1, 1}}, 0.25},
      {{{5, 1, 0}, {10, 1, 1}, {3, 0, 3}}, 0.5}};
  for (const auto &[rows, uniform] : others) {
    open();
    int before = steps();
    EXPECT_EQ(step({{4, 0, 0}, {9, 0, 1}}), (Tokens{5, 10}));
    Tokens expected;
    for (const Row &row : rows)
      expected.push_back(row.token + 1);
    EXPECT_EQ(step(rows, uniform), expected);
    EXPECT_EQ(steps() - before, 3) << "after one for nothing none is ahead";
    model.reset();
  }
}

TEST_F(AheadTest, StopsAtAPagesEndAndTheContexts) {
  open({/*maxBatch=*/4, /*maxContext=*/64, /*maxStepTokens=*/8});
  step({{1, 0, 0}, {1, fakePageTokens - 1, 1}});
  EXPECT_EQ(steps(), 1);
  model.reset();
  fakeCudaReset();
  open({/*maxBatch=*/4, /*maxContext=*/3, /*maxStepTokens=*/8});
  step({{1, 2, 0}});
  EXPECT_EQ(steps(), 1);
  step({{1, 1, 0}});
  EXPECT_EQ(steps(), 3);
}

TEST_F(CudaExecutorTest, BringsLogitsWhereARowWantsThem) {
  open();
  Executor &executor = model->getExecutor();
  StepBatch &batch = executor.batch();
  batch.clear();
  int32_t tokens[] = {4, 9};
  for (int32_t i = 0; i < 2; ++i)
    ASSERT_TRUE(batch.addSequence(&tokens[i], 1, 0, {i}, 1));
  executor.sampleRow(1, {}, 0);
  ASSERT_TRUE(executor.run().ok());
  EXPECT_EQ(executor.sampled(1)->token, 10);
  std::vector<float> expected = fakeLogits({4});
  EXPECT_EQ(std::vector<float>(executor.logits(0),
                               executor.logits(0) + fakeVocabulary),
            expected);
}

TEST_F(CudaExecutorTest, TimesEachLaunchWhenAsked) {
  open();
  StepProfile profile;
  model->getExecutor().setProfile(&profile);
  run({ask({0}, 3)});
  model->getExecutor().setProfile(nullptr);
  std::vector<ProfileEntry> entries = profile.summarize(model->getManifest());
  ASSERT_EQ(entries.size(), 5u);
  for (const ProfileEntry &entry : entries) {
    EXPECT_EQ(entry.launches, 3);
    EXPECT_NEAR(entry.seconds, 3 * 0.5e-3, 1e-9);
  }
}

TEST_F(CudaExecutorTest, ShowsRowsToAnObserver) {
  open({}, [](Json &manifest) {
    Json observe = manifest["launches"][0];
    observe["label"] = "observe:embedded:" + std::to_string(fakeHidden);
    observe["args"] = Json::array({observe["args"].back()});
    for (Json &variant : observe["variants"])
      variant["grid"]["count"] = 0;
    auto &launches = manifest["launches"];
    launches.insert(launches.begin() + 1, observe);
  });
  Tokens tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  std::vector<float> table = fakeTable(), seen;
  model->getExecutor().setObserver(
      [&](size_t launch, const float *rows, int64_t lo, int64_t hi) {
        EXPECT_EQ(launch, 1u);
        seen.insert(seen.end(), rows + lo * fakeHidden, rows + hi * fakeHidden);
      });
  // A whole step, and steps of one row, which graphs would run otherwise.
  for (int64_t chunk : {0, 1}) {
    std::vector<float> expected, logits;
    for (int32_t token : tokens)
      expected.insert(expected.end(), table.begin() + token * fakeHidden,
                      table.begin() + (token + 1) * fakeHidden);
    seen.clear();
    Status status =
        model->logits(tokens, chunk, [&](int64_t, const float *values) {
          logits.insert(logits.end(), values, values + fakeVocabulary);
        });
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(seen, expected) << "chunk " << chunk;
    EXPECT_EQ(logits, fakeLogits(tokens));
  }
  int graphs = fakeCudaCalls("cuGraphLaunch");
  EXPECT_EQ(graphs, 0);
  model->getExecutor().setObserver(nullptr);
  seen.clear();
  run({ask({0}, 2)});
  EXPECT_TRUE(seen.empty());
  EXPECT_EQ(fakeCudaCalls("cuGraphLaunch"), 2);
}

TEST_F(CudaExecutorTest, TakesWhatThePlanSays) {
  open();
  const MemoryPlan &plan = model->getManifest().plan;
  int64_t weights = 2 * fakeVocabulary * fakeHidden * 4;
  EXPECT_GE(model->getExecutor().deviceBytes(),
            weights + plan.arenaBytes + plan.kv.poolBytes + plan.logitsBytes +
                plan.workspaceBytes);
}

TEST_F(CudaExecutorTest, DoesWithoutSamplingKernels) {
  open({}, [](Json &manifest) { manifest.erase("sampling"); });
  EXPECT_FALSE(model->getExecutor().canSample({}));
  EXPECT_EQ(run({ask({0}, 3)}), (std::vector<Tokens>{{1, 2, 3}}));
}
