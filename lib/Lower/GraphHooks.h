//===- GraphHooks.h - Fused linears inside of one kernel --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_GRAPHHOOKS_H
#define QLM_LIB_LOWER_GRAPHHOOKS_H

#include "Cpu/LinearHooks.h"
#include "GraphRowBlocks.h"

namespace mlir::qlm {

/// What a linear's kernel does of its launch (Cpu/LinearHooks.h): rounds rows
/// where it arranges them, and maps results where it would store them.
struct GraphHooks {
  cpu::LinearHooks hooks;
  /// What the hooks' buffers hold; those with rows begin at the block's first.
  SmallVector<Value> buffers;

  /// The hooks of \p fused, which has to outlive them. \p roundsRows says that
  /// its kernel arranges all rows; those that windows make are made before.
  static GraphHooks get(FusedLinear &fused, const cpu::Target &target,
                        bool roundsRows);
};

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_GRAPHHOOKS_H
