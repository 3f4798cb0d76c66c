//===- MethodOps.h - Operations of calibrated methods -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_METHODOPS_H
#define QLM_DIALECT_METHODOPS_H

#include "qlm/Dialect/Qlm.h"

#define GET_OP_CLASSES
#include "qlm/Dialect/QlmMethodOps.h.inc"

namespace mlir::qlm {

/// Unit attribute of a `qlm.gptq` that searches for scales: a group's range is
/// shrunk by the part p in {1, 0.95, ..., 0.5} that makes
/// `sum_k ((w[:, k] - v) / U[k, k])^2` of its columns least.
inline constexpr llvm::StringLiteral kSearchScalesAttr = "qlm.search_scales";

/// Which scale a column takes: see the head of QlmMethodOps.td.
struct ScaleOrder {
  int64_t shared = 1;  ///< heads side by side with the same scales
  int64_t headDim = 1; ///< columns of a head

  static ScaleOrder get(std::optional<llvm::ArrayRef<int64_t>> heads) {
    if (!heads || heads->size() != 2)
      return {};
    return {(*heads)[0], (*heads)[1]};
  }
  int64_t at(int64_t column) const {
    return column / (shared * headDim) * headDim + column % headDim;
  }
  int64_t getScaleCount(int64_t columns) const { return columns / shared; }
};

} // namespace mlir::qlm

#endif // QLM_DIALECT_METHODOPS_H
