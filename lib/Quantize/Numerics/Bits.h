//===- Bits.h - Floats as bits, and unaligned memory ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_NUMERICS_BITS_H
#define QLM_LIB_QUANTIZE_NUMERICS_BITS_H

#include <cstdint>
#include <cstring>

namespace qlm::numerics {

inline uint32_t asBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float asFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// Reads a T from memory of any alignment.
template <typename T> inline T loadAs(const void *address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}

/// Writes a T to memory of any alignment.
template <typename T> inline void storeAs(void *address, T value) {
  std::memcpy(address, &value, sizeof(T));
}

/// codes = those of NF4 for \p count values whose largest magnitude is
/// \p absmax (lib/Quantize/Numerics/Tables.cpp).
void lookUpNormalFloat4(const float *values, int64_t count, float absmax,
                        uint8_t *codes);

} // namespace qlm::numerics

#endif // QLM_LIB_QUANTIZE_NUMERICS_BITS_H
