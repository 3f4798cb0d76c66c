//===- ImageRows.h - Images that lie a pixel a row --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// ONNX's images are [n, c, h, w]; here they are [n * h * w, c], which is what
// linears take and give. Operations element by element are the same in either
// order, so an image is turned only where it comes from, or goes to, something
// else.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_IMAGEROWS_H
#define QLM_LIB_LOWER_IMAGEROWS_H

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"
#include "qlm/Dialect/Graph.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SetVector.h"

namespace mlir::qlm {

/// The one element of a constant; null of other values.
Attribute getOnlyElement(Value value);

class ImageRows {
public:
  explicit ImageRows(MLIRContext *context) : b(context) {}

  /// The rows of \p image, `[n, c, h, w]`, made after it.
  Value get(Value image);
  /// Signed codes for those of \p codes: where those are unsigned, 128 less.
  Value getSigned(Value codes, bool isUnsigned);
  /// Says that \p rows are those of \p image, the result of an operation that
  /// nobody needs any more.
  void set(Value image, Value rows);
  /// Whether the rows of \p image are there already.
  bool has(Value image) const { return rows.contains(image); }
  /// Whether \p op maps images element by element.
  static bool isElementwise(Operation *op);
  /// Whether that needs no image that isn't there as rows.
  bool isReady(Operation *op) const;
  /// Gives all users of images that are there as rows alone their own order,
  /// and erases what made them.
  void finish();

private:
  Value turn(Value image);
  Value turnBack(Value image, Value from);
  Value makeEmpty(Value like, RankedTensorType type);
  Value mapQuantize(graph::QuantizeOp op);
  Value mapDequantize(graph::DequantizeOp op);
  Value mapGeneric(linalg::GenericOp generic);
  Value flip(Value codes);

  OpBuilder b;
  llvm::DenseMap<Value, Value> rows, signedRows;
  llvm::SetVector<Value> replaced; ///< in the order of making
};

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_IMAGEROWS_H
