//===- QuantizedProduct.h - What a quantized linear computes ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What definitions of quantized linears share, however their weights are
// stored: codebooks, lists of outliers, and the product itself.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_DIALECT_QUANTIZEDPRODUCT_H
#define QLM_LIB_DIALECT_QUANTIZEDPRODUCT_H

#include "DefinitionBuilder.h"
#include "qlm/Package/Tables.h"

namespace mlir::qlm {

/// The entries of a codebook, and the bounds between them.
struct TableValues {
  Value entries, bounds;
  int64_t size = 0;

  template <size_t N>
  static TableValues get(DefinitionBuilder &d,
                         const std::array<float, N> &table) {
    std::array<float, N - 1> bounds;
    for (size_t i = 0; i + 1 < N; ++i)
      bounds[i] = ::qlm::format::codebookBound(table, i);
    return {d.table(table), d.table(bounds), static_cast<int64_t>(N)};
  }
  /// The table of \p scheme; empty where it has none.
  static TableValues get(DefinitionBuilder &d, SchemeAttr scheme) {
    if (scheme.getCodebook() != Codebook::NF4)
      return {};
    return get(d, ::qlm::format::kNormalFloat4);
  }
  /// The code of \p x whose group's largest magnitude is \p absmax.
  Value codeOf(DefinitionBuilder &d, Value x, Value absmax) const {
    Value bound = d.f32(::qlm::format::kSmallestAbsmax);
    Value inverse = d.divide(d.f32(1), d.maximum(absmax, bound));
    return d.countBelow(bounds, size - 1, d.mul(x, inverse));
  }
  Value valueOf(DefinitionBuilder &d, Value code) const {
    return d.at(entries, {d.toIndex(code)});
  }
};

/// Reads a row of the lists that qlm.dynamic_quantize makes.
struct OutlierList {
  Value lists;
  int64_t features;

  explicit OutlierList(Value lists)
      : lists(lists),
        features((cast<RankedTensorType>(lists.getType()).getDimSize(1) - 1) /
                 2) {}
  Value count(DefinitionBuilder &d, Value row) const {
    return d.toIndex(d.toI32(d.at(lists, {row, d.index(0)})));
  }
  Value column(DefinitionBuilder &d, Value row, Value j) const {
    return d.toIndex(d.toI32(d.at(lists, {row, d.add(j, 1)})));
  }
  Value value(DefinitionBuilder &d, Value row, Value j) const {
    return d.at(lists, {row, d.add(j, 1 + features)});
  }
};

/// Scale of (n, g) from its code, `map[code] * absmax + offset`; \p flat counts
/// scales in row-major order.
Value doubleScale(DefinitionBuilder &d, const TableValues &map, Value code,
                  Value super, Value flat);

/// Operands of a quantized product, however its weight is stored.
struct QuantizedProduct {
  Value input, inputScales, outliers, residual;
  int64_t groups, perScale;
  /// Code minus zero point of (n, k) as i32, or what the code stands for as
  /// f32; scale of (n, group) and bias of
  /// n as f32 (bias may be empty).
  llvm::function_ref<Value(Value, Value)> difference;
  llvm::function_ref<Value(Value, Value)> scale;
  llvm::function_ref<Value(Value)> bias;
};

/// The product, of \p type.
Value buildQuantizedProduct(DefinitionBuilder &d, RankedTensorType type,
                            const QuantizedProduct &product);

/// The product of \p op, a linear of \p columns of which \p perScale share a
/// scale; the other arguments as in QuantizedProduct.
template <typename Op>
Value buildProductOf(DefinitionBuilder &d, Op op, int64_t columns,
                     int64_t perScale,
                     llvm::function_ref<Value(Value, Value)> difference,
                     llvm::function_ref<Value(Value, Value)> scale) {
  auto bias = [&](Value n) { return d.at(op.getBias(), n); };
  QuantizedProduct product{op.getInput(),
                           op.getInputScales(),
                           op.getOutliers(),
                           op.getResidual(),
                           columns / perScale,
                           perScale,
                           difference,
                           scale,
                           {}};
  if (op.getBias())
    product.bias = bias;
  return buildQuantizedProduct(d, cast<RankedTensorType>(op.getType()),
                               product);
}

} // namespace mlir::qlm

#endif
