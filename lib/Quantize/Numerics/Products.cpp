//===- Products.cpp - Products of large matrices --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Blocks of b, kDepth by kColumns, are packed and stay in the second-level
// cache, strips of a beside them; a strip of b's block, kDepth by two vectors,
// stays in the first-level one. A thread takes whole rows of c.
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Products.h"

#include "ProductKernel.h"
#include "Threads.h"

#include <algorithm>
#include <cmath>
#include <vector>

using namespace qlm;
using namespace qlm::numerics;

/// Of k, summed in registers. Part of the definition: bits depend on it.
static constexpr int64_t kDepth = 256;
static constexpr int64_t kColumns = 512;
static constexpr int64_t kRows = 96;
/// Columns of a panel of Cholesky's factor.
static constexpr int64_t kPanel = 96;

static const ProductKernels &chooseKernels() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f"))
    return kProductKernels512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return kProductKernels256;
#endif
  return kProductKernels128;
}

namespace {

/// One product; its parts may be taken by several threads.
template <typename T> class Product {
public:
  Product(int64_t columns, int64_t depth, T factor, MatrixView<T> a,
          MatrixView<T> b, T *c, int64_t stride, ProductPart part)
      : kernels(chooseKernels()), columns(columns), depth(depth),
        factor(factor), a(a), b(b), c(c), stride(stride), part(part),
        tileColumns(2 * kernels.vectorBytes / static_cast<int64_t>(sizeof(T))) {
  }

  /// Adds rows from \p first on, before \p last.
  void addRows(int64_t first, int64_t last) const {
    // Of lower products, columns past the last row are not wanted.
    int64_t end =
        part == ProductPart::Lower ? std::min(columns, last) : columns;
    std::vector<T> packedB(static_cast<size_t>(kDepth * padded(kColumns)));
    std::vector<T> packedA(
        static_cast<size_t>(kDepth * (kRows + kernels.tileRows)));
    for (int64_t column = 0; column < end; column += kColumns) {
      int64_t columnCount = std::min(kColumns, end - column);
      for (int64_t k = 0; k < depth; k += kDepth) {
        int64_t count = std::min(kDepth, depth - k);
        packStrips(b.data + k * b.rowStride + column * b.columnStride,
                   b.rowStride, b.columnStride, count, columnCount, tileColumns,
                   packedB.data());
        for (int64_t row = first; row < last; row += kRows) {
          int64_t rowCount = std::min(kRows, last - row);
          packStrips(a.data + row * a.rowStride + k * a.columnStride,
                     a.columnStride, a.rowStride, count, rowCount,
                     kernels.tileRows, packedA.data());
          addBlock(row, rowCount, column, columnCount, count, packedA.data(),
                   packedB.data());
        }
      }
    }
  }

private:
  int64_t padded(int64_t count) const {
    return (count + tileColumns - 1) / tileColumns * tileColumns;
  }

  /// [depth, count] to strips [count / width][depth][width], filled with 0.
  static void packStrips(const T *source, int64_t depthStride,
                         int64_t elementStride, int64_t depth, int64_t count,
                         int64_t width, T *target) {
    for (int64_t first = 0; first < count; first += width) {
      int64_t filled = std::min(width, count - first);
      const T *from = source + first * elementStride;
      for (int64_t k = 0; k < depth; ++k, target += width) {
        const T *at = from + k * depthStride;
        if (elementStride == 1)
          std::copy_n(at, filled, target);
        else
          for (int64_t i = 0; i < filled; ++i)
            target[i] = at[i * elementStride];
        std::fill(target + filled, target + width, T(0));
      }
    }
  }

  void addBlock(int64_t row, int64_t rowCount, int64_t column,
                int64_t columnCount, int64_t count, const T *packedA,
                const T *packedB) const {
    AddTile<T> add;
    if constexpr (sizeof(T) == sizeof(float))
      add = kernels.addFloats;
    else
      add = kernels.addDoubles;
    for (int64_t j = 0; j < columnCount; j += tileColumns)
      for (int64_t i = 0; i < rowCount; i += kernels.tileRows) {
        int64_t tileHeight = std::min(kernels.tileRows, rowCount - i);
        if (part == ProductPart::Lower && column + j > row + i + tileHeight - 1)
          continue;
        add(count, factor, packedA + i * count, packedB + j * count,
            c + (row + i) * stride + column + j, stride, tileHeight,
            std::min(tileColumns, columnCount - j));
      }
  }

  const ProductKernels &kernels;
  int64_t columns, depth;
  T factor;
  MatrixView<T> a, b;
  T *c;
  int64_t stride;
  ProductPart part;
  int64_t tileColumns;
};

} // namespace

template <typename T>
void qlm::numerics::addProduct(int64_t rows, int64_t columns, int64_t depth,
                               T factor, MatrixView<T> a, MatrixView<T> b, T *c,
                               int64_t stride, ProductPart part, int threads) {
  if (rows <= 0 || columns <= 0 || depth <= 0)
    return;
  Product<T> product(columns, depth, factor, a, b, c, stride, part);
  // More parts than threads, taken in turn: cores may differ in speed. Each
  // part packs all of b, so that there are not many more.
  constexpr int64_t kPartsPerThread = 3;
  int64_t most = (rows + kRows - 1) / kRows;
  int64_t wanted = threads > 1 ? threads * kPartsPerThread : 1;
  auto parts = static_cast<int>(std::min(wanted, most));
  // Equal areas: of a triangle, the first r rows have r² of rows².
  auto boundary = [&](int i) {
    double share = static_cast<double>(i) / parts;
    if (part == ProductPart::Lower)
      share = std::sqrt(share);
    return i == parts ? rows : static_cast<int64_t>(share * rows);
  };
  forEachIndex(parts, std::min(std::max(threads, 1), parts), [&](int64_t i) {
    product.addRows(boundary(static_cast<int>(i)),
                    boundary(static_cast<int>(i) + 1));
  });
}

template void qlm::numerics::addProduct(int64_t, int64_t, int64_t, float,
                                        MatrixView<float>, MatrixView<float>,
                                        float *, int64_t, ProductPart, int);
template void qlm::numerics::addProduct(int64_t, int64_t, int64_t, double,
                                        MatrixView<double>, MatrixView<double>,
                                        double *, int64_t, ProductPart, int);

//===----------------------------------------------------------------------===//
// Cholesky
//===----------------------------------------------------------------------===//

/// The factor of the \p size by \p size corner of a matrix.
static bool factorCorner(double *corner, int64_t stride, int64_t size) {
  for (int64_t j = 0; j < size; ++j) {
    double *row = corner + j * stride;
    double square = row[j];
    for (int64_t k = 0; k < j; ++k)
      square -= row[k] * row[k];
    if (!(square > 0) || !std::isfinite(square))
      return false;
    double pivot = row[j] = std::sqrt(square);
    for (int64_t i = j + 1; i < size; ++i) {
      double *below = corner + i * stride;
      double sum = below[j];
      for (int64_t k = 0; k < j; ++k)
        sum -= below[k] * row[k];
      below[j] = sum / pivot;
    }
  }
  return true;
}

bool qlm::numerics::factorCholesky(double *matrix, int64_t size, int threads) {
  for (int64_t first = 0; first < size; first += kPanel) {
    int64_t width = std::min(kPanel, size - first), next = first + width;
    double *corner = matrix + first * size + first;
    if (!factorCorner(corner, size, width))
      return false;
    // Below: X Lᵀ = A, a row at a time, with L turned so that its columns are
    // side by side.
    std::vector<double> turned(static_cast<size_t>(width * width));
    for (int64_t j = 0; j < width; ++j)
      for (int64_t k = 0; k <= j; ++k)
        turned[k * width + j] = corner[j * size + k];
    int64_t rows = size - next;
    constexpr int64_t kRowsPerPart = 64;
    int64_t parts = (rows + kRowsPerPart - 1) / kRowsPerPart;
    auto workers = static_cast<int>(
        std::clamp<int64_t>(threads, 1, std::max<int64_t>(parts, 1)));
    forEachIndex(parts, workers, [&](int64_t part) {
      int64_t begin = next + part * kRowsPerPart;
      for (int64_t i = begin; i < std::min(begin + kRowsPerPart, size); ++i) {
        double *row = matrix + i * size + first;
        for (int64_t k = 0; k < width; ++k) {
          const double *column = turned.data() + k * width;
          double value = row[k] /= column[k];
          for (int64_t j = k + 1; j < width; ++j)
            row[j] -= value * column[j];
        }
      }
    });
    const double *panel = matrix + next * size + first;
    addProduct(rows, rows, width, -1.0, MatrixView<double>{panel, size, 1},
               MatrixView<double>{panel, 1, size}, matrix + next * size + next,
               size, ProductPart::Lower, threads);
  }
  return true;
}
