//===- NumericsTest.cpp - Rounding and packing by hand --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Cases worked out by hand; random shapes are compared with NumPy in
// test/python/test_quantize_numerics.py.
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Numerics.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

using namespace qlm::numerics;

namespace {

Scheme makeInt8() { return Scheme(); }

Scheme makeInt4(int64_t groupSize, bool zeroPoints = false) {
  Scheme scheme;
  scheme.bits = 4;
  scheme.granularity = Granularity::Group;
  scheme.groupSize = groupSize;
  scheme.zeroPoints = zeroPoints;
  scheme.lo = zeroPoints ? 0 : -8;
  scheme.hi = zeroPoints ? 15 : 7;
  scheme.bound = 7.5;
  scheme.scalesF16 = true;
  return scheme;
}

/// What `quantizeRtn` gives, codes as integers.
struct Rounded {
  RoundingResult result;
  std::vector<int> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeroPoints;
};

Rounded quantize(const std::vector<float> &weights, int64_t rows,
                 const Scheme &scheme) {
  auto columns = static_cast<int64_t>(weights.size()) / rows;
  auto count = static_cast<size_t>(scheme.getScaleCount(rows, columns));
  std::vector<uint8_t> codes(weights.size(), 0x5a);
  Rounded rounded;
  rounded.scales.assign(count, -1);
  rounded.zeroPoints.assign(count, 0x5a);
  rounded.result =
      quantizeRtn(weights.data(), rows, columns, scheme, codes.data(),
                  rounded.scales.data(), rounded.zeroPoints.data());
  for (uint8_t code : codes)
    rounded.codes.push_back(scheme.zeroPoints ? code
                                              : static_cast<int8_t>(code));
  return rounded;
}

using Codes = std::vector<int>;

} // namespace

//===----------------------------------------------------------------------===//
// Round to nearest
//===----------------------------------------------------------------------===//

TEST(QuantizeRtn, RoundsTiesToEven) {
  // The scale is 127 / 127 = 1.
  Rounded rounded =
      quantize({127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f}, 1, makeInt8());
  ASSERT_TRUE(rounded.result.ok());
  EXPECT_EQ(rounded.scales, std::vector<float>{1});
  EXPECT_EQ(rounded.codes, (Codes{127, 0, 2, 2, 0, -2, -2}));
}

TEST(QuantizeRtn, GivesEachGroupItsScaleRoundedToF16) {
  // 7.5 / 7.5 = 1 and 0.75 / 7.5 = 0.1, which f16 rounds to 0.0999755859375.
  Rounded rounded = quantize({7.5f, -7.5f, 0.75f, -0.3f}, 1, makeInt4(2));
  ASSERT_TRUE(rounded.result.ok());
  EXPECT_EQ(rounded.scales, (std::vector<float>{1, 0.0999755859375f}));
  // 7.5 rounds to 8, beyond the range; -7.5 to -8.
  EXPECT_EQ(rounded.codes, (Codes{7, -8, 7, -3}));
}

TEST(QuantizeRtn, FindsZeroPoints) {
  // a = -1, b = 2: scale 3 / 15 = 0.2 (f16 0.199951171875), zero point 5.
  Rounded rounded = quantize({-1, 0, 1, 2}, 1, makeInt4(4, true));
  ASSERT_TRUE(rounded.result.ok());
  EXPECT_EQ(rounded.scales, std::vector<float>{0.199951171875f});
  EXPECT_EQ(rounded.zeroPoints, std::vector<uint8_t>{5});
  EXPECT_EQ(rounded.codes, (Codes{0, 5, 10, 15}));
}

TEST(QuantizeRtn, KeepsZeroInRangeOfOneSidedGroups) {
  Rounded rounded =
      quantize({15, 30, -30, -15}, 1, makeInt4(2, /*zeroPoints=*/true));
  ASSERT_TRUE(rounded.result.ok());
  EXPECT_EQ(rounded.scales, (std::vector<float>{2, 2}));
  EXPECT_EQ(rounded.zeroPoints, (std::vector<uint8_t>{0, 15}));
  EXPECT_EQ(rounded.codes, (Codes{8, 15, 0, 7}));
}

TEST(QuantizeRtn, GivesZeroToZeros) {
  for (bool zeroPoints : {false, true}) {
    Rounded rounded = quantize({0, -0.0f, 0, 0}, 2, makeInt4(2, zeroPoints));
    ASSERT_TRUE(rounded.result.ok());
    EXPECT_EQ(rounded.scales, (std::vector<float>{0, 0}));
    EXPECT_EQ(rounded.zeroPoints, (std::vector<uint8_t>{0, 0}));
    EXPECT_EQ(rounded.codes, (Codes{0, 0, 0, 0}));
  }
}

TEST(QuantizeRtn, GivesZeroWhereTheScaleUnderflows) {
  // 1e-8 / 7.5 is below half of the smallest f16, 2^-24.
  Rounded rounded = quantize({1e-8f, -1e-8f}, 1, makeInt4(2));
  ASSERT_TRUE(rounded.result.ok());
  EXPECT_EQ(rounded.scales, std::vector<float>{0});
  EXPECT_EQ(rounded.codes, (Codes{0, 0}));
}

TEST(QuantizeRtn, TakesDenormals) {
  float smallest = std::numeric_limits<float>::denorm_min();
  Rounded rounded = quantize({127 * smallest, -3 * smallest}, 1, makeInt8());
  ASSERT_TRUE(rounded.result.ok());
  EXPECT_EQ(rounded.scales, std::vector<float>{smallest});
  EXPECT_EQ(rounded.codes, (Codes{127, -3}));
}

TEST(QuantizeRtn, SharesOneScaleInATensor) {
  Scheme scheme = makeInt8();
  scheme.granularity = Granularity::Tensor;
  Rounded rounded = quantize({127, 1, 2, -3}, 2, scheme);
  ASSERT_TRUE(rounded.result.ok());
  EXPECT_EQ(rounded.scales, std::vector<float>{1});
  EXPECT_EQ(rounded.codes, (Codes{127, 1, 2, -3}));
}

TEST(QuantizeRtn, SeesTheLastValueOfOddRows) {
  for (int64_t columns : {1, 15, 16, 17, 31, 33}) {
    std::vector<float> weights(static_cast<size_t>(3 * columns), 0.01f);
    weights.back() = -127;
    Scheme scheme = makeInt8();
    EXPECT_EQ(quantize(weights, 3, scheme).scales.back(), 1) << columns;
    scheme.zeroPoints = true;
    scheme.lo = 0;
    scheme.hi = 127;
    EXPECT_EQ(quantize(weights, 3, scheme).zeroPoints.back(), 127) << columns;
  }
}

TEST(QuantizeRtn, RefusesInfinitiesAndNaN) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float bad : {infinity, -infinity, std::nanf("")})
    for (bool zeroPoints : {false, true}) {
      std::vector<float> weights(3 * 40, 1.0f);
      weights[2 * 40 + 33] = bad;
      Rounded rounded = quantize(weights, 3, makeInt4(20, zeroPoints));
      EXPECT_EQ(rounded.result.kind, RoundingResult::NonFinite);
      EXPECT_EQ(rounded.result.row, 2);
      EXPECT_EQ(rounded.result.column, 33);
    }
  Rounded rounded = quantize({1, infinity}, 1, makeInt8());
  EXPECT_EQ(rounded.result.getMessage(/*firstRow=*/16),
            "weight must be finite, got inf at [16, 1]");
}

TEST(QuantizeRtn, RefusesScalesBeyondF16) {
  // 65520 is halfway from 65504 to 65536 and rounds to infinity.
  EXPECT_TRUE(quantize({65500 * 7.5f}, 1, makeInt4(1)).result.ok());
  Rounded rounded = quantize({1, 65520 * 7.5f}, 1, makeInt4(1));
  EXPECT_EQ(rounded.result.kind, RoundingResult::ScaleOverflow);
  EXPECT_EQ(rounded.result.getMessage(),
            "scale must fit its type, got 65520 for the values from [0, 1]");
}

TEST(QuantizeRtn, RefusesARangeBeyondF32) {
  float largest = std::numeric_limits<float>::max();
  Scheme scheme = makeInt4(2, /*zeroPoints=*/true);
  scheme.scalesF16 = false;
  EXPECT_EQ(quantize({-largest, largest}, 1, scheme).result.kind,
            RoundingResult::ScaleOverflow);
}

TEST(QuantizeRtn, RefusesGroupsThatDoNotDivide) {
  Rounded rounded = quantize(std::vector<float>(172), 1, makeInt4(128));
  EXPECT_EQ(rounded.result.getMessage(),
            "group size must divide the columns, got 128 and 172");
}

//===----------------------------------------------------------------------===//
// Given scales, and back
//===----------------------------------------------------------------------===//

TEST(QuantizeWithScales, ClampsAndGivesZeroPointsToZeroScales) {
  Scheme scheme = makeInt4(2, /*zeroPoints=*/true);
  std::vector<float> input = {1e30f, -1e30f, 3, -3}, scales = {1, 0};
  std::vector<uint8_t> zeroPoints = {4, 9}, codes(4);
  quantizeWithScales(input.data(), 1, 4, scheme, scales.data(),
                     zeroPoints.data(), codes.data());
  EXPECT_EQ(codes, (std::vector<uint8_t>{15, 0, 9, 9}));
}

TEST(Dequantize, SubtractsZeroPointsAndScales) {
  Scheme scheme = makeInt4(2, /*zeroPoints=*/true);
  std::vector<uint8_t> codes = {0, 15, 3, 3}, zeroPoints = {5, 3};
  std::vector<float> scales = {0.5f, 2}, values(4);
  dequantize(codes.data(), 1, 4, scheme, scales.data(), zeroPoints.data(),
             values.data());
  EXPECT_EQ(values, (std::vector<float>{-2.5f, 5, 0, 0}));
  codes = {0xf8, 7, 0xff, 1};
  dequantize(codes.data(), 1, 4, makeInt4(2), scales.data(), nullptr,
             values.data());
  EXPECT_EQ(values, (std::vector<float>{-4, 3.5f, -2, 2}));
}

TEST(DynamicQuantize, RoundsARow) {
  std::vector<float> input = {-254, 127, 1, 3, 5};
  std::vector<int8_t> codes(5);
  float scale = 0;
  dynamicQuantizeRow(input.data(), 5, codes.data(), &scale);
  EXPECT_EQ(scale, 2);
  EXPECT_EQ(codes, (std::vector<int8_t>{-127, 64, 0, 2, 2}));
}

TEST(DynamicQuantize, KeepsZeroWhereTheFactorOverflows) {
  std::vector<float> input = {1e-42f, 0, -1e-42f};
  std::vector<int8_t> codes(3);
  float scale = 0;
  dynamicQuantizeRow(input.data(), 3, codes.data(), &scale);
  EXPECT_EQ(codes, (std::vector<int8_t>{127, 0, -127}));
}

TEST(DynamicQuantize, ShowsNonFiniteInputInTheScale) {
  std::vector<float> input = {1, std::nanf(""), 2};
  std::vector<int8_t> codes(3);
  float scale = 0;
  dynamicQuantizeRow(input.data(), 3, codes.data(), &scale);
  EXPECT_TRUE(std::isnan(scale));
  input[1] = std::numeric_limits<float>::infinity();
  dynamicQuantizeRow(input.data(), 3, codes.data(), &scale);
  EXPECT_TRUE(std::isinf(scale));
}

//===----------------------------------------------------------------------===//
// Floats
//===----------------------------------------------------------------------===//

TEST(Floats, RoundToFloat16) {
  EXPECT_EQ(toFloat16(1.0f), 0x3c00);
  EXPECT_EQ(toFloat16(-2.0f), 0xc000);
  EXPECT_EQ(toFloat16(65504.0f), 0x7bff);
  EXPECT_EQ(toFloat16(65519.0f), 0x7bff);
  EXPECT_EQ(toFloat16(65520.0f), 0x7c00);
  EXPECT_EQ(toFloat16(1e30f), 0x7c00);
  EXPECT_EQ(toFloat16(std::ldexp(1.0f, -24)), 0x0001);
  EXPECT_EQ(toFloat16(std::ldexp(1.0f, -25)), 0x0000);
  EXPECT_EQ(toFloat16(std::ldexp(3.0f, -25)), 0x0002);
  EXPECT_EQ(toFloat16(1.0f + std::ldexp(1.0f, -11)), 0x3c00);
  EXPECT_EQ(toFloat16(1.0f + std::ldexp(3.0f, -11)), 0x3c02);
  EXPECT_TRUE(std::isnan(fromFloat16(toFloat16(std::nanf("")))));
}

TEST(Floats, RoundTripEveryFloat16AndBFloat16) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    auto half = static_cast<uint16_t>(bits);
    if (!std::isnan(fromFloat16(half)))
      ASSERT_EQ(toFloat16(fromFloat16(half)), half);
    if (!std::isnan(fromBFloat16(half)))
      ASSERT_EQ(toBFloat16(fromBFloat16(half)), half);
  }
}

TEST(Floats, ConvertSpansChunks) {
  std::vector<uint16_t> halves(2500), brains(2500);
  for (size_t i = 0; i < halves.size(); ++i)
    halves[i] = toFloat16(static_cast<float>(i));
  convert(FloatType::Float16, halves.data(), FloatType::BFloat16, brains.data(),
          2500);
  for (size_t i = 0; i < halves.size(); ++i)
    ASSERT_EQ(brains[i], toBFloat16(fromFloat16(halves[i]))) << i;
}

//===----------------------------------------------------------------------===//
// Packing
//===----------------------------------------------------------------------===//

TEST(Packing, SizesCountWholeCells) {
  EXPECT_EQ(packedBlockBytes(Layout::Float32, 3), 3 * 16 * 4);
  EXPECT_EQ(packedBlockBytes(Layout::Float16, 3), 3 * 16 * 2);
  EXPECT_EQ(packedBlockBytes(Layout::BFloat16, 3), 2 * 16 * 4);
  EXPECT_EQ(packedBlockBytes(Layout::Int8, 5), 2 * 64);
  EXPECT_EQ(packedBlockBytes(Layout::Int4, 9), 2 * 64);
  EXPECT_EQ(packedBlockBytes(Layout::Scale, 2, 2), 2 * 16 * 2);
  EXPECT_EQ(packedBlockBytes(Layout::Scale, 2, 4), 2 * 16 * 4);
  EXPECT_EQ(packedBlockBytes(Layout::ZeroPoint, 2), 2 * 16);
  EXPECT_EQ(packedBlockBytes(Layout::Bias, 1), 16 * 4);
}

TEST(Packing, JoinsFarNibblesAndClearsPadding) {
  // Row 0: codes 1 .. 7, then -8 and -7 in the second cell; row 1: all -1.
  std::vector<uint8_t> codes = {1,    2,    3,    4,    5,    6,
                                7,    0xf8, 0xf9, 0xff, 0xff, 0xff,
                                0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  std::vector<uint8_t> packed(
      static_cast<size_t>(packedBlockBytes(Layout::Int4, 9)), 0x5a);
  packBlock(Layout::Int4, codes.data(), 2, 9, 1, 8, packed.data());
  // u = code + 8: 9 10 11 12 | 13 14 15 0, then 1.
  std::vector<uint8_t> expected(128, 0);
  const uint8_t cells[] = {0xd9, 0xea, 0xfb, 0x0c, 0x77, 0x77, 0x77, 0x77};
  std::copy(std::begin(cells), std::end(cells), expected.begin());
  expected[64] = 0x01;
  expected[68] = 0x07;
  EXPECT_EQ(packed, expected);
  std::vector<uint8_t> back(18);
  unpackBlock(Layout::Int4, packed.data(), 2, 9, 1, 8, back.data());
  EXPECT_EQ(back, codes);
}

TEST(Packing, OffsetsInt8AndClearsPadding) {
  std::vector<uint8_t> codes = {0x80, 0xff, 0, 1, 0x7f};
  std::vector<uint8_t> packed(128, 0x5a), expected(128, 0);
  packBlock(Layout::Int8, codes.data(), 1, 5, 1, 128, packed.data());
  const uint8_t cell[] = {0, 127, 128, 129};
  std::copy(std::begin(cell), std::end(cell), expected.begin());
  expected[64] = 255;
  EXPECT_EQ(packed, expected);
}

TEST(Packing, PairsBFloat16Columns) {
  std::vector<uint16_t> values = {1, 2, 3, 4, 5, 6};
  std::vector<uint16_t> packed(64, 0x5a5a), expected(64, 0);
  packBlock(Layout::BFloat16, values.data(), 2, 3, 2, 0, packed.data());
  expected[0] = 1, expected[1] = 2, expected[32] = 3;
  expected[2] = 4, expected[3] = 5, expected[34] = 6;
  EXPECT_EQ(packed, expected);
}
