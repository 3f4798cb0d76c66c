//===- KernelAttention.h - What becomes graph.attention ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Attention of one operation, from Attention and from the nodes that exporters
// spell it with:
//
//   s = MatMul(query, Transpose(key))
//   s = Mul or Div(s, number)              or of query, or of key
//   p = Softmax(Add(s, mask))
//   y = MatMul(Where(IsNaN(p), 0, p), value)
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_KERNELATTENTION_H
#define QLM_LIB_IMPORT_ONNX_KERNELATTENTION_H

#include "Node.h"

namespace mlir::qlm::onnx_import {

/// Whether graph.attention takes elements of \p type.
bool isKernelType(int32_t type);
/// Features of a head that its kernel has memory for.
inline constexpr int64_t kMostFeatures = 4096;

/// Heads of tokens: [n, heads, tokens, size] or [n, tokens, heads, size].
struct HeadsTensor {
  Value value;
  bool tokensFirst = false;
};

/// What graph.attention says.
struct KernelAttention {
  HeadsTensor query, key, value;
  Value mask, lengths, first;
  double scale = 1, softcap = 0;
  int64_t left = -1, right = -1;
  bool isCausal = false, emptyIsNan = false;

  /// The result, in the order of the queries.
  Value emit(TensorBuilder &b) const;
};

/// Whether \p proto is of an operator that raiseAttention looks for.
bool isPartOfAttention(const ::onnx::NodeProto &proto);

/// What the MatMul \p node gives, if it ends an attention; else null. What the
/// nodes before it have emitted stays, for others that use it.
Value raiseAttention(Node &node);

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_KERNELATTENTION_H
