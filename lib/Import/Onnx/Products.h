//===- Products.h - Sums of products, for floats and integers ---*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_PRODUCTS_H
#define QLM_LIB_IMPORT_ONNX_PRODUCTS_H

#include "Node.h"

namespace mlir::qlm::onnx_import {

/// Turns an element and its indices to what is multiplied.
using ElementReader = function_ref<Value(Value element, ValueRange at)>;
/// Turns a sum and the result's indices to the result's element.
using ElementFinisher = function_ref<Value(Value sum, ValueRange at)>;

/// NumPy's matmul: sums over the last dimension of \p x and the last but one of
/// \p y, stacks broadcast. Fails, in the node, when the sizes disagree.
Value matmul(Node &node, const Tensor &x, const Tensor &y, Type element,
             ElementReader readX, ElementReader readY, ElementFinisher finish,
             Value zero);

/// The product of \p x's rows, f32, with \p weight, `[outFeatures, inFeatures]`
/// and known when the package is written, as is \p bias, which may be null.
Value emitLinear(TensorBuilder &b, const Tensor &x, Value weight, Value bias);

/// Convolution of \p x [N, C, spatial…] with \p weight [M, C / group, kernel…];
/// strides, pads and the like are the node's attributes.
Value convolve(Node &node, const Tensor &x, const Tensor &weight, Type element,
               ElementReader readX, ElementReader readWeight,
               ElementFinisher finish, Value zero);

/// Windows that slide over the spatial dimensions of an image.
struct Windows {
  SmallVector<int64_t> kernel, strides, dilations;
  /// Padding before and after, sizes of the data and of the result.
  SmallVector<Value> padLow, padHigh, input, sizes;

  /// Reads strides, dilations, pads, auto_pad and ceil_mode.
  static std::optional<Windows> get(Node &node, const Tensor &x,
                                    ArrayRef<int64_t> kernel);
  /// Where element \p inside of the window \p window lies, kept inside the
  /// data, and whether it did so without that.
  std::pair<SmallVector<Value>, Value>
  place(TensorBuilder &b, ValueRange window, ValueRange inside) const;
};

/// qlm.linear of the rows of \p x by \p weight, `[inner, outer]`; null where
/// one can't say it.
Value multiplyByParameter(TensorBuilder &b, const Tensor &x,
                          const Tensor &weight);

// IntegerProducts.cpp: MatMulInteger and ConvInteger whose sums become f32, by
// kernels; null where they can't.
Value multiplyCodes(Node &node);
Value convolveCodes(Node &node);

// Images.cpp: operations that later stages know. Each gives null, and emits
// nothing that matters, where the node is not of that kind.

/// graph.conv of \p x with the attributes of \p node.
Value convolveImage(Node &node, const Tensor &x, Value weight, Value bias);
/// graph.pool of the node's input.
Value poolImage(Node &node, ArrayRef<int64_t> kernel, bool isAverage);
/// The same of windows that are the whole image.
Value poolWholeImage(Node &node, bool isAverage);
/// graph.normalize of the node's inputs.
Value normalizeImage(Node &node);

/// QLinearConv and QLinearMatMul as products of what codes stand for, between
/// operations that `qlm-fold-qdq` folds.
struct CodeProduct {
  /// Whether that says what \p node does: all scales and zero points are
  /// known, the codes of the weight, operand \p weight, are int8.
  static bool read(Node &node, int64_t weight);
  static Value input(Node &node);
  static Value weight(Node &node, int64_t axis);
  /// Operand \p operand, in steps of both scales.
  static Value bias(Node &node, int64_t operand);
  /// The codes of \p sums.
  static Value result(Node &node, Value sums);
};

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_PRODUCTS_H
