//===- Tables.cpp - Codes that are indices into tables --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// NormalFloat4 and double quantization. A code is the number of bounds below
// the value times the inverse of its block's largest magnitude: the arithmetic
// of bitsandbytes, in its order, so that codes are equal bit for bit.
//
//===----------------------------------------------------------------------===//

#include "qlm/Package/Tables.h"
#include "Bits.h"
#include "qlm/Quantize/Numerics.h"

#include <algorithm>
#include <cmath>

using namespace qlm;
using namespace qlm::numerics;

/// The bounds between the entries of \p table.
template <size_t N>
static constexpr std::array<float, N - 1>
makeBounds(const std::array<float, N> &table) {
  std::array<float, N - 1> bounds = {};
  for (size_t i = 0; i + 1 < N; ++i)
    bounds[i] = format::codebookBound(table, i);
  return bounds;
}

static constexpr auto kNormalBounds = makeBounds(format::kNormalFloat4);
static constexpr auto kDynamicBounds = makeBounds(format::kDynamicMap);

static float inverseOf(float absmax) {
  return 1.0f / std::max(absmax, format::kSmallestAbsmax);
}

void qlm::numerics::lookUpNormalFloat4(const float *values, int64_t count,
                                       float absmax, uint8_t *codes) {
  float inverse = inverseOf(absmax);
  for (int64_t i = 0; i < count; ++i) {
    float scaled = values[i] * inverse;
    int code = 0;
    for (float bound : kNormalBounds)
      code += scaled > bound;
    codes[i] = static_cast<uint8_t>(code);
  }
}

void qlm::numerics::quantizeScales(const float *scales, int64_t count,
                                   uint8_t *codes, float *super,
                                   const float *offset) {
  double total = 0;
  for (int64_t i = 0; i < count && !offset; ++i)
    total += static_cast<double>(scales[i]);
  super[0] =
      offset ? *offset
             : static_cast<float>(
                   total / static_cast<double>(std::max<int64_t>(count, 1)));
  for (int64_t first = 0; first < count; first += format::kDoubleBlock) {
    int64_t end = std::min<int64_t>(first + format::kDoubleBlock, count);
    float absmax = 0;
    for (int64_t i = first; i < end; ++i)
      absmax = std::max(absmax, std::fabs(scales[i] - super[0]));
    super[1 + first / format::kDoubleBlock] = absmax;
    float inverse = inverseOf(absmax);
    for (int64_t i = first; i < end; ++i) {
      float scaled = (scales[i] - super[0]) * inverse;
      const float *place = std::lower_bound(kDynamicBounds.begin(),
                                            kDynamicBounds.end(), scaled);
      codes[i] = static_cast<uint8_t>(place - kDynamicBounds.begin());
    }
  }
}

void qlm::numerics::dequantizeScales(const uint8_t *codes, int64_t count,
                                     const float *super, float *scales) {
  for (int64_t i = 0; i < count; ++i)
    scales[i] =
        format::kDynamicMap[codes[i]] * super[1 + i / format::kDoubleBlock] +
        super[0];
}
