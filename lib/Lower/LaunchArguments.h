//===- LaunchArguments.h - What a launch's buffers are ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What turning operations to launches has in common on all targets.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_LAUNCHARGUMENTS_H
#define QLM_LIB_LOWER_LAUNCHARGUMENTS_H

#include "qlm/Dialect/Qlm.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::qlm {

/// Gives every weight operand of a launch a key of its own.
class WeightKeys {
public:
  /// Names \p weight after the first operation that uses it; two tensors
  /// never share a key. Fails, with a diagnostic, where two `qlm.pack` do.
  LogicalResult name(Value weight, StringRef wanted);

private:
  /// The tensor that has a key.
  llvm::StringMap<Value> owners;
};

/// The buffers of one launch: an operation's operands in order (absent
/// optional ones left out), then its results in order, an updated cache left
/// out; then what the rest of its group needs (LaunchGroup.h).
struct LaunchArguments {
  SmallVector<Attribute> args;
  SmallVector<Value> weights;

  /// Finds the buffers of \p op and names its weights. Fails with a
  /// diagnostic.
  static FailureOr<LaunchArguments> get(Operation *op, WeightKeys &keys);
};

/// Drops what launches have replaced: the operations, the return's operands
/// and the function's results.
void eraseReplaced(func::FuncOp step, ArrayRef<Operation *> replaced);

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_LAUNCHARGUMENTS_H
