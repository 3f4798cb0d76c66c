//===- Tables.h - Codebooks that compiler and kernels share -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A codebook is a table of real numbers in ascending order; a code is an index
// into it. A value `x` in [-1, 1] gets the code
//
//   number of i with bound(i) < x,  bound(i) = (table[i] + table[i + 1]) / 2
//
// in f32: the nearest entry, the lower one of two that are equally near.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_TABLES_H
#define QLM_PACKAGE_TABLES_H

#include <array>
#include <cstddef>

namespace qlm::format {

/// NormalFloat4: quantiles of the normal distribution, with an exact zero.
/// Source: Dettmers et al., "QLoRA" (arXiv 2305.14314), appendix E.
inline constexpr std::array<float, 16> kNormalFloat4 = {-1.0f,
                                                        -0.6961928009986877f,
                                                        -0.5250730514526367f,
                                                        -0.39491748809814453f,
                                                        -0.28444138169288635f,
                                                        -0.18477343022823334f,
                                                        -0.09105003625154495f,
                                                        0.0f,
                                                        0.07958029955625534f,
                                                        0.16093020141124725f,
                                                        0.24611230194568634f,
                                                        0.33791524171829224f,
                                                        0.44070982933044434f,
                                                        0.5626170039176941f,
                                                        0.7229568362236023f,
                                                        1.0f};

/// The signed dynamic map of 8 bits: 2^i steps in each decade 10^(i - 6), for
/// i from 0 to 6, of either sign, and 0 and 1. Source: Dettmers, "8-Bit
/// Approximations for Parallelism in Deep Learning" (arXiv 1511.04561).
constexpr std::array<float, 256> makeDynamicMap() {
  // 10^(i - 6), rounded to f32.
  constexpr float kDecades[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.f};
  std::array<float, 256> map = {};
  std::size_t next = 128; // of positive values; map[127] is 0
  for (int decade = 0; decade < 7; ++decade) {
    int steps = 1 << decade;
    float step = (1.0f - 0.1f) / static_cast<float>(steps);
    // Boundaries from 0.1 to 1: from the left in the first half, from the
    // right in the second, so that both ends are exact. Rounded once, as by a
    // fused multiply-add: products and sums are exact in double.
    auto boundary = [&](int i) {
      bool isLeft = i < (steps + 1) / 2;
      double from = static_cast<double>(isLeft ? 0.1f : 1.0f);
      double count = isLeft ? i : i - steps;
      return static_cast<float>(from + static_cast<double>(step) * count);
    };
    for (int i = 0; i < steps; ++i) {
      float mean = (boundary(i) + boundary(i + 1)) / 2.0f;
      float value = kDecades[decade] * mean;
      map[next] = value;
      map[254 - next] = -value;
      ++next;
    }
  }
  map[next] = 1.0f;
  return map;
}
inline constexpr std::array<float, 256> kDynamicMap = makeDynamicMap();

/// The largest f32 below which an absmax counts as this one, so that its
/// inverse is finite.
inline constexpr float kSmallestAbsmax = 1e-38f;
/// Scales that share a scale of their own, with double quantization.
inline constexpr int kDoubleBlock = 256;
/// The largest value of f8E4M3FN.
inline constexpr float kFloat8Max = 448.0f;

/// The bound between entries \p i and \p i + 1 of a codebook.
template <std::size_t N>
constexpr float codebookBound(const std::array<float, N> &table,
                              std::size_t i) {
  return (table[i] + table[i + 1]) / 2.0f;
}

} // namespace qlm::format

#endif // QLM_PACKAGE_TABLES_H
