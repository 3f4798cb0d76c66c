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
#include <unordered_set>
#include <vector>

namespace qlm {

/// How a request's tokens are chosen. Applied in this order: repetition
/// penalty, temperature, top-k, top-p, min-p, draw.
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

  /// Errors: InvalidArgument, naming the option, its range and the value.
  Status check() const;
};

/// A chosen token.
struct SampledToken {
  int32_t token = 0;
  /// Logarithm of its probability in the model's own distribution.
  float logProbability = 0;
};

/// Samples the tokens of one request. The i-th draw depends on the seed and on
/// i alone, so a request's text doesn't depend on what runs beside it.
class Sampler {
public:
  explicit Sampler(const SamplingOptions &options) : options(options) {}

  /// Counts \p token as seen, for the repetition penalty.
  void see(int32_t token);

  /// Chooses the next token by \p logits, float32 [\p vocabularySize], which
  /// are changed. Errors: Internal when a logit is not a number or none is
  /// finite.
  Result<SampledToken> sample(float *logits, int64_t vocabularySize);

private:
  struct Candidate {
    float weight; ///< logit, then probability over the most likely one's
    int32_t token;
  };
  void penalize(float *logits) const;
  int32_t draw(const float *logits, int64_t vocabularySize, float top);
  void keepTopK();
  void keepTopP();

  SamplingOptions options;
  std::unordered_set<int32_t> seen;
  std::vector<Candidate> candidates;
  uint64_t draws = 0;
};

/// A number in [0, 1) that depends on \p seed and \p counter alone.
double uniformAt(uint64_t seed, uint64_t counter);

} // namespace qlm

#endif // QLM_RUNTIME_SAMPLER_H
