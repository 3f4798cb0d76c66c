//===- LaunchGroup.h - Operations that one kernel may run -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// `qlm-fuse-launches` gives a linear, the operation that makes its input and
// the one that takes its result the same number. In steps of few rows the
// linear's kernel may do the work of its neighbours, whose launches are then
// left out; in others each runs by itself. Which, the kernels' choosers say.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_LAUNCHGROUP_H
#define QLM_LOWER_LAUNCHGROUP_H

#include "qlm/Dialect/Qlm.h"

namespace mlir::qlm {

/// Attribute of the operations of a group: its number in the step.
inline constexpr llvm::StringLiteral kGroupAttr = "qlm.group";

/// A linear and its neighbours in the list of launches.
struct LaunchGroup {
  Operation *prologue = nullptr; ///< makes the linear's input, or null
  PackedLinearOp linear;
  Operation *epilogue = nullptr; ///< takes the linear's result, or null

  /// The group of \p op, or none.
  static std::optional<LaunchGroup> get(Operation *op);

  /// Operations in program order.
  SmallVector<Operation *, 3> getOperations() const;
  /// Buffers of the linear's launch behind its own: operands of the prologue,
  /// then operands (without the linear's result) and results of the epilogue.
  SmallVector<Value> getOuterBuffers() const;
};

/// Operands of \p op in order, then its results, an updated cache left out.
SmallVector<Value> getOwnBuffers(Operation *op);
/// The buffers of a launch of \p op: its own, and those of its group where it
/// is the group's linear.
SmallVector<Value> getLaunchBuffers(Operation *op);

} // namespace mlir::qlm

#endif // QLM_LOWER_LAUNCHGROUP_H
