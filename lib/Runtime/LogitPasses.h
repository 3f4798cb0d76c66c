//===- LogitPasses.h - Passes over a vocabulary's logits --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_LOGITPASSES_H
#define QLM_LIB_RUNTIME_LOGITPASSES_H

#include <cstdint>

/// What the sampler does to a whole vocabulary of V floats, each in one pass.
/// The functions use the processor's vectors of 8 floats where it has them;
/// their results are the same bits without: sums are kept in as many lanes
/// everywhere, and nothing is contracted.
namespace qlm::passes {

/// Tokens whose weights are summed up together when one is drawn.
constexpr int64_t kSumBlock = 256;
/// Tokens whose largest logit is looked for together.
constexpr int64_t kMaxBlock = 64;

constexpr int64_t blocksOf(int64_t size, int64_t block) {
  return (size + block - 1) / block;
}

/// The largest logit; NaN when one is NaN. -infinity for no logits.
float findLargest(const float *logits, int64_t size);

/// Index of the first logit that equals \p value, or \p size.
int64_t findEqual(const float *logits, int64_t size, float value);

/// The largest of each kMaxBlock logits: \p largest is
/// float [blocksOf(size, kMaxBlock)].
void findBlockLargest(const float *logits, int64_t size, float *largest);

/// weights[i] = e^((logits[i] - top) * inverse), to 3 units in the last place,
/// 0 below e^-87. No logit may be above \p top, and \p inverse is positive.
/// \p sums is double [blocksOf(size, kSumBlock)], the sum of each block.
void weigh(const float *logits, int64_t size, float top, float inverse,
           float *weights, double *sums);

/// The sums alone, of weights that were changed.
void sumBlocks(const float *weights, int64_t size, double *sums);

/// Sum of e^(logits[i] - top).
double sumOfExponentials(const float *logits, int64_t size, float top);

/// Sets weights[i] to 0 where keys[i] < least, or where it equals \p least and
/// i > \p lastEqual.
void keepAtLeast(const float *keys, int64_t size, float least,
                 int64_t lastEqual, float *weights);

} // namespace qlm::passes

#endif // QLM_LIB_RUNTIME_LOGITPASSES_H
