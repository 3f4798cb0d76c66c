//===- Graph.h - What compiled graphs are made of ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_GRAPH_H
#define QLM_DIALECT_GRAPH_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "qlm/Dialect/GraphDialect.h.inc"

#define GET_OP_CLASSES
#include "qlm/Dialect/GraphOps.h.inc"

namespace mlir::qlm::graph {

/// The function that holds a graph.
inline constexpr llvm::StringLiteral kGraphName = "graph";
/// Attribute of an argument that is a weight: its key in the package.
inline constexpr llvm::StringLiteral kWeightAttr = "qlm.weight";
/// Attribute of arguments and results: NumPy's name of the element type.
inline constexpr llvm::StringLiteral kTypeAttr = "qlm.type";

/// How many windows fit into \p size elements and \p padding more.
int64_t countPlaces(int64_t size, int64_t padding, int64_t kernel,
                    int64_t stride, int64_t dilation);

} // namespace mlir::qlm::graph

#endif // QLM_DIALECT_GRAPH_H
