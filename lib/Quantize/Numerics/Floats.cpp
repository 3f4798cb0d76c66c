//===- Floats.cpp - Conversions between f32, f16 and bf16 -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Written on bits, without branches, so that the loops become vector code on
// any machine and give the same bits everywhere.
//
//===----------------------------------------------------------------------===//

#include "Bits.h"
#include "qlm/Quantize/Numerics.h"

#include <algorithm>

using namespace qlm::numerics;

namespace {

constexpr uint32_t kSign = 0x80000000u;
constexpr uint32_t kInfinity = 0x7f800000u;
constexpr uint32_t kHalfInfinity = 0x7c00u;
constexpr uint32_t kHalfQuietBit = 0x0200u;
/// 2^16, from where every f32 rounds to an infinite f16.
constexpr uint32_t kTwoTo16 = 0x47800000u;
/// 2^-14, the smallest normal f16.
constexpr uint32_t kHalfSmallestNormal = 0x38800000u;
/// 0.5: its last place is 2^-24, the last place of a subnormal f16.
constexpr uint32_t kOneHalf = 0x3f000000u;
/// Difference of the exponents' biases, 127 - 15, in place.
constexpr uint32_t kBiasDifference = 112u << 23;

inline uint16_t roundToHalf(float value) {
  uint32_t bits = asBits(value);
  uint32_t sign = bits & kSign;
  uint32_t magnitude = bits ^ sign;
  // Normal: add half of the last place (less one when even), then cut; a carry
  // moves into the exponent, at the top into infinity.
  uint32_t normal =
      (magnitude - kBiasDifference + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  // Subnormal: the addition aligns and rounds the significand.
  uint32_t subnormal =
      asBits(asFloat(magnitude) + asFloat(kOneHalf)) - kOneHalf;
  uint32_t nan = kHalfInfinity | kHalfQuietBit | ((magnitude >> 13) & 0x1ffu);
  uint32_t result = magnitude < kHalfSmallestNormal ? subnormal : normal;
  result = magnitude >= kTwoTo16 ? kHalfInfinity : result;
  result = magnitude > kInfinity ? nan : result;
  return static_cast<uint16_t>(result | (sign >> 16));
}

inline float extendHalf(uint16_t half) {
  uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  // Multiplying by 2^112 moves the exponent's bias; exact for subnormals too.
  uint32_t finite = asBits(asFloat(magnitude) * asFloat((127u + 112u) << 23));
  uint32_t quiet = magnitude > (kHalfInfinity << 13) ? kHalfQuietBit << 13 : 0;
  uint32_t special = magnitude | kInfinity | quiet;
  bool isSpecial = magnitude >= (kHalfInfinity << 13);
  return asFloat((isSpecial ? special : finite) | sign);
}

inline uint16_t roundToBFloat(float value) {
  uint32_t bits = asBits(value);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  uint32_t nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & ~kSign) > kInfinity ? nan : rounded);
}

inline float extendBFloat(uint16_t bits) {
  return asFloat(static_cast<uint32_t>(bits) << 16);
}

/// 448, the largest f8E4M3FN, and 2^-6, its smallest normal.
constexpr uint32_t kFloat8Largest = 0x43e00000u;
constexpr uint32_t kFloat8SmallestNormal = 0x3c800000u;
/// 2^14: its last place is 2^-9, the last place of a subnormal f8E4M3FN.
constexpr uint32_t kTwoTo14 = 0x46800000u;

inline uint8_t roundToFloat8(float value) {
  uint32_t bits = asBits(value);
  uint32_t sign = bits & kSign;
  uint32_t magnitude = bits ^ sign;
  uint32_t finite = magnitude > kFloat8Largest ? kFloat8Largest : magnitude;
  uint32_t normal =
      (finite - (120u << 23) + 0x7ffffu + ((finite >> 20) & 1)) >> 20;
  uint32_t subnormal = asBits(asFloat(finite) + asFloat(kTwoTo14)) - kTwoTo14;
  uint32_t result = finite < kFloat8SmallestNormal ? subnormal : normal;
  result = magnitude > kInfinity ? 0x7fu : result;
  return static_cast<uint8_t>(result | (sign >> 24));
}

inline float extendFloat8(uint8_t bits) {
  uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fu) << 20;
  // Multiplying by 2^120 moves the exponent's bias; exact for subnormals too.
  uint32_t finite = asBits(asFloat(magnitude) * asFloat((127u + 120u) << 23));
  return asFloat((magnitude == 0x7fu << 20 ? 0x7fc00000u : finite) | sign);
}

} // namespace

uint8_t qlm::numerics::toFloat8(float value) { return roundToFloat8(value); }

float qlm::numerics::fromFloat8(uint8_t bits) { return extendFloat8(bits); }

uint16_t qlm::numerics::toFloat16(float value) { return roundToHalf(value); }

uint16_t qlm::numerics::toBFloat16(float value) { return roundToBFloat(value); }

float qlm::numerics::fromFloat16(uint16_t bits) { return extendHalf(bits); }

float qlm::numerics::fromBFloat16(uint16_t bits) { return extendBFloat(bits); }

void qlm::numerics::toFloat32(FloatType type, const void *source, float *target,
                              int64_t count) {
  if (count <= 0)
    return;
  const auto *bytes = static_cast<const unsigned char *>(source);
  switch (type) {
  case FloatType::Float32:
    std::memcpy(target, source, static_cast<size_t>(count) * 4);
    return;
  case FloatType::Float16:
    for (int64_t i = 0; i < count; ++i)
      target[i] = extendHalf(loadAs<uint16_t>(bytes + 2 * i));
    return;
  case FloatType::BFloat16:
    for (int64_t i = 0; i < count; ++i)
      target[i] = extendBFloat(loadAs<uint16_t>(bytes + 2 * i));
    return;
  }
}

void qlm::numerics::fromFloat32(FloatType type, const float *source,
                                void *target, int64_t count) {
  if (count <= 0)
    return;
  auto *bytes = static_cast<unsigned char *>(target);
  switch (type) {
  case FloatType::Float32:
    std::memcpy(target, source, static_cast<size_t>(count) * 4);
    return;
  case FloatType::Float16:
    for (int64_t i = 0; i < count; ++i)
      storeAs<uint16_t>(bytes + 2 * i, roundToHalf(source[i]));
    return;
  case FloatType::BFloat16:
    for (int64_t i = 0; i < count; ++i)
      storeAs<uint16_t>(bytes + 2 * i, roundToBFloat(source[i]));
    return;
  }
}

void qlm::numerics::convert(FloatType sourceType, const void *source,
                            FloatType targetType, void *target, int64_t count) {
  if (count <= 0)
    return;
  const auto *input = static_cast<const unsigned char *>(source);
  auto *output = static_cast<unsigned char *>(target);
  if (sourceType == targetType) {
    std::memcpy(output, input,
                static_cast<size_t>(count * getFloatBytes(sourceType)));
    return;
  }
  // Through f32, which holds every f16 and bf16: one rounding in all.
  constexpr int64_t kChunk = 1024;
  float values[kChunk];
  for (int64_t done = 0; done < count; done += kChunk) {
    int64_t size = std::min(kChunk, count - done);
    toFloat32(sourceType, input + done * getFloatBytes(sourceType), values,
              size);
    fromFloat32(targetType, values, output + done * getFloatBytes(targetType),
                size);
  }
}
