//===- ProductKernel.h - A tile of a product --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Compiled once for each width of vectors, with that width's instructions: no
// function of it may be shared between them, so all are static and none comes
// from a library.
//
// A tile is kTileRows by two vectors. Its operands are packed:
//   a: [depth][kTileRows], b: [depth][2 * lanes]
// and its sums stay in registers: kTileRows * 2 of them, two for b, one for a.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_NUMERICS_PRODUCTKERNEL_H
#define QLM_LIB_QUANTIZE_NUMERICS_PRODUCTKERNEL_H

#include <stdint.h>

namespace qlm::numerics {

/// Adds a tile: c[i, j] += factor * sum_k a[k][i] * b[k][j], for i < rows and
/// j < columns.
template <typename T>
using AddTile = void (*)(int64_t depth, T factor, const T *a, const T *b, T *c,
                         int64_t stride, int64_t rows, int64_t columns);

/// The kernels of one width, and the shape of their tiles.
struct ProductKernels {
  int64_t tileRows;
  int64_t vectorBytes;
  AddTile<float> addFloats;
  AddTile<double> addDoubles;
};

extern const ProductKernels kProductKernels128;
extern const ProductKernels kProductKernels256;
extern const ProductKernels kProductKernels512;

#ifdef QLM_VECTOR_BYTES

template <typename T, int Bytes> struct VectorOf {
  typedef T Aligned __attribute__((vector_size(Bytes)));
  /// As it lies in memory.
  typedef T Type __attribute__((vector_size(Bytes), aligned(sizeof(T))));
};

template <typename T, int Bytes, int TileRows>
static void addTile(int64_t depth, T factor, const T *a, const T *b, T *c,
                    int64_t stride, int64_t rows, int64_t columns) {
  using Vector = typename VectorOf<T, Bytes>::Aligned;
  using Stored = typename VectorOf<T, Bytes>::Type;
  constexpr int kLanes = Bytes / sizeof(T);
  Vector sums[TileRows][2] = {};
  for (int64_t k = 0; k < depth; ++k, a += TileRows, b += 2 * kLanes) {
    Vector first = *reinterpret_cast<const Stored *>(b);
    Vector second = *reinterpret_cast<const Stored *>(b + kLanes);
#pragma clang loop unroll(full)
    for (int i = 0; i < TileRows; ++i) {
      Vector left = a[i] - Vector{}; // the same in each lane
      sums[i][0] = __builtin_elementwise_fma(left, first, sums[i][0]);
      sums[i][1] = __builtin_elementwise_fma(left, second, sums[i][1]);
    }
  }
  if (rows == TileRows && columns == 2 * kLanes) {
#pragma clang loop unroll(full)
    for (int i = 0; i < TileRows; ++i)
#pragma clang loop unroll(full)
      for (int half = 0; half < 2; ++half) {
        auto *at = reinterpret_cast<Stored *>(c + i * stride + half * kLanes);
        *at = *at + factor * sums[i][half];
      }
    return;
  }
  // An index that isn't constant would keep the sums themselves in memory.
  T tile[TileRows * 2 * kLanes];
#pragma clang loop unroll(full)
  for (int i = 0; i < TileRows; ++i)
#pragma clang loop unroll(full)
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<Stored *>(tile + (2 * i + half) * kLanes) =
          sums[i][half];
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      c[i * stride + j] += factor * tile[i * 2 * kLanes + j];
}

#endif // QLM_VECTOR_BYTES

} // namespace qlm::numerics

#endif // QLM_LIB_QUANTIZE_NUMERICS_PRODUCTKERNEL_H
