//===- KnownIntegers.h - Computes shapes while importing --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_KNOWNINTEGERS_H
#define QLM_LIB_IMPORT_ONNX_KNOWNINTEGERS_H

#include "Node.h"

namespace mlir::qlm::onnx_import {

/// Whole numbers and their shape.
struct Integers {
  SmallVector<int64_t> values;
  SmallVector<int64_t> shape;
};
using Folded = std::optional<Integers>;

/// Larger results are data, not shapes.
inline constexpr size_t kMostElements = 1024;

/// How many inputs of \p node, from the first on, a move takes its elements
/// from: all of a Concat's.
int64_t countMoved(const Node &node);

/// Of an operator that moves elements (Concat, Expand, Gather, Identity,
/// Reshape, Slice, Squeeze, Transpose, Unsqueeze), where each element of the
/// result stands among those of the moved inputs, end to end. The other inputs
/// must be known. Nothing for other operators and bad inputs, which the
/// operator's emitter refuses.
Folded movePositions(Node &node);

/// Computes elements that open sizes decide on, as Tensor::sizes.
std::optional<Tensor> foldOpenSizes(Node &node);

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_KNOWNINTEGERS_H
