//===- FusedRows.h - What launches of fused linears share -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A launch of a fused linear goes over blocks of rows (GraphRowBlocks.h), calls
// other kernels on them, and maps sums to results element by element.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_FUSEDROWS_H
#define QLM_LIB_LOWER_FUSEDROWS_H

#include "Cpu/Chunks.h"
#include "GraphRowBlocks.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace mlir::qlm {

inline RankedTensorType getRanked(Value value) {
  return cast<RankedTensorType>(value.getType());
}

inline int64_t elementBytes(Value value) {
  return getRanked(value).getElementTypeBitWidth() / 8;
}

/// \p base, or that and a number: a name that no kernel has yet.
std::string getFreeKernelName(ModuleOp kernels, StringRef base);

/// Where the rows of operands and results begin.
using RowPlaces = llvm::SmallDenseMap<Value, kernel::Ptr>;

/// The rows of \p value, which is at \p buffer, from \p first on.
kernel::Ptr getRows(Value value, kernel::Ptr buffer, kernel::Val first);

/// Where an operand of \p op, at \p buffer, is read for row \p row.
kernel::Ptr getOperandRow(linalg::GenericOp op, OpOperand &operand,
                          kernel::Ptr buffer, kernel::Val row);

/// The elements, or the element, of an operand of \p op.
kernel::Val loadOperand(kernel::KernelBuilder &b, linalg::GenericOp op,
                        OpOperand &operand, kernel::Ptr row,
                        const cpu::Chunk &chunk);

/// Where maps of the results' row \p row read and write.
RowPlaces getAfterPlaces(const FusedLinear &fused,
                         function_ref<kernel::Ptr(Value)> getBuffer,
                         kernel::Val row);

/// Maps the linear's results \p sums of a chunk and stores what is wanted of
/// them, but not \p sums.
void emitAfterChunk(kernel::KernelBuilder &b, const FusedLinear &fused,
                    const RowPlaces &places, const cpu::Chunk &chunk,
                    kernel::Val sums);

/// Emits into a kernel whose buffers are the inputs and stored results of a
/// fused linear.
class FusedRows {
protected:
  using Val = kernel::Val;
  using Ptr = kernel::Ptr;

  /// Rows of a block, and the tiles of the linear's kernel that are wanted.
  struct Part {
    Val block, first, count, from, to;
  };

  FusedRows(const cpu::Target &target, FusedLinear &fused,
            const RowBlocks &blocks, func::FuncOp function);

  /// Gives the kernels that are called \p bytes of scratch.
  void takeScratch(int64_t bytes);
  /// Runs \p make, unless this thread has made the block of \p part before.
  void makeOnce(const Part &part, llvm::function_ref<void()> make);

  /// Bytes of scratch that were taken.
  int64_t getScratchBytes() const { return scratchBytes; }
  int64_t take(int64_t bytes);

  Ptr getBuffer(Value value) const;
  /// The rows of \p value from \p first on.
  Ptr getRows(Value value, Val first);

  /// Visits the blocks of \p rows rows that the launch's tiles want, with
  /// multiples of \p unit rows each; as countTiles counts them.
  void forBlocks(Val rows, int64_t unit,
                 llvm::function_ref<void(const Part &)> body);

  /// Calls tiles [\p lo, \p hi) of a kernel for \p rows rows.
  void call(func::FuncOp callee, ArrayRef<Ptr> pointers, Val rows, Val lo,
            Val hi);

  /// Where maps of row \p row read and write.
  RowPlaces getPlaces(Val row) {
    return getAfterPlaces(
        fused, [&](Value value) { return getBuffer(value); }, row);
  }

  FusedLinear &fused;
  RowBlocks blocks;
  kernel::KernelFrame frame;
  kernel::KernelBuilder &b;
  int64_t lanes;

private:
  /// Arguments of a call.
  Ptr list, sizes;
  int64_t scratchBytes = 0;
  /// In scratch: which block's rows are made, one more than its number, and the
  /// scratch of the kernels that are called.
  int64_t madeBlock = 0, callees = 0;
};

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_FUSEDROWS_H
