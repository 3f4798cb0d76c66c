//===- LinearHooks.h - What a graph adds to a linear's kernel ---*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A graph's linear often takes rows that are rounded first, and gives results
// that something element by element is done to. Both can be part of the
// linear's kernel:
//
//   rows of f32 -> codes, sums of codes     while rows are arranged for AMX
//   result -> what it becomes -> memory     where a result would be stored
//
// so that codes are written once, as AMX reads them, and results once, as what
// follows reads them.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_LINEARHOOKS_H
#define QLM_LIB_LOWER_CPU_LINEARHOOKS_H

#include "Chunks.h"
#include "qlm/Lower/Cpu/Kernels.h"

namespace mlir::qlm::cpu {

struct LinearHooks {
  /// Codes, i8, of 4 * lanes columns from an i64 on; those past the last column
  /// are arbitrary. Bit q of the mask says whether the q-th lanes are wanted.
  using CodesFn = std::function<kernel::Val(kernel::Val column, unsigned mask)>;

  /// Buffers after the linear's own.
  int64_t buffers = 0;
  /// Emits what a row needs before its codes; null where the input is codes.
  /// Stores the row's scale where rounding finds it. The last of the frame's
  /// buffers are the hooks'.
  std::function<CodesFn(kernel::KernelFrame &frame, kernel::Val row,
                        kernel::Ptr inputScales)>
      beginRow;
  /// Stores what the results \p y of a chunk of \p row become; null where they
  /// are stored as they are.
  std::function<void(kernel::KernelFrame &frame, kernel::Val row,
                     const Chunk &chunk, kernel::Val y)>
      store;
};

/// Whether the kernel of \p op arranges int8 rows for AMX, however many.
bool arrangesCodes(PackedLinearOp op, const Target &target);

/// Rows that the kernel of \p op multiplies at once, or half of those: numbers
/// of rows without remainder take the least time.
int64_t getPatchRows(PackedLinearOp op, const Target &target);

/// Emits a kernel of \p op for \p hooks alone, as emitKernel does.
FailureOr<KernelInfo> emitHookedLinear(ModuleOp kernels, PackedLinearOp op,
                                       const Target &target,
                                       const StepLimits &limits,
                                       const LinearHooks &hooks);

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_LINEARHOOKS_H
