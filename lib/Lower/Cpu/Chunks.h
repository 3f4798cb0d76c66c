//===- Chunks.h - Loops over a row in whole vectors and a rest --*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Rows have static lengths that vectors needn't divide. Loads of the last
// vector read past the row, which ::qlm::format allows up to 63 bytes past a
// buffer; what they read there is arbitrary, so it must not enter a sum. Stores
// are masked: the next row may already hold its result.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_CHUNKS_H
#define QLM_LIB_LOWER_CPU_CHUNKS_H

#include "qlm/Lower/Kernel/Builder.h"

namespace mlir::qlm::cpu {

/// Up to `lanes` consecutive elements of a row.
struct Chunk {
  /// Index (i64) of the first element.
  kernel::Val first;
  /// Elements of a vector, and how many of them belong to the row.
  int64_t lanes = 0, count = 0;
  /// Where only the run time knows which belong to it: a mask of them.
  kernel::Val mask = {};

  bool isWhole() const { return count == lanes && !mask; }
  /// Loads the chunk of the row at \p row, extended to f32. Lanes past the row
  /// are arbitrary.
  kernel::Val load(kernel::KernelBuilder &b, kernel::Ptr row,
                   Type element) const;
  /// \p value with \p other in the lanes past the row.
  kernel::Val fill(kernel::KernelBuilder &b, kernel::Val value,
                   double other) const;
  /// Stores the chunk's elements of \p value, whose type is the row's.
  void store(kernel::KernelBuilder &b, kernel::Ptr row,
             kernel::Val value) const;
};

/// Visits the elements [lo, hi) of a row of \p length elements, where lo is a
/// multiple of \p lanes and hi one too, or the length. Whole chunks first.
void forChunks(kernel::KernelBuilder &b, kernel::Val lo, kernel::Val hi,
               int64_t length, int64_t lanes,
               function_ref<void(const Chunk &)> body);

/// Visits a whole row of \p length elements.
void forChunks(kernel::KernelBuilder &b, int64_t length, int64_t lanes,
               function_ref<void(const Chunk &)> body);

/// Folds a row of \p length elements into one vector: `accumulators` of them
/// take turns, then are joined pairwise. The order depends on nothing but the
/// length.
kernel::Val
foldChunks(kernel::KernelBuilder &b, int64_t length, kernel::Val init,
           function_ref<kernel::Val(kernel::Val, const Chunk &)> add,
           function_ref<kernel::Val(kernel::Val, kernel::Val)> join);

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_CHUNKS_H
