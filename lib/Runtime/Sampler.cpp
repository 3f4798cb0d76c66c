//===- Sampler.cpp - Chooses the next token -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Sampler.h"

#include "LogitPasses.h"
#include "qlm/Runtime/Request.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

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
  float largest = passes::findLargest(logits, size);
  return std::isfinite(largest) ? passes::findEqual(logits, size, largest) : -1;
}

static float logSumExp(const float *logits, int64_t size, float largest) {
  return largest + static_cast<float>(std::log(
                       passes::sumOfExponentials(logits, size, largest)));
}

/// Sets the weights of all but the k most likely to 0, those of the lower ids
/// kept among equals.
void Sampler::keepTopK(const float *logits) {
  int64_t size = static_cast<int64_t>(weights.size()), k = options.topK;
  if (k == 0 || k >= size)
    return;
  // The k-th largest of the blocks' largest is at most the k-th largest logit:
  // only blocks that reach it hold any of the k.
  float bound = -infinity;
  int64_t blocks = passes::blocksOf(size, passes::kMaxBlock);
  blockLargest.resize(static_cast<size_t>(blocks));
  passes::findBlockLargest(logits, size, blockLargest.data());
  auto kthOf = [k](std::vector<float> &values) {
    auto kth = values.begin() + k - 1;
    std::nth_element(values.begin(), kth, values.end(), std::greater<>());
    return *kth;
  };
  if (k <= blocks) {
    scratch = blockLargest;
    bound = kthOf(scratch);
  }
  scratch.clear();
  for (int64_t block = 0; block < blocks; ++block) {
    if (blockLargest[static_cast<size_t>(block)] < bound)
      continue;
    int64_t end = std::min((block + 1) * passes::kMaxBlock, size);
    for (int64_t i = block * passes::kMaxBlock; i < end; ++i)
      if (logits[i] >= bound)
        scratch.push_back(logits[i]);
  }
  float least = kthOf(scratch);
  auto above = [least](float logit) { return logit > least; };
  int64_t equals =
      k - std::count_if(scratch.begin(), scratch.begin() + k, above);
  int64_t lastEqual = -1;
  for (; equals > 0; --equals) {
    ++lastEqual;
    lastEqual += passes::findEqual(logits + lastEqual, size - lastEqual, least);
  }
  passes::keepAtLeast(logits, size, least, lastEqual, weights.data());
}

/// Puts the candidates that weigh at least \p pivot, equals of lower ids first,
/// before the others and returns their number.
size_t Sampler::partition(size_t begin, size_t end, Candidate pivot) {
  auto first = candidates.begin();
  auto middle = std::partition(
      first + static_cast<int64_t>(begin), first + static_cast<int64_t>(end),
      [pivot](const Candidate &each) { return !pivot.isBefore(each); });
  return static_cast<size_t>(middle - first);
}

/// Sets the weights of all but the fewest that reach top_p of \p total to 0.
void Sampler::keepTopP(double total) {
  if (options.topP >= 1)
    return;
  // All tokens below (1 - p) / n of the total weigh less than 1 - p together:
  // the tokens to keep are among the others. Where there are none in a block,
  // its sum says so.
  size_t size = weights.size();
  float cutoff = static_cast<float>(total * (1 - options.topP) /
                                    static_cast<double>(size));
  candidates.clear();
  for (size_t block = 0; block < blockSums.size(); ++block) {
    if (blockSums[block] < cutoff)
      continue;
    size_t end = std::min((block + 1) * passes::kSumBlock, size);
    for (size_t i = block * passes::kSumBlock; i < end; ++i)
      if (weights[i] >= cutoff && weights[i] > 0)
        candidates.push_back({weights[i], static_cast<int32_t>(i)});
  }
  // Narrows where the sum from the heaviest on reaches the target, halving
  // about what is left each time; only the last few are sorted.
  double target = options.topP * total, sum = 0;
  size_t begin = 0, end = candidates.size();
  while (end - begin > 32) {
    Candidate a = candidates[begin], b = candidates[begin + (end - begin) / 2],
              c = candidates[end - 1];
    Candidate pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    size_t middle = partition(begin, end, pivot);
    double heavier = 0;
    for (size_t i = begin; i < middle; ++i)
      heavier += candidates[i].weight;
    if (sum + heavier >= target) {
      end = middle;
    } else {
      sum += heavier;
      begin = middle;
    }
  }
  std::sort(candidates.begin() + static_cast<int64_t>(begin),
            candidates.begin() + static_cast<int64_t>(end));
  Candidate last = candidates[begin];
  for (size_t i = begin; i < end && (i == begin || sum < target); ++i) {
    last = candidates[i];
    sum += last.weight;
  }
  passes::keepAtLeast(weights.data(), static_cast<int64_t>(size), last.weight,
                      last.token, weights.data());
}

/// Sums up the weights again, in blocks; returns their total.
double Sampler::sumWeights() {
  passes::sumBlocks(weights.data(), static_cast<int64_t>(weights.size()),
                    blockSums.data());
  return std::accumulate(blockSums.begin(), blockSums.end(), 0.0);
}

/// The token at \p point of the weights laid out by id: over the sums of
/// blocks, then inside one.
int32_t Sampler::tokenAt(double point) const {
  constexpr size_t block = passes::kSumBlock;
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
       i < std::min((lastBlock + 1) * block, weights.size()); ++i) {
    if (weights[i] == 0)
      continue;
    last = i;
    point -= weights[i];
    if (point < 0)
      break;
  }
  return static_cast<int32_t>(last);
}

int32_t Sampler::draw(const float *logits, int64_t vocabularySize, float top,
                      uint64_t drawIndex) {
  weights.resize(static_cast<size_t>(vocabularySize));
  blockSums.resize(
      static_cast<size_t>(passes::blocksOf(vocabularySize, passes::kSumBlock)));
  // The most likely token weighs 1.
  passes::weigh(logits, vocabularySize, top, 1 / options.temperature,
                weights.data(), blockSums.data());
  double total = std::accumulate(blockSums.begin(), blockSums.end(), 0.0);
  if (options.topK > 0) {
    keepTopK(logits);
    total = sumWeights();
  }
  if (options.topP < 1) {
    keepTopP(total);
    total = sumWeights();
  }
  if (options.minP > 0) {
    passes::keepAtLeast(weights.data(), vocabularySize, options.minP,
                        vocabularySize, weights.data());
    total = sumWeights();
  }
  return tokenAt(uniformAt(options.seed, drawIndex) * total);
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
      if (logits[i] <= list.front().logProbability)
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
    if (ask.top > 0)
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
