//===- GraphLaunches.h - Launches from tensors to calls ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_GRAPHLAUNCHES_H
#define QLM_LIB_LOWER_GRAPHLAUNCHES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"

namespace mlir::qlm {

/// Attribute of a launch whose tiles cost no more on their own.
inline constexpr llvm::StringLiteral kTilesApartAttr = "qlm.tiles_apart";

/// Tells bufferization what `graph.launch` reads and writes.
void registerLaunchBufferization(DialectRegistry &registry);

/// Replaces the launches of @graph, on memory, by calls of the function that
/// the runtime has put in a variable (qlm/Package/GraphFormat.h).
void lowerLaunches(ModuleOp module);

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_GRAPHLAUNCHES_H
