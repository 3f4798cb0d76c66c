//===- Products.h - Products of large matrices ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What calibration and GPTQ spend their time in, by the widest vectors of the
// machine. Each element is a sum of fused multiply-adds in one order, whatever
// the vectors' width and the threads: every machine gives the same bits.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_PRODUCTS_H
#define QLM_QUANTIZE_PRODUCTS_H

#include <cstdint>
#include <functional>
#include <optional>

namespace qlm::numerics {

/// Element [i, k] lies at `data[i * rowStride + k * columnStride]`.
template <typename T> struct MatrixView {
  const T *data;
  int64_t rowStride, columnStride;
};

/// Which elements of a product are wanted.
enum class ProductPart {
  All,
  Lower, ///< of a square one, row >= column; others may change too
};

/// c[i, j] += factor * sum over k of a[i, k] * b[k, j]
///
/// `[rows, columns]` = `[rows, depth]` times `[depth, columns]`; row i of c
/// begins at `c + i * stride`. Sums run over 256 of k at a time, in ascending
/// order. T is float or double.
template <typename T>
void addProduct(int64_t rows, int64_t columns, int64_t depth, T factor,
                MatrixView<T> a, MatrixView<T> b, T *c, int64_t stride,
                ProductPart part = ProductPart::All, int threads = 1);

/// Cholesky's factor of the symmetric \p matrix `[size, size]`, row-major, of
/// which the lower triangle is read: L with L Lᵀ = matrix takes its place;
/// above the diagonal anything. False when it is not positive definite; the
/// matrix is destroyed then.
bool factorCholesky(double *matrix, int64_t size, int threads = 1);

/// A symmetric matrix on its way to a factor, and the factor on its way back,
/// some rows `[count, size]` at a time: rows \p first and on, in ascending
/// order. Of both the lower triangle counts; beside it stands anything.
struct FactoredRows {
  int64_t size;
  std::function<void(int64_t first, int64_t count, double *rows)> give;
  std::function<void(int64_t first, int64_t count, const double *rows)> take;
};

/// Cholesky's factor, by something else than factorCholesky: whether there is
/// one, or nothing where that could not be found out. Rows are taken only where
/// there is one, but for a failure in between.
using CholeskyFunction =
    std::function<std::optional<bool>(const FactoredRows &matrix)>;

} // namespace qlm::numerics

#endif // QLM_QUANTIZE_PRODUCTS_H
