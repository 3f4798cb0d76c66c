//===- Matching.h - Looks at nodes through what means nothing ---*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_OPTIMIZE_ONNX_MATCHING_H
#define QLM_LIB_OPTIMIZE_ONNX_MATCHING_H

#include "qlm/Dialect/Onnx.h"

#include "mlir/IR/PatternMatch.h"

#include <optional>

namespace mlir::qlm::onnxir {

/// What \p value stands for: conversions between float types, Identity,
/// Dropout that isn't training, joining of one part and products with 1 are
/// passed. Activations are f32 after raising, so that nothing is lost.
Value skipNoise(Value value);

/// The node that makes \p value, through skipNoise, if it is a \p kind.
NodeOp find(Value value, StringRef kind);

/// The number that a constant of one element holds.
std::optional<double> getScalar(Value value);
/// Whether \p value is that number, to f32's (or f16's) precision.
bool isScalar(Value value, double number);
/// The whole numbers that a constant holds.
std::optional<SmallVector<int64_t>> getIntegers(Value value);

/// Splits a node of two inputs into one that is a \p kind and the other.
struct Pair {
  NodeOp node;
  Value other;
};
std::optional<Pair> findEither(NodeOp op, StringRef kind);
/// The operand beside the number of a node of two inputs.
struct Scaled {
  Value value;
  double number;
};
std::optional<Scaled> findScalar(NodeOp op);

/// Whether \p value is a vector of weights.
bool isWeightVector(Value value);
/// Whether a node reduces the last dimension only, and keeps it.
bool reducesLast(NodeOp op);

/// Makes a node with one result in the place of \p at.
NodeOp createNode(PatternRewriter &rewriter, NodeOp at, StringRef kind,
                  ValueRange inputs, ArrayRef<NamedAttribute> attributes = {},
                  Type type = {});

} // namespace mlir::qlm::onnxir

#endif // QLM_LIB_OPTIMIZE_ONNX_MATCHING_H
