//===- Sampler.h - Chooses the next token -----------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_SAMPLER_H
#define QLM_RUNTIME_SAMPLER_H

#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace qlm {

/// How a request's tokens are chosen. Applied in this order: token mask, logit
/// bias, the penalties, temperature, top-k, top-p, min-p, draw.
struct SamplingOptions {
  /// 0 takes the most likely token (the lowest id among equals), and top-k,
  /// top-p, min-p and seed have no effect.
  float temperature = 0;
  int64_t topK = 0; ///< keep the k most likely tokens; 0 keeps all
  float topP = 1;   ///< keep the fewest tokens whose probabilities reach this
  float minP = 0;   ///< drop tokens below this part of the most likely one's
  /// Divides positive and multiplies negative logits of tokens that the prompt
  /// or the text so far holds (Keskar et al., CTRL, 2019, section 4.1).
  float repetitionPenalty = 1;
  uint64_t seed = 0;
  /// Subtracted from a token's logit for each time that the text, without the
  /// prompt, holds it.
  float frequencyPenalty = 0;
  /// Subtracted once from the logits of tokens that the text holds.
  float presencePenalty = 0;
  /// Added to the logits of these tokens.
  std::vector<std::pair<int32_t, float>> logitBias;

  /// Errors: InvalidArgument, naming the option, its range and the value; for
  /// a bias also when its token is not below \p vocabularySize.
  Status check(int64_t vocabularySize = INT32_MAX) const;
};

/// A token and the logarithm of its probability in the model's own
/// distribution.
struct TokenProbability {
  int32_t token = 0;
  float logProbability = 0;
};

/// A chosen token; the probabilities are set when asked for.
struct SampledToken {
  int32_t token = 0;
  float logProbability = 0;
  std::vector<TokenProbability> top; ///< most likely first
};

/// Samples the tokens of one request. The i-th draw depends on the logits, the
/// seed and i alone, so a request's text doesn't depend on what runs beside it
/// or on what was proposed for it.
class Sampler {
public:
  /// What to tell with a token, and which are allowed.
  struct Ask {
    bool logProbability = true;
    int64_t top = 0;                ///< most likely tokens to list
    const uint32_t *mask = nullptr; ///< a bit a token, or null: all
  };

  explicit Sampler(SamplingOptions options) : options(std::move(options)) {}

  /// Counts \p token of the text, or of the prompt, for the penalties.
  void see(int32_t token, bool isPrompt = false);

  /// Chooses the next token by \p logits, float32 [\p vocabularySize], which
  /// are changed. Errors: Internal when a logit is not a number or none is
  /// finite; InvalidArgument when the mask allows none.
  Result<SampledToken> sample(float *logits, int64_t vocabularySize,
                              const Ask &ask);
  Result<SampledToken> sample(float *logits, int64_t vocabularySize) {
    return sample(logits, vocabularySize, Ask());
  }

  /// What a device needs to choose the token \p ahead tokens from now.
  const SamplingOptions &getOptions() const { return options; }
  double uniform(int64_t ahead) const;
  /// Counts a draw that a device made.
  void countDraw() { ++draws; }

  /// The token that sample() would choose \p ahead tokens later if these were
  /// the logits then, or -1 if none can be chosen. Counts nothing.
  int32_t guess(float *logits, int64_t vocabularySize, int64_t ahead);

private:
  struct Candidate {
    float weight; ///< probability over the most likely one's
    int32_t token;
    /// The heavier first, the lower id among equals.
    bool isBefore(const Candidate &other) const {
      return weight != other.weight ? weight > other.weight
                                    : token < other.token;
    }
    bool operator<(const Candidate &other) const { return isBefore(other); }
  };
  /// How often a token was seen.
  struct Count {
    int32_t inText = 0;
    float before = 0; ///< its logit before the penalties
  };
  void adjust(float *logits);
  void restore(float *logits) const;
  int32_t choose(float *logits, int64_t vocabularySize, uint64_t drawIndex);
  int32_t draw(const float *logits, int64_t vocabularySize, float top,
               uint64_t drawIndex);
  void keepTopK(const float *logits);
  void keepTopP(double total);
  size_t partition(size_t begin, size_t end, Candidate pivot);
  double sumWeights();
  int32_t tokenAt(double point) const;

  SamplingOptions options;
  std::unordered_map<int32_t, Count> seen;
  std::vector<float> beforeBias;
  // Kept for their memory.
  std::vector<float> weights, scratch, blockLargest;
  std::vector<double> blockSums;
  std::vector<Candidate> candidates;
  uint64_t draws = 0;
};

/// A number in [0, 1) that depends on \p seed and \p counter alone.
double uniformAt(uint64_t seed, uint64_t counter);

} // namespace qlm

#endif // QLM_RUNTIME_SAMPLER_H
