//===- Sampler.cpp - Chooses the next token -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Sampler.h"

#include "qlm/Runtime/Request.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

using namespace qlm;

static constexpr float infinity = std::numeric_limits<float>::infinity();

Status SamplingOptions::check(int64_t vocabularySize) const {
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
  if (!(std::fabs(frequencyPenalty) <= 100))
    return error("frequency_penalty must be from -100 to 100",
                 frequencyPenalty);
  if (!(std::fabs(presencePenalty) <= 100))
    return error("presence_penalty must be from -100 to 100", presencePenalty);
  for (auto [token, bias] : logitBias) {
    if (token < 0 || token >= vocabularySize)
      return Status(StatusCode::InvalidArgument,
                    "token id of a logit bias must be from 0 to " +
                        std::to_string(vocabularySize - 1) + ", got " +
                        std::to_string(token));
    if (!(std::fabs(bias) <= 1000))
      return error("logit bias must be from -1000 to 1000", bias);
  }
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

uint64_t qlm::choiceSeed(uint64_t seed, int64_t choice) {
  return choice == 0 ? seed : mix(seed ^ mix(static_cast<uint64_t>(choice)));
}

/// e^x for x <= 0, to 3 units in the last place; 0 below -87, NaN for NaN.
/// Free of branches and calls, so that compilers make vectors of it, and the
/// same on every machine: 2^n * 2^f with the Taylor polynomial of 2^f.
static inline float expOf(float x) {
  constexpr float log2e = 1.44269504f, shift = 12582912.0f; // 1.5 * 2^23
  float clamped = x < -87.0f ? -87.0f : x;
  float whole = (clamped * log2e + shift) - shift;
  // ln 2 in two parts keeps the remainder exact (Cody and Waite, 1980).
  float f = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float power = 1.9875691500e-4f;
  power = power * f + 1.3981999507e-3f;
  power = power * f + 8.3334519073e-3f;
  power = power * f + 4.1665795894e-2f;
  power = power * f + 1.6666665459e-1f;
  power = power * f + 5.0000001201e-1f;
  power = power * f * f + f + 1.0f;
  int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return x < -87.0f ? 0.0f : power * scale;
}

void Sampler::see(int32_t token, bool isPrompt) {
  bool counts = options.frequencyPenalty != 0 || options.presencePenalty != 0;
  if (options.repetitionPenalty == 1 && (isPrompt || !counts))
    return;
  seen[token].inText += isPrompt ? 0 : 1;
}

/// Adds biases and penalties; restore() takes them away again.
void Sampler::adjust(float *logits) {
  beforeBias.clear();
  for (auto [token, bias] : options.logitBias) {
    beforeBias.push_back(logits[token]);
    logits[token] += bias;
  }
  for (auto &[token, count] : seen) {
    float &logit = logits[token];
    count.before = logit;
    logit = logit > 0 ? logit / options.repetitionPenalty
                      : logit * options.repetitionPenalty;
    logit -= static_cast<float>(count.inText) * options.frequencyPenalty;
    if (count.inText)
      logit -= options.presencePenalty;
  }
}

void Sampler::restore(float *logits) const {
  for (const auto &[token, count] : seen)
    logits[token] = count.before;
  for (size_t i = options.logitBias.size(); i-- > 0;)
    logits[options.logitBias[i].first] = beforeBias[i];
}

/// Index of the largest logit, the lowest among equals, or -1 when one is not
/// a number or none is finite.
static int64_t findLargest(const float *logits, int64_t size) {
  // Eight running maxima are two vectors' lanes. A difference to itself is NaN
  // for NaN, and for an infinity, which is looked at below.
  constexpr int lanes = 8;
  float top[lanes], odd[lanes] = {};
  std::fill_n(top, lanes, -infinity);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) {
      float logit = logits[i + lane];
      top[lane] = logit > top[lane] ? logit : top[lane];
      odd[lane] += logit - logit;
    }
  float best = -infinity, strange = 0;
  for (; i < size; ++i) {
    best = std::max(best, logits[i]);
    strange += logits[i] - logits[i];
  }
  for (int lane = 0; lane < lanes; ++lane) {
    best = std::max(best, top[lane]);
    strange += odd[lane];
  }
  if (!std::isfinite(best))
    return -1;
  if (strange != 0 &&
      std::any_of(logits, logits + size, [](float x) { return x != x; }))
    return -1;
  return std::find(logits, logits + size, best) - logits;
}

static float logSumExp(const float *logits, int64_t size, float largest) {
  constexpr int lanes = 8;
  double total = 0;
  // Sums of 4096 floats, added up as doubles.
  for (int64_t begin = 0; begin < size; begin += 4096) {
    int64_t end = std::min<int64_t>(begin + 4096, size), i = begin;
    float sum[lanes] = {};
    for (; i + lanes <= end; i += lanes)
      for (int lane = 0; lane < lanes; ++lane)
        sum[lane] += expOf(logits[i + lane] - largest);
    for (; i < end; ++i)
      total += expOf(logits[i] - largest);
    for (float part : sum)
      total += part;
  }
  return largest + static_cast<float>(std::log(total));
}

/// Sets the weights of all but the k most likely to 0, those of the lower ids
/// kept among equals.
void Sampler::keepTopK(const float *logits) {
  size_t size = weights.size(), k = static_cast<size_t>(options.topK);
  if (k == 0 || k >= size)
    return;
  scratch.assign(logits, logits + size);
  auto last = scratch.begin() + static_cast<int64_t>(k) - 1;
  std::nth_element(scratch.begin(), last, scratch.end(), std::greater<>());
  float least = *last;
  int64_t equals = 1 + std::count(scratch.begin(), last, least);
  for (size_t i = 0; i < size; ++i)
    if (logits[i] < least || (logits[i] == least && equals-- <= 0))
      weights[i] = 0;
}

/// Sets the weights of all but the fewest that reach top_p to 0.
void Sampler::keepTopP() {
  if (options.topP >= 1)
    return;
  double total = 0;
  for (float weight : weights)
    total += weight;
  // All tokens below (1 - p) / n of the total weigh less than 1 - p together:
  // the tokens to keep are among the others, and only those are sorted.
  float cutoff = static_cast<float>(total * (1 - options.topP) /
                                    static_cast<double>(weights.size()));
  candidates.clear();
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i] >= cutoff && weights[i] > 0)
      candidates.push_back({weights[i], static_cast<int32_t>(i)});
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate &a, const Candidate &b) {
              return a.weight != b.weight ? a.weight > b.weight
                                          : a.token < b.token;
            });
  std::fill(weights.begin(), weights.end(), 0.0f);
  double sum = 0;
  size_t kept = 0;
  do
    weights[static_cast<size_t>(candidates[kept].token)] =
        candidates[kept].weight;
  while (sum += candidates[kept].weight,
         ++kept < candidates.size() && sum < options.topP * total);
}

int32_t Sampler::draw(const float *logits, int64_t vocabularySize, float top,
                      uint64_t drawIndex) {
  size_t size = static_cast<size_t>(vocabularySize);
  weights.resize(size);
  float inverse = 1 / options.temperature;
  // The most likely token weighs 1.
  for (size_t i = 0; i < size; ++i)
    weights[i] = expOf((logits[i] - top) * inverse);
  keepTopK(logits);
  keepTopP();
  if (options.minP > 0)
    for (float &weight : weights)
      weight = weight < options.minP ? 0.0f : weight;
  // The draw walks by id: over sums of blocks, then inside one.
  constexpr size_t block = 256;
  double sums[2] = {}, total = 0;
  blockSums.clear();
  for (size_t begin = 0; begin < size; begin += block) {
    size_t end = std::min(begin + block, size), i = begin;
    for (sums[0] = sums[1] = 0; i + 2 <= end; i += 2) {
      sums[0] += weights[i];
      sums[1] += weights[i + 1];
    }
    blockSums.push_back(sums[0] + sums[1] + (i < end ? weights[i] : 0));
    total += blockSums.back();
  }
  double point = uniformAt(options.seed, drawIndex) * total;
  size_t which = 0, lastBlock = 0;
  for (; which < blockSums.size(); ++which) {
    if (blockSums[which] == 0)
      continue;
    lastBlock = which;
    if (point < blockSums[which])
      break;
    point -= blockSums[which];
  }
  // Rounding may leave the point behind the last token that weighs anything.
  size_t last = 0;
  for (size_t i = lastBlock * block;
       i < std::min((lastBlock + 1) * block, size); ++i) {
    if (weights[i] == 0)
      continue;
    last = i;
    point -= weights[i];
    if (point < 0)
      break;
  }
  return static_cast<int32_t>(last);
}

/// The token for adjusted logits, or -1.
int32_t Sampler::choose(float *logits, int64_t vocabularySize,
                        uint64_t drawIndex) {
  int64_t best = findLargest(logits, vocabularySize);
  if (best < 0 || options.temperature == 0)
    return static_cast<int32_t>(best);
  return draw(logits, vocabularySize, logits[best], drawIndex);
}

/// The \p count most likely tokens.
static std::vector<TokenProbability> listTop(const float *logits, int64_t size,
                                             int64_t count, float normalizer) {
  std::vector<TokenProbability> list;
  auto isLess = [](const TokenProbability &a, const TokenProbability &b) {
    return a.logProbability != b.logProbability
               ? a.logProbability > b.logProbability
               : a.token < b.token;
  };
  // A heap of the best so far, the least of them in front.
  for (int64_t i = 0; i < size; ++i) {
    if (static_cast<int64_t>(list.size()) == count) {
      if (count == 0 || logits[i] <= list.front().logProbability)
        continue;
      std::pop_heap(list.begin(), list.end(), isLess);
      list.pop_back();
    }
    list.push_back({static_cast<int32_t>(i), logits[i]});
    std::push_heap(list.begin(), list.end(), isLess);
  }
  std::sort_heap(list.begin(), list.end(), isLess);
  for (TokenProbability &entry : list)
    entry.logProbability -= normalizer;
  return list;
}

Result<SampledToken> Sampler::sample(float *logits, int64_t vocabularySize,
                                     const Ask &ask) {
  SampledToken sampled;
  float normalizer = 0;
  if (ask.logProbability || ask.top > 0) {
    // The probabilities are the model's own, before mask, bias and penalties.
    int64_t best = findLargest(logits, vocabularySize);
    if (best < 0)
      return Status(StatusCode::Internal,
                    "the model's logits are not finite numbers");
    normalizer = logSumExp(logits, vocabularySize, logits[best]);
    sampled.top = listTop(logits, vocabularySize, ask.top, normalizer);
  }
  if (ask.mask) {
    if (findLargest(logits, vocabularySize) < 0)
      return Status(StatusCode::Internal,
                    "the model's logits are not finite numbers");
    bool allowsAny = false;
    for (int64_t i = 0; i < vocabularySize; ++i) {
      bool allowed = ask.mask[i / 32] >> (i % 32) & 1;
      allowsAny |= allowed;
      logits[i] = allowed ? logits[i] : -infinity;
    }
    if (!allowsAny)
      return Status(StatusCode::InvalidArgument,
                    "the token mask allows no token");
  }
  adjust(logits);
  sampled.token = choose(logits, vocabularySize, draws);
  restore(logits);
  if (sampled.token < 0)
    return Status(StatusCode::Internal,
                  "the model's logits are not finite numbers");
  ++draws;
  sampled.logProbability = logits[sampled.token] - normalizer;
  return sampled;
}

double Sampler::uniform(int64_t ahead) const {
  return uniformAt(options.seed, draws + static_cast<uint64_t>(ahead));
}

int32_t Sampler::guess(float *logits, int64_t vocabularySize, int64_t ahead) {
  adjust(logits);
  int32_t token =
      choose(logits, vocabularySize, draws + static_cast<uint64_t>(ahead));
  restore(logits);
  return token;
}
