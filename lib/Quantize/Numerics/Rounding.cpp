//===- Rounding.cpp - Round-to-nearest quantization -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Every operation here is one f32 operation of the definition, in its order:
// no contraction to fused multiply-add (the library is compiled without it)
// and no reciprocal in place of a division.
//
//===----------------------------------------------------------------------===//

#include "Bits.h"
#include "qlm/Package/Tables.h"
#include "qlm/Quantize/Numerics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

using namespace qlm;
using namespace qlm::numerics;

namespace {

constexpr uint32_t kMagnitudeMask = 0x7fffffffu;
constexpr uint32_t kInfinity = 0x7f800000u;

/// 1.5 * 2^23: adding it rounds |x| < 2^22 to an integer, half to even, and
/// leaves that integer's two's complement in the low bits.
constexpr float kRounder = 12582912.0f;

/// The values of one group, seen once.
struct Range {
  uint32_t magnitudeBits; ///< of the largest magnitude; NaN is above infinity
  float smallest;         ///< min(0, smallest value)
  float largest;          ///< max(0, largest value)
};

/// As bits, magnitudes are ordered like integers: a maximum without the rules
/// of NaN, which vectorizes.
uint32_t findMagnitude(const float *values, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    auto bits = static_cast<int32_t>(asBits(values[i]) & kMagnitudeMask);
    largest = bits > largest ? bits : largest;
  }
  return static_cast<uint32_t>(largest);
}

Range findRange(const float *values, int64_t count) {
  constexpr int kLanes = 16;
  float low[kLanes] = {}, high[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      float value = values[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
    }
  for (; i < count; ++i) {
    low[0] = std::min(low[0], values[i]);
    high[0] = std::max(high[0], values[i]);
  }
  return {findMagnitude(values, count), *std::min_element(low, low + kLanes),
          *std::max_element(high, high + kLanes)};
}

/// codes = clamp(round(values / scale), lo, hi) + zeroPoint. Clamping to
/// integers before rounding gives the same, and keeps the rounder's domain.
void roundGroup(const float *values, int64_t count, float scale, int lo, int hi,
                int zeroPoint, uint8_t *codes) {
  auto low = static_cast<float>(lo), high = static_cast<float>(hi);
  auto offset = static_cast<uint32_t>(zeroPoint);
  for (int64_t i = 0; i < count; ++i) {
    float quotient = values[i] / scale;
    quotient = quotient < low ? low : quotient;
    quotient = quotient > high ? high : quotient;
    codes[i] = static_cast<uint8_t>(asBits(quotient + kRounder) + offset);
  }
}

/// codes = f8E4M3FN of values / scale.
void roundFloat8(const float *values, int64_t count, float scale,
                 uint8_t *codes) {
  for (int64_t i = 0; i < count; ++i)
    codes[i] = toFloat8(values[i] / scale);
}

/// Codes of values that share \p scale. Where it is 0 they are the zero
/// point, and 0 in a table.
void codeGroup(const float *values, int64_t count, const Scheme &scheme,
               float scale, int zero, uint8_t *codes) {
  if (scheme.codebook == Codebook::NF4)
    return lookUpNormalFloat4(values, count, scale, codes);
  if (scale == 0) {
    std::memset(codes, zero, static_cast<size_t>(count));
    return;
  }
  if (scheme.codebook == Codebook::Float8)
    return roundFloat8(values, count, scale, codes);
  roundGroup(values, count, scale, scheme.lo - zero, scheme.hi - zero, zero,
             codes);
}

/// Rounds \p scale to the scheme's type; false when it overflows.
bool roundScale(const Scheme &scheme, float &scale) {
  float rounded = scheme.scalesF16 ? fromFloat16(toFloat16(scale)) : scale;
  if (asBits(rounded) >= kInfinity)
    return false;
  scale = rounded;
  return true;
}

/// A group's scale and zero point from its range; false when the scale
/// overflows, with the scale before rounding.
bool findScale(const Scheme &scheme, const Range &range, float &scale,
               uint8_t &zeroPoint) {
  zeroPoint = 0;
  if (scheme.codebook == Codebook::NF4) {
    scale = asFloat(range.magnitudeBits);
    return roundScale(scheme, scale);
  }
  if (!scheme.zeroPoints) {
    scale = asFloat(range.magnitudeBits) / static_cast<float>(scheme.bound);
    return roundScale(scheme, scale);
  }
  auto high = static_cast<float>(scheme.hi);
  scale = (range.largest - range.smallest) / high;
  if (!roundScale(scheme, scale))
    return false;
  if (scale == 0)
    return true;
  float quotient = std::min(-range.smallest / scale, high);
  zeroPoint = static_cast<uint8_t>(asBits(quotient + kRounder));
  return true;
}

RoundingResult quantizeGroup(const float *weights, int64_t count,
                             const Scheme &scheme, uint8_t *codes, float *scale,
                             uint8_t *zeroPoint) {
  RoundingResult result;
  Range range = scheme.zeroPoints ? findRange(weights, count)
                                  : Range{findMagnitude(weights, count), 0, 0};
  if (range.magnitudeBits >= kInfinity) {
    const float *bad = std::find_if_not(
        weights, weights + count, [](float x) { return std::isfinite(x); });
    result.kind = RoundingResult::NonFinite;
    result.column = bad - weights;
    result.value = *bad;
    return result;
  }
  uint8_t zero = 0;
  if (!findScale(scheme, range, *scale, zero)) {
    result.kind = RoundingResult::ScaleOverflow;
    result.value = *scale;
    return result;
  }
  if (zeroPoint)
    *zeroPoint = zero;
  codeGroup(weights, count, scheme, *scale, zero, codes);
  return result;
}

/// Calls \p visit(first element, its scale's index, elements) for each run of
/// consecutive elements that share a scale.
template <typename Visitor>
void forEachGroup(int64_t rows, int64_t columns, const Scheme &scheme,
                  Visitor visit) {
  if (rows <= 0 || columns <= 0)
    return;
  if (scheme.granularity == Granularity::Tensor)
    return visit(int64_t(0), int64_t(0), rows * columns);
  int64_t size = scheme.getColumnsPerScale(columns);
  for (int64_t group = 0, count = rows * columns / size; group < count; ++group)
    visit(group * size, group, size);
}

} // namespace

std::string RoundingResult::getMessage(int64_t firstRow) const {
  std::string position = "[" + std::to_string(firstRow + row) + ", " +
                         std::to_string(column) + "]";
  char number[32];
  std::snprintf(number, sizeof(number), "%g", static_cast<double>(value));
  switch (kind) {
  case Ok:
    return "";
  case NonFinite:
    return std::string("weight must be finite, got ") + number + " at " +
           position;
  case ScaleOverflow:
    return std::string("scale must fit its type, got ") + number +
           " for the values from " + position;
  case GroupSize:
    return std::string("group size must divide the columns, got ") +
           std::to_string(static_cast<int64_t>(value)) + " and " +
           std::to_string(column);
  }
  return "";
}

RoundingResult qlm::numerics::quantizeRtn(const float *weights, int64_t rows,
                                          int64_t columns, const Scheme &scheme,
                                          uint8_t *codes, float *scales,
                                          uint8_t *zeroPoints) {
  RoundingResult result;
  if (scheme.granularity == Granularity::Group &&
      (scheme.groupSize <= 0 || columns % scheme.groupSize != 0)) {
    result.kind = RoundingResult::GroupSize;
    result.column = columns;
    result.value = static_cast<float>(scheme.groupSize);
    return result;
  }
  forEachGroup(
      rows, columns, scheme, [&](int64_t first, int64_t group, int64_t count) {
        if (!result.ok())
          return;
        result = quantizeGroup(weights + first, count, scheme, codes + first,
                               scales + group,
                               zeroPoints ? zeroPoints + group : nullptr);
        if (result.ok())
          return;
        int64_t position = first + result.column;
        result.row = position / columns;
        result.column = position % columns;
      });
  return result;
}

RoundingResult qlm::numerics::widenRange(const float *weights, int64_t rows,
                                         int64_t columns, ValueRange &range) {
  RoundingResult result;
  Range seen = findRange(weights, rows * columns);
  if (seen.magnitudeBits >= kInfinity) {
    const float *bad =
        std::find_if_not(weights, weights + rows * columns,
                         [](float x) { return std::isfinite(x); });
    result.kind = RoundingResult::NonFinite;
    result.row = (bad - weights) / columns;
    result.column = (bad - weights) % columns;
    result.value = *bad;
    return result;
  }
  range.magnitude = std::max(range.magnitude, asFloat(seen.magnitudeBits));
  range.smallest = std::min(range.smallest, seen.smallest);
  range.largest = std::max(range.largest, seen.largest);
  return result;
}

RoundingResult qlm::numerics::findScale(const Scheme &scheme,
                                        const ValueRange &range, float *scale,
                                        uint8_t *zeroPoint) {
  RoundingResult result;
  uint8_t zero = 0;
  if (!::findScale(scheme,
                   {asBits(range.magnitude), range.smallest, range.largest},
                   *scale, zero)) {
    result.kind = RoundingResult::ScaleOverflow;
    result.value = *scale;
  }
  if (zeroPoint)
    *zeroPoint = zero;
  return result;
}

void qlm::numerics::quantizeWithScales(const float *input, int64_t rows,
                                       int64_t columns, const Scheme &scheme,
                                       const float *scales,
                                       const uint8_t *zeroPoints,
                                       uint8_t *codes) {
  forEachGroup(rows, columns, scheme,
               [&](int64_t first, int64_t group, int64_t count) {
                 int zero = zeroPoints ? zeroPoints[group] : 0;
                 codeGroup(input + first, count, scheme, scales[group], zero,
                           codes + first);
               });
}

void qlm::numerics::dequantize(const uint8_t *codes, int64_t rows,
                               int64_t columns, const Scheme &scheme,
                               const float *scales, const uint8_t *zeroPoints,
                               float *result) {
  bool isSigned = !scheme.zeroPoints;
  forEachGroup(
      rows, columns, scheme, [&](int64_t first, int64_t group, int64_t count) {
        int zero = zeroPoints ? zeroPoints[group] : 0;
        float scale = scales[group];
        for (int64_t i = first; i < first + count; ++i) {
          if (scheme.codebook == Codebook::NF4) {
            result[i] = format::kNormalFloat4[codes[i] & 15] * scale;
            continue;
          }
          if (scheme.codebook == Codebook::Float8) {
            result[i] = fromFloat8(codes[i]) * scale;
            continue;
          }
          int code = isSigned ? static_cast<int8_t>(codes[i]) : codes[i];
          result[i] = static_cast<float>(code - zero) * scale;
        }
      });
}

void qlm::numerics::dynamicQuantizeRow(const float *input, int64_t columns,
                                       int8_t *codes, float *scale) {
  constexpr float kBound = 127.0f;
  float magnitude = asFloat(findMagnitude(input, columns));
  *scale = magnitude / kBound;
  if (magnitude == 0) {
    std::memset(codes, 0, static_cast<size_t>(columns));
    return;
  }
  float factor = kBound / magnitude;
  for (int64_t i = 0; i < columns; ++i) {
    float scaled = input[i] * factor;
    scaled = scaled < -kBound ? -kBound : scaled;
    scaled = scaled > kBound ? kBound : scaled;
    uint32_t code = asBits(scaled + kRounder);
    // 0 * infinity, where the largest magnitude is below 127 / max f32.
    code = input[i] == 0 ? 0 : code;
    codes[i] = static_cast<int8_t>(static_cast<uint8_t>(code));
  }
}

void qlm::numerics::storeScales(const Scheme &scheme, const float *scales,
                                void *target, int64_t count) {
  fromFloat32(scheme.scalesF16 ? FloatType::Float16 : FloatType::Float32,
              scales, target, count);
}

void qlm::numerics::loadScales(const Scheme &scheme, const void *source,
                               float *scales, int64_t count) {
  toFloat32(scheme.scalesF16 ? FloatType::Float16 : FloatType::Float32, source,
            scales, count);
}
