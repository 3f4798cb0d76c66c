//===- Operators.h - Which operators are imported ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_OPERATORS_H
#define QLM_LIB_IMPORT_ONNX_OPERATORS_H

#include "qlm/Import/Onnx.h"

#include "Functions.h"
#include "Node.h"

#include "llvm/ADT/StringSet.h"

namespace mlir::qlm::onnx_import {

/// The operator of \p node; null where it isn't handled.
const Operator *findOperator(const ::onnx::NodeProto &node);
/// Whether \p node is the standard's If, which its branch stands for.
bool isIf(const ::onnx::NodeProto &node);

/// Values that one Cast to f32 uses, and nothing else. Branches of an If may
/// use any: there are none then.
llvm::StringSet<> findCastToFloat(ArrayRef<InlinedNode> nodes,
                                  const ::onnx::GraphProto &graph);

/// Refuses, before any work, nodes of versions that mean something else and,
/// all of them in one message, nodes that aren't handled. An If is among those
/// when the elements of \p graph's inputs, but for \p fixed ones, decide on
/// its condition.
llvm::Error checkNodes(ArrayRef<InlinedNode> nodes,
                       const ::onnx::GraphProto &graph,
                       const llvm::StringMap<FixedInput> &fixed);

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_OPERATORS_H
