//===- SamplerTest.cpp - Draws follow the distribution asked for ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Sampler.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

using namespace qlm;

static const std::vector<float> someLogits = {1.0f, 3.0f, -2.0f, 2.5f, 0.0f};

/// How often each token is drawn.
static std::map<int32_t, double> frequencies(const SamplingOptions &options,
                                             int draws = 20000) {
  Sampler sampler(options);
  std::map<int32_t, double> counts;
  for (int i = 0; i < draws; ++i) {
    std::vector<float> logits = someLogits;
    counts[sampler.sample(logits.data(), 5)->token] += 1.0 / draws;
  }
  return counts;
}

/// Probabilities of the softmax at temperature 1 over \p tokens alone.
static std::map<int32_t, double> softmax(const std::vector<int32_t> &tokens) {
  std::map<int32_t, double> result;
  double sum = 0;
  for (int32_t token : tokens)
    sum += std::exp(someLogits[token]);
  for (int32_t token : tokens)
    result[token] = std::exp(someLogits[token]) / sum;
  return result;
}

static void expectNear(const std::map<int32_t, double> &actual,
                       const std::map<int32_t, double> &expected) {
  // Four standard deviations of 20000 draws at probability 1/2.
  constexpr double tolerance = 0.015;
  ASSERT_EQ(actual.size(), expected.size());
  for (auto [token, probability] : expected)
    EXPECT_NEAR(actual.count(token) ? actual.at(token) : 0, probability,
                tolerance)
        << token;
}

TEST(SamplerTest, GreedyTakesTheLowestIdAmongEquals) {
  Sampler sampler({});
  std::vector<float> logits = {1, 4, 4, 0};
  EXPECT_EQ(sampler.sample(logits.data(), 4)->token, 1);
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  SamplingOptions options;
  options.temperature = 1;
  expectNear(frequencies(options), softmax({0, 1, 2, 3, 4}));
}

TEST(SamplerTest, TopKKeepsTheMostLikely) {
  SamplingOptions options;
  options.temperature = 1;
  options.topK = 2;
  expectNear(frequencies(options), softmax({1, 3}));
  options.topK = 100;
  expectNear(frequencies(options), softmax({0, 1, 2, 3, 4}));
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachIt) {
  SamplingOptions options;
  options.temperature = 1;
  // Probabilities are 0.55, 0.33, 0.07, 0.03, 0.004.
  options.topP = 0.5f;
  expectNear(frequencies(options), softmax({1}));
  options.topP = 0.8f;
  expectNear(frequencies(options), softmax({1, 3}));
  options.topP = 0.93f;
  expectNear(frequencies(options), softmax({0, 1, 3}));
}

TEST(SamplerTest, MinPDropsThoseFarBelowTheBest) {
  SamplingOptions options;
  options.temperature = 1;
  options.minP = 0.5f;
  expectNear(frequencies(options), softmax({1, 3}));
}

TEST(SamplerTest, LowTemperatureIsAlmostGreedy) {
  SamplingOptions options;
  options.temperature = 0.01f;
  EXPECT_EQ(frequencies(options, 1000).count(1), 1u);
  EXPECT_EQ(frequencies(options, 1000).size(), 1u);
}

TEST(SamplerTest, DrawsDependOnTheSeedAlone) {
  auto draw = [](uint64_t seed) {
    SamplingOptions options;
    options.temperature = 1;
    options.seed = seed;
    Sampler sampler(options);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 50; ++i) {
      std::vector<float> logits = someLogits;
      tokens.push_back(sampler.sample(logits.data(), 5)->token);
    }
    return tokens;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
}

TEST(SamplerTest, RepetitionPenaltyDividesOrMultiplies) {
  SamplingOptions options;
  options.repetitionPenalty = 2;
  Sampler sampler(options);
  std::vector<float> logits = {-1, 3, -1.5f, 2.5f, -9};
  EXPECT_EQ(sampler.sample(logits.data(), 5)->token, 1);
  sampler.see(1);
  EXPECT_EQ(sampler.sample(logits.data(), 5)->token, 3) << "3 / 2 < 2.5";
  std::vector<float> negative = {-1, -1.5f, -9};
  Sampler other(options);
  other.see(0);
  EXPECT_EQ(other.sample(negative.data(), 3)->token, 1) << "-1 * 2 < -1.5";
}

TEST(SamplerTest, LogProbabilityIsTheModelsOwn) {
  SamplingOptions options;
  options.temperature = 0.5f;
  options.topK = 1;
  Sampler sampler(options);
  std::vector<float> logits = someLogits;
  Result<SampledToken> sampled = sampler.sample(logits.data(), 5);
  EXPECT_NEAR(sampled->logProbability, std::log(softmax({0, 1, 2, 3, 4})[1]),
              1e-5);
}

TEST(SamplerTest, RefusesLogitsThatAreNotNumbers) {
  Sampler sampler({});
  float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> nan = {1, NAN, 2}, none(3, -infinity),
                     top = {1, infinity, 2}, some = {1, -infinity, 2};
  EXPECT_FALSE(sampler.sample(nan.data(), 3).ok());
  EXPECT_FALSE(sampler.sample(none.data(), 3).ok());
  EXPECT_FALSE(sampler.sample(top.data(), 3).ok());
  EXPECT_EQ(sampler.sample(some.data(), 3)->token, 2);
}

TEST(SamplerTest, ChecksOptions) {
  auto message = [](auto change) {
    SamplingOptions options;
    change(options);
    return options.check().message();
  };
  EXPECT_EQ(message([](auto &) {}), "");
  EXPECT_EQ(message([](auto &o) { o.temperature = NAN; }),
            "temperature must be from 0 to 100, got nan");
  EXPECT_EQ(message([](auto &o) { o.topK = -1; }),
            "top_k must not be negative, got -1.000000");
  EXPECT_EQ(message([](auto &o) { o.topP = 0; }),
            "top_p must be above 0 and at most 1, got 0.000000");
  EXPECT_EQ(message([](auto &o) { o.minP = 2; }),
            "min_p must be from 0 to 1, got 2.000000");
  EXPECT_EQ(message([](auto &o) { o.repetitionPenalty = 0; }),
            "repetition_penalty must be above 0 and at most 100, got 0.000000");
}

TEST(SamplerTest, TopKKeepsTheLowerIdsAmongEquals) {
  SamplingOptions options;
  options.temperature = 1;
  options.topK = 3;
  Sampler sampler(options);
  std::map<int32_t, int> counts;
  for (int i = 0; i < 2000; ++i) {
    std::vector<float> logits = {2, 0, 2, 3, 2, 2};
    ++counts[sampler.sample(logits.data(), 6)->token];
  }
  EXPECT_EQ(counts.size(), 3u);
  EXPECT_TRUE(counts.count(0) && counts.count(2) && counts.count(3));
}

TEST(SamplerTest, DrawsFromLargeVocabularies) {
  // Probability by thousands of tokens, whose blocks and walk must agree.
  constexpr int size = 5003, groups = 7, draws = 30000;
  SamplingOptions options;
  options.temperature = 0.7f;
  Sampler sampler(options);
  std::vector<float> logits(size);
  std::vector<double> expected(groups), counts(groups);
  double sum = 0;
  for (int i = 0; i < size; ++i) {
    logits[i] = std::sin(static_cast<float>(i)) * 2;
    double weight = std::exp(static_cast<double>(logits[i]) / 0.7);
    expected[i * groups / size] += weight;
    sum += weight;
  }
  for (int i = 0; i < draws; ++i)
    counts[sampler.sample(logits.data(), size)->token * groups / size] += 1;
  double chiSquare = 0;
  for (int i = 0; i < groups; ++i) {
    double wanted = draws * expected[i] / sum;
    chiSquare += (counts[i] - wanted) * (counts[i] - wanted) / wanted;
  }
  EXPECT_LT(chiSquare, 27.9) << "six degrees of freedom, upper tail 1e-4";
}

TEST(SamplerTest, PenaltiesCountTheTextAndNotThePrompt) {
  SamplingOptions options;
  options.frequencyPenalty = 0.5f;
  options.presencePenalty = 0.25f;
  Sampler sampler(options);
  sampler.see(0, /*isPrompt=*/true);
  std::vector<float> logits = {2, 1.9f, 1.6f};
  EXPECT_EQ(sampler.sample(logits.data(), 3)->token, 0);
  sampler.see(0);
  EXPECT_EQ(sampler.sample(logits.data(), 3)->token, 1) << "2 - 0.75 < 1.9";
  sampler.see(1);
  EXPECT_EQ(sampler.sample(logits.data(), 3)->token, 2);
  sampler.see(2);
  sampler.see(2);
  EXPECT_EQ(sampler.sample(logits.data(), 3)->token, 0) << "1.25, 1.15, 0.35";
  EXPECT_EQ(logits, (std::vector<float>{2, 1.9f, 1.6f})) << "as they were";
}

TEST(SamplerTest, BiasesMoveLogits) {
  SamplingOptions options;
  options.logitBias = {{2, 3.0f}, {0, -100.0f}, {2, 0.5f}};
  Sampler sampler(options);
  std::vector<float> logits = {3, 1, -2};
  Result<SampledToken> sampled = sampler.sample(logits.data(), 3);
  EXPECT_EQ(sampled->token, 2) << "-2 + 3 + 0.5 > 1";
  EXPECT_EQ(logits, (std::vector<float>{3, 1, -2})) << "as they were";
  double sum = std::exp(3.0) + std::exp(1.0) + std::exp(-2.0);
  EXPECT_NEAR(sampled->logProbability, -2 - std::log(sum), 1e-5);
}

TEST(SamplerTest, GuessesWhatWillBeDrawn) {
  SamplingOptions options;
  options.temperature = 1.5f;
  options.seed = 9;
  Sampler sampler(options), other(options);
  std::vector<int32_t> guesses;
  std::vector<float> logits = someLogits;
  for (int i = 0; i < 20; ++i)
    guesses.push_back(other.guess(logits.data(), 5, i));
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(sampler.sample(logits.data(), 5)->token, guesses[i]) << i;
}

namespace {
/// What is drawn, from the definition: one sort, sums in double precision.
class Definition {
public:
  Definition(const SamplingOptions &options, const std::vector<float> &logits)
      : weights(logits.size()) {
    std::vector<size_t> order(logits.size());
    std::iota(order.begin(), order.end(), size_t(0));
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    size_t kept = order.size();
    if (options.topK > 0)
      kept = std::min(kept, static_cast<size_t>(options.topK));
    auto weightOf = [&](size_t i) {
      return std::exp((double(logits[i]) - logits[order[0]]) /
                      options.temperature);
    };
    double all = 0, sum = 0;
    for (size_t i = 0; i < kept; ++i)
      all += weightOf(order[i]);
    for (size_t i = 0; i < kept && (i == 0 || sum < options.topP * all); ++i) {
      sum += weights[order[i]] = weightOf(order[i]);
      least = weightOf(order[i]);
    }
    for (double &weight : weights)
      weight = weight < options.minP ? 0 : weight;
    total = std::accumulate(weights.begin(), weights.end(), 0.0);
  }

  /// Whether \p token is the one at the part \p uniform of all, or lies within
  /// rounding of it.
  bool allows(int32_t token, double uniform) const {
    double before =
               std::accumulate(weights.begin(), weights.begin() + token, 0.0),
           point = uniform * total, slack = 1e-5 * total;
    return weights[token] > 0 && before - slack <= point &&
           point <= before + weights[token] + slack;
  }
  std::vector<double> weights;
  double total = 0, least = 0;
};
} // namespace

TEST(SamplerTest, AgreesWithTheDefinition) {
  std::mt19937 random(7);
  // One, odd, one past a vector, a block of maxima, a block of sums; a real
  // one.
  for (int size : {1, 2, 7, 33, 65, 257, 1031, 5003})
    for (float deviation : {0.2f, 1.0f, 5.0f})
      for (int64_t topK : {0, 1, 5, 40, 1000})
        for (float topP : {1.0f, 0.999f, 0.9f, 0.3f, 1e-6f})
          for (float minP : {0.0f, 0.1f}) {
            SamplingOptions options;
            options.temperature = 0.8f;
            options.topK = topK;
            options.topP = topP;
            options.minP = minP;
            options.seed = random();
            std::normal_distribution<float> normal(0, deviation);
            std::vector<float> logits(size);
            for (float &logit : logits)
              logit = normal(random);
            // A masked token, and equals at the top.
            if (size > 40)
              logits[random() % size] = -INFINITY, logits[3] = logits[30] =
                                                       logits[size - 1] =
                                                           2 * deviation;
            Definition definition(options, logits);
            Sampler sampler(options);
            for (int draw = 0; draw < 3; ++draw) {
              int32_t token = sampler.sample(logits.data(), size)->token;
              EXPECT_TRUE(
                  definition.allows(token, uniformAt(options.seed, draw)))
                  << size << " tokens, top_k " << topK << ", top_p " << topP
                  << ", min_p " << minP << ", got " << token;
            }
          }
}
