//===- Sampler.cpp - Chooses the next token -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Sampler.h"

#include <algorithm>
#include <cmath>

using namespace qlm;

Status SamplingOptions::check() const {
  auto error = [](const std::string &what, double value) {
    return Status(StatusCode::InvalidArgument,
                  what + ", got " + std::to_string(value));
  };
  if (!(temperature >= 0 && temperature <= 100))
    return error("temperature must be from 0 to 100", temperature);
  if (topK < 0)
    return error("top_k must not be negative", static_cast<double>(topK));
  if (!(topP > 0 && topP <= 1))
    return error("top_p must be above 0 and at most 1", topP);
  if (!(minP >= 0 && minP <= 1))
    return error("min_p must be from 0 to 1", minP);
  if (!(repetitionPenalty > 0 && repetitionPenalty <= 100))
    return error("repetition_penalty must be above 0 and at most 100",
                 repetitionPenalty);
  return Status();
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable
/// pseudorandom number generators", 2014).
static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

double qlm::uniformAt(uint64_t seed, uint64_t counter) {
  constexpr uint64_t golden = 0x9e3779b97f4a7c15ull;
  uint64_t bits = mix(mix(seed + golden) + (counter + 1) * golden);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

void Sampler::see(int32_t token) {
  if (options.repetitionPenalty != 1)
    seen.insert(token);
}

void Sampler::penalize(float *logits) const {
  for (int32_t token : seen) {
    float &logit = logits[token];
    logit = logit > 0 ? logit / options.repetitionPenalty
                      : logit * options.repetitionPenalty;
  }
}

/// Index of the largest logit, the lowest among equals, or -1 when one is not
/// a number or none is finite.
static int64_t findLargest(const float *logits, int64_t size) {
  int64_t best = 0;
  bool isNumber = true;
  for (int64_t i = 0; i < size; ++i) {
    isNumber &= logits[i] == logits[i];
    if (logits[i] > logits[best])
      best = i;
  }
  return isNumber && std::isfinite(logits[best]) ? best : -1;
}

static float logSumExp(const float *logits, int64_t size, float largest) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i)
    sum += std::exp(logits[i] - largest);
  return largest + static_cast<float>(std::log(sum));
}

/// More likely first, the lower id among equals.
template <typename T> static bool isLikelier(const T &a, const T &b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

void Sampler::keepTopK() {
  if (options.topK == 0 ||
      options.topK >= static_cast<int64_t>(candidates.size()))
    return;
  std::nth_element(candidates.begin(), candidates.begin() + options.topK,
                   candidates.end(), isLikelier<Candidate>);
  candidates.resize(static_cast<size_t>(options.topK));
}

void Sampler::keepTopP() {
  if (options.topP >= 1)
    return;
  double total = 0;
  for (const Candidate &candidate : candidates)
    total += candidate.weight;
  // All tokens below (1 - p) / n of the total weigh less than 1 - p together:
  // the tokens to keep are among the others, and only those are sorted.
  double cutoff =
      total * (1 - options.topP) / static_cast<double>(candidates.size());
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [&](const Candidate &candidate) {
                                    return candidate.weight < cutoff;
                                  }),
                   candidates.end());
  std::sort(candidates.begin(), candidates.end(), isLikelier<Candidate>);
  double sum = 0;
  size_t kept = 0;
  while (kept < candidates.size() && sum < options.topP * total)
    sum += candidates[kept++].weight;
  candidates.resize(std::max<size_t>(kept, 1));
}

int32_t Sampler::draw(const float *logits, int64_t vocabularySize, float top) {
  candidates.clear();
  for (int64_t i = 0; i < vocabularySize; ++i)
    candidates.push_back({logits[i], static_cast<int32_t>(i)});
  keepTopK();
  for (Candidate &candidate : candidates)
    candidate.weight = std::exp((candidate.weight - top) / options.temperature);
  keepTopP();
  double total = 0;
  for (Candidate &candidate : candidates) {
    // The most likely token weighs 1.
    if (candidate.weight < options.minP)
      candidate.weight = 0;
    total += candidate.weight;
  }
  // Whatever order selection left, the draw walks by id.
  std::sort(
      candidates.begin(), candidates.end(),
      [](const Candidate &a, const Candidate &b) { return a.token < b.token; });
  double point = uniformAt(options.seed, draws++) * total;
  int32_t last = 0;
  for (const Candidate &candidate : candidates) {
    if (candidate.weight == 0)
      continue;
    last = candidate.token;
    point -= candidate.weight;
    if (point < 0)
      break;
  }
  return last;
}

Result<SampledToken> Sampler::sample(float *logits, int64_t vocabularySize) {
  int64_t best = findLargest(logits, vocabularySize);
  if (best < 0)
    return Status(StatusCode::Internal,
                  "the model's logits are not finite numbers");
  float normalizer = logSumExp(logits, vocabularySize, logits[best]);
  SampledToken sampled;
  // The penalty changes logits in place; the probability is the model's own.
  std::vector<std::pair<int32_t, float>> before;
  for (int32_t token : seen)
    before.emplace_back(token, logits[token]);
  penalize(logits);
  if (!seen.empty())
    best = findLargest(logits, vocabularySize);
  sampled.token = options.temperature == 0
                      ? static_cast<int32_t>(best)
                      : draw(logits, vocabularySize, logits[best]);
  for (auto [token, logit] : before)
    logits[token] = logit;
  sampled.logProbability = logits[sampled.token] - normalizer;
  return sampled;
}
