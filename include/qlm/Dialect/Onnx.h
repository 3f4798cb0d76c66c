//===- Onnx.h - An ONNX graph's nodes as they stand -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_ONNX_H
#define QLM_DIALECT_ONNX_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "qlm/Dialect/OnnxDialect.h.inc"

#define GET_OP_CLASSES
#include "qlm/Dialect/OnnxOps.h.inc"

namespace mlir::qlm::onnxir {

/// The function that holds a graph. Its arguments and results carry
/// `onnx.name`.
inline constexpr llvm::StringLiteral kGraphName = "graph";
inline constexpr llvm::StringLiteral kNameAttr = "onnx.name";

} // namespace mlir::qlm::onnxir

#endif // QLM_DIALECT_ONNX_H
