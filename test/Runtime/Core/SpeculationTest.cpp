//===- SpeculationTest.cpp - Proposals change the speed alone -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EngineFixture.h"

#include <cmath>
#include <map>
#include <random>

using namespace qlm;
using namespace qlm::test;

namespace {
class SpeculationTest : public EngineFixture {
protected:
  static EngineOptions lookup(int64_t maxTokens, bool adaptive = false) {
    EngineOptions options;
    options.speculation.maxTokens = maxTokens;
    options.speculation.adaptive = adaptive;
    return options;
  }
  /// Prompts that repeat themselves, continued greedily and drawn.
  std::vector<Request> repetitive() {
    std::vector<Request> requests;
    const char *prompts[] = {"abcdefghabcdefgh", "xyz.xyz.xyz", "aab",
                             "mnopqrmnopqr",     "z",           "abcabcabc"};
    for (int i = 0; i < 12; ++i) {
      Request request = ask(prompts[i % 6], 3 + 5 * i % 37);
      request.sampling.temperature = i < 6 ? 0.0f : 2.0f;
      request.sampling.seed = static_cast<uint64_t>(i);
      request.sampling.repetitionPenalty = i % 4 == 3 ? 1.5f : 1.0f;
      request.stops = {"klm"};
      request.ignoreEos = i % 2;
      // NaN follows the poison, which is a token like any other.
      request.sampling.logitBias = {{fakePoison, -1000.0f}};
      request.logProbabilities = true;
      requests.push_back(request);
    }
    return requests;
  }
  void expectSameAs(const std::vector<GenerationResult> &expected,
                    const std::vector<Request> &requests) {
    std::vector<GenerationResult> results = *model->generate(requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(results[i].tokens, expected[i].tokens) << i;
      EXPECT_EQ(results[i].text, expected[i].text) << i;
      EXPECT_EQ(results[i].logProbabilities, expected[i].logProbabilities) << i;
      EXPECT_EQ(results[i].reason, expected[i].reason) << i;
    }
  }
  std::shared_ptr<Model> loadDraft(const FakeLimits &limits) {
    draftPackage = std::make_unique<FakePackage>(limits);
    Model::Options options;
    options.threads = 1;
    return Model::load(draftPackage->path(), options).take();
  }

  std::unique_ptr<FakePackage> draftPackage;
};

/// Critical value of the chi-square distribution, upper tail 1e-4
/// (Wilson and Hilferty, 1931).
double chiSquareLimit(double freedom) {
  double z = 3.719, part = 2 / (9 * freedom);
  return freedom * std::pow(1 - part + z * std::sqrt(part), 3);
}
} // namespace

TEST_F(SpeculationTest, LookupLeavesTextsAsTheyAre) {
  FakeLimits limits{/*maxBatch=*/4, /*maxContext=*/64, /*maxStepTokens=*/16};
  open(limits);
  std::vector<Request> requests = repetitive();
  std::vector<GenerationResult> expected = *model->generate(requests);
  for (int64_t gamma : {1, 2, 5, 12})
    for (bool adaptive : {false, true}) {
      open(limits, lookup(gamma, adaptive));
      expectSameAs(expected, requests);
      // One at a time, too: then nearly all of a step is proposals.
      for (size_t i = 0; i < requests.size(); ++i)
        EXPECT_EQ(run(requests[i]).tokens, expected[i].tokens);
      // By measured times adaptive lengths may be 0, on a busy machine always.
      if (!adaptive)
        EXPECT_GT(model->getEngine().getStats().acceptedTokens, 0) << gamma;
    }
}

TEST_F(SpeculationTest, LookupTakesFewerSteps) {
  open({1, 128, 16}, lookup(6));
  Request request = ask("abcdefghijklmnopqrstuvwxyz .abcde", 20);
  GenerationResult result = run(request);
  EXPECT_EQ(result.text, "fghijklmnopqrstuvwxy");
  EXPECT_GE(result.acceptedTokens, 15);
  EXPECT_LE(model->getEngine().getStats().steps, 3 + 4);
}

TEST_F(SpeculationTest, ProposalsThatDontFitInThePagesAreLeftOut) {
  EngineOptions options = lookup(8);
  options.pages = 7;
  FakeLimits limits{/*maxBatch=*/3, /*maxContext=*/64, /*maxStepTokens=*/32};
  open(limits, options);
  std::vector<Request> requests = repetitive();
  std::vector<GenerationResult> expected;
  for (const Request &request : requests)
    expected.push_back(run(request));
  expectSameAs(expected, requests);
  options.speculation.maxTokens = 0;
  open(limits, options);
  expectSameAs(expected, requests);
}

TEST_F(SpeculationTest, DraftModelLeavesTextsAsTheyAre) {
  FakeLimits limits{/*maxBatch=*/4, /*maxContext=*/64, /*maxStepTokens=*/16};
  open(limits);
  std::vector<Request> requests = repetitive();
  std::vector<GenerationResult> expected = *model->generate(requests);
  // A draft of a shorter context and fewer places serves as far as it goes.
  for (FakeLimits draft : {limits, FakeLimits{2, 24, 4}}) {
    EngineOptions options = lookup(4);
    options.speculation.draft = loadDraft(draft);
    open(limits, options);
    expectSameAs(expected, requests);
    EngineStats stats = model->getEngine().getStats();
    EXPECT_GT(stats.acceptedTokens, 0);
    model.reset();
  }
}

TEST_F(SpeculationTest, TheSameModelAsDraftIsAlwaysRight) {
  FakeLimits limits{/*maxBatch=*/2, /*maxContext=*/64, /*maxStepTokens=*/16};
  EngineOptions options = lookup(4);
  options.speculation.draft = loadDraft(limits);
  open(limits, options);
  for (float temperature : {0.0f, 3.0f}) {
    Request request = ask("abc", 41);
    request.ignoreEos = true;
    request.sampling.logitBias = {{fakePoison, -1000.0f}};
    request.sampling.temperature = temperature;
    request.sampling.seed = 11;
    GenerationResult result = run(request);
    EXPECT_EQ(result.tokens.size(), 41u);
    EXPECT_EQ(result.acceptedTokens, result.proposedTokens);
    // 1 from the prompt, then five a step.
    EXPECT_EQ(result.acceptedTokens, 32);
  }
  model.reset();
}

TEST_F(SpeculationTest, AFaultInAStepOfProposalsIsRolledBack) {
  int steps = 0;
  EngineOptions options = lookup(4);
  FakeLimits limits{/*maxBatch=*/3, /*maxContext=*/64, /*maxStepTokens=*/16};
  open(limits);
  std::vector<Request> requests = repetitive();
  std::vector<GenerationResult> expected = *model->generate(requests);
  options.injectFault = [&](const std::vector<int64_t> &numbers) {
    return ++steps % 3 == 0 && numbers.size() > 1
               ? Status(StatusCode::Internal, "a hiccup")
               : Status();
  };
  open(limits, options);
  expectSameAs(expected, requests);
  EXPECT_GT(model->getEngine().getStats().failedSteps, 3);
}

// Drawn texts with proposals follow the model's distribution: the second token
// after a fixed first one, over many seeds, against its softmax.
TEST_F(SpeculationTest, DrawnTokensFollowTheTargetsDistribution) {
  FakeLimits limits{/*maxBatch=*/8, /*maxContext=*/32, /*maxStepTokens=*/32};
  constexpr float temperature = 4;
  constexpr int draws = 6000;
  for (bool hasDraft : {false, true}) {
    EngineOptions options = lookup(3);
    options.speculation.minMatch = 1;
    if (hasDraft)
      options.speculation.draft = loadDraft(limits);
    open(limits, options);
    // What follows a to d came before and is proposed.
    Request request = ask("abcdab", 3);
    request.sampling.temperature = temperature;
    request.ignoreEos = true;
    request.sampling.logitBias = {{fakePoison, -1000.0f}};
    std::vector<Request> requests;
    for (int i = 0; i < draws; ++i) {
      request.sampling.seed = static_cast<uint64_t>(i);
      requests.push_back(request);
    }
    std::vector<GenerationResult> results = *model->generate(requests);
    std::map<int32_t, std::vector<int>> second; // by first token
    int64_t accepted = 0;
    for (const GenerationResult &result : results) {
      auto &counts = second[result.tokens[0]];
      counts.resize(fakeVocabulary);
      ++counts[static_cast<size_t>(result.tokens[1])];
      accepted += result.acceptedTokens;
    }
    EXPECT_GT(accepted, draws / 100) << "proposals come true";
    int tested = 0;
    for (const auto &[first, counts] : second) {
      std::vector<int32_t> context = request.prompt;
      context.push_back(first);
      std::vector<float> logits = fakeLogits(context);
      const float *row = &logits[(context.size() - 1) * fakeVocabulary];
      double sum = 0, total = 0, chiSquare = 0, freedom = -1;
      for (int v = 0; v < fakeVocabulary; ++v) {
        if (v != fakePoison)
          sum += std::exp(static_cast<double>(row[v]) / temperature);
        total += counts[static_cast<size_t>(v)];
      }
      if (total < 200)
        continue;
      double restExpected = 0, restSeen = 0;
      for (int v = 0; v < fakeVocabulary; ++v) {
        double expected =
            v == fakePoison
                ? 0
                : total * std::exp(static_cast<double>(row[v]) / temperature) /
                      sum;
        double seen = counts[static_cast<size_t>(v)];
        if (expected < 5) {
          restExpected += expected;
          restSeen += seen;
          continue;
        }
        chiSquare += (seen - expected) * (seen - expected) / expected;
        ++freedom;
      }
      if (restExpected >= 5) {
        chiSquare += (restSeen - restExpected) * (restSeen - restExpected) /
                     restExpected;
        ++freedom;
      }
      ASSERT_GT(freedom, 0);
      EXPECT_LT(chiSquare, chiSquareLimit(freedom)) << first;
      ++tested;
    }
    EXPECT_GE(tested, 3);
    model.reset();
  }
}

TEST_F(SpeculationTest, RefusesADraftOfAnotherVocabulary) {
  SpeculationOptions options;
  options.maxTokens = 65;
  EXPECT_EQ(options.check().message(),
            "speculated tokens must be from 0 to 64, got 65");
  options.maxTokens = 4;
  options.minMatch = 0;
  EXPECT_EQ(options.check().message(),
            "least match of a prompt lookup must be from 1 to 16, got 0");
  options.minMatch = 5;
  EXPECT_EQ(options.check().message(),
            "largest match of a prompt lookup must be from the least, 5, to "
            "16, got 4");
  options.draft = loadDraft({});
  EXPECT_EQ(createDraftSpeculator(options, 33).status().message(),
            "the draft's vocabulary has 32 entries, the model's 33");
}

// The length of proposals

TEST(ProposalLengthTest, ProposesMoreWhereMoreComesTrue) {
  ProposalLength length(8, /*adaptive=*/true);
  // Rows cost a tenth of a step each.
  for (int64_t rows = 1; rows <= 16; ++rows)
    length.observeStep(rows, 1 + 0.1 * static_cast<double>(rows));
  ProposalLength::Record good, bad;
  for (int i = 0; i < 50; ++i) {
    length.update(good, 4, 4, 5);
    length.update(bad, 1, 0, 1);
  }
  EXPECT_EQ(length.choose({&good}, {8}, 1, 15)[0], 8);
  EXPECT_EQ(length.choose({&bad}, {8}, 1, 15)[0], 0);
  EXPECT_EQ(length.choose({&bad, &good}, {8, 8}, 2, 5),
            (std::vector<int64_t>{0, 5}));
  EXPECT_EQ(bad.pause, 64);
  // A text changes: after a while it is tried again.
  for (int i = 0; i < 300; ++i)
    length.update(bad, 0, 0, 1);
  EXPECT_EQ(bad.pause, 0);
  EXPECT_GT(length.choose({&bad}, {8}, 1, 15)[0], 0);
}

TEST(ProposalLengthTest, ProposesNothingWhereRowsCostAsMuchAsSteps) {
  ProposalLength length(8, /*adaptive=*/true);
  for (int64_t rows = 1; rows <= 16; ++rows)
    length.observeStep(rows, static_cast<double>(rows));
  ProposalLength::Record record;
  EXPECT_EQ(length.choose({&record}, {8}, 1, 15)[0], 0);
  ProposalLength fixed(8, /*adaptive=*/false);
  EXPECT_EQ(fixed.choose({&record}, {8}, 1, 15)[0], 8);
}
