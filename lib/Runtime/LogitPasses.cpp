//===- LogitPasses.cpp - Passes over a vocabulary's logits ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each pass is written once, over arrays of lanes that compilers turn into
// vectors, and compiled twice on x86-64: for the baseline's vectors of 4 and
// for AVX2's of 8. AVX2 without FMA, and no contraction: the bits are the same.
// Times and floor: benchmarks/kernels/Sampler.cpp.
//
//===----------------------------------------------------------------------===//

#include "LogitPasses.h"

#include <algorithm>
#include <cstring>
#include <limits>

#pragma clang fp contract(off)
// Builds with sanitizers make no vectors.
#pragma clang diagnostic ignored "-Wpass-failed"

using namespace qlm;
using namespace qlm::passes;

static constexpr float infinity = std::numeric_limits<float>::infinity();
/// Accumulators of a pass: four vectors of 8 hide an addition's latency.
static constexpr int lanes = 32;

#define QLM_INLINE [[gnu::always_inline]] static inline

/// e^x for x <= 0, to 3 units in the last place; 0 below -87, NaN for NaN.
/// Free of branches and calls: 2^n * 2^f with the Taylor polynomial of 2^f.
QLM_INLINE float expOf(float x) {
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

QLM_INLINE float largestBody(const float *logits, int64_t size) {
  float top[lanes], odd[lanes] = {}, best = -infinity, rest = 0;
  std::fill_n(top, lanes, -infinity);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) {
      float logit = logits[i + lane];
      top[lane] = logit > top[lane] ? logit : top[lane];
      // Stays 0 for numbers and infinities; NaN never leaves a sum.
      odd[lane] += logit != logit ? logit : 0.0f;
    }
  for (; i < size; ++i) {
    best = logits[i] > best ? logits[i] : best;
    rest += logits[i] != logits[i] ? logits[i] : 0.0f;
  }
  for (int lane = 0; lane < lanes; ++lane) {
    best = top[lane] > best ? top[lane] : best;
    rest += odd[lane];
  }
  return rest != rest ? rest : best;
}

QLM_INLINE int64_t equalBody(const float *logits, int64_t size, float value) {
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    int32_t any = 0;
    for (int lane = 0; lane < lanes; ++lane)
      any |= logits[i + lane] == value;
    if (any)
      break;
  }
  while (i < size && logits[i] != value)
    ++i;
  return i;
}

QLM_INLINE void blockLargestBody(const float *logits, int64_t size,
                                 float *largest) {
  constexpr int width = 16;
  for (int64_t begin = 0; begin < size; begin += kMaxBlock) {
    int64_t end = std::min(begin + kMaxBlock, size), i = begin;
    float top[width], best = -infinity;
    std::fill_n(top, width, -infinity);
    for (; i + width <= end; i += width)
      for (int lane = 0; lane < width; ++lane)
        top[lane] = logits[i + lane] > top[lane] ? logits[i + lane] : top[lane];
    for (; i < end; ++i)
      best = logits[i] > best ? logits[i] : best;
    for (float each : top)
      best = each > best ? each : best;
    *largest++ = best;
  }
}

/// Eight numbers that are computed with at once, in registers of any size.
typedef float Float8 __attribute__((vector_size(32)));
typedef double Double8 __attribute__((vector_size(64)));

/// Sum of floats, as doubles in 8 lanes.
QLM_INLINE double sumOf(const float *values, int64_t size) {
  Double8 sums = {};
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    Float8 each;
    std::memcpy(&each, values + i, sizeof(each));
    sums += __builtin_convertvector(each, Double8);
  }
  double total = 0;
  for (; i < size; ++i)
    total += static_cast<double>(values[i]);
  for (int lane = 0; lane < 8; ++lane)
    total += sums[lane];
  return total;
}

QLM_INLINE void weighBody(const float *logits, int64_t size, float top,
                          float inverse, float *weights, double *sums) {
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    int64_t count = std::min(kSumBlock, size - begin);
    const float *from = logits + begin;
    float *to = weights + begin;
#pragma clang loop vectorize(assume_safety) interleave_count(2)
    for (int64_t i = 0; i < count; ++i)
      to[i] = expOf((from[i] - top) * inverse);
    *sums++ = sumOf(to, count);
  }
}

QLM_INLINE void sumBlocksBody(const float *weights, int64_t size,
                              double *sums) {
  for (int64_t begin = 0; begin < size; begin += kSumBlock)
    *sums++ = sumOf(weights + begin, std::min(kSumBlock, size - begin));
}

QLM_INLINE double exponentialsBody(const float *logits, int64_t size,
                                   float top) {
  float weights[kSumBlock];
  double total = 0, sum;
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    weighBody(logits + begin, std::min(kSumBlock, size - begin), top, 1,
              weights, &sum);
    total += sum;
  }
  return total;
}

QLM_INLINE void keepBody(const float *keys, int64_t size, float least,
                         int64_t lastEqual, float *weights) {
  // Up to lastEqual an equal key stays, behind it none does. Keys may be the
  // weights themselves: each is read before it is written.
  int64_t turn = std::min(lastEqual + 1, size);
#pragma clang loop vectorize(assume_safety)
  for (int64_t i = 0; i < turn; ++i)
    weights[i] = keys[i] >= least ? weights[i] : 0.0f;
#pragma clang loop vectorize(assume_safety)
  for (int64_t i = turn; i < size; ++i)
    weights[i] = keys[i] > least ? weights[i] : 0.0f;
}

#if defined(__x86_64__)
#define QLM_AVX2 __attribute__((target("avx2")))
static const bool hasAvx2 = __builtin_cpu_supports("avx2");
/// Defines NAME, with the body compiled twice.
#define QLM_PASS(RETURN, NAME, BODY, PARAMETERS, ARGUMENTS)                    \
  QLM_AVX2 static RETURN NAME##Avx2 PARAMETERS { return BODY ARGUMENTS; }      \
  RETURN passes::NAME PARAMETERS {                                             \
    if (hasAvx2)                                                               \
      return NAME##Avx2 ARGUMENTS;                                             \
    return BODY ARGUMENTS;                                                     \
  }
#else
#define QLM_PASS(RETURN, NAME, BODY, PARAMETERS, ARGUMENTS)                    \
  RETURN passes::NAME PARAMETERS { return BODY ARGUMENTS; }
#endif

QLM_PASS(float, findLargest, largestBody, (const float *logits, int64_t size),
         (logits, size))
QLM_PASS(int64_t, findEqual, equalBody,
         (const float *logits, int64_t size, float value),
         (logits, size, value))
QLM_PASS(void, findBlockLargest, blockLargestBody,
         (const float *logits, int64_t size, float *largest),
         (logits, size, largest))
QLM_PASS(void, weigh, weighBody,
         (const float *logits, int64_t size, float top, float inverse,
          float *weights, double *sums),
         (logits, size, top, inverse, weights, sums))
QLM_PASS(void, sumBlocks, sumBlocksBody,
         (const float *weights, int64_t size, double *sums),
         (weights, size, sums))
QLM_PASS(double, sumOfExponentials, exponentialsBody,
         (const float *logits, int64_t size, float top), (logits, size, top))
QLM_PASS(void, keepAtLeast, keepBody,
         (const float *keys, int64_t size, float least, int64_t lastEqual,
          float *weights),
         (keys, size, least, lastEqual, weights))
