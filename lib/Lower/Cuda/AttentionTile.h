//===- AttentionTile.h - A tile of query rows and its sequences -*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Prefilling attention cuts a step's rows into tiles of fixed size, whatever
// sequences they are of. A tile visits its sequences one after the other; rows
// of others are masked meanwhile, which leaves their sums as they are, to the
// bit. So a row's result does not depend on where its tile begins.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_ATTENTIONTILE_H
#define QLM_LIB_LOWER_CUDA_ATTENTIONTILE_H

#include "Attention.h"

namespace mlir::qlm::cuda {

/// The rows of a tile that are of one sequence. All are i32.
struct Segment {
  kernel::Val sequence, begin, end;
  /// Blocks of keys [firstBlock, lastBlock) that its rows see; none where the
  /// kernel leaves the rows alone.
  kernel::Val firstBlock, lastBlock;
  /// The sequence's row of the block tables.
  kernel::Ptr pages;
};

class AttentionTile {
public:
  using Val = kernel::Val;

  AttentionTile(kernel::KernelBuilder &b, const AttentionShape &shape,
                AttentionRows which, const AttentionBuffers &buffers,
                int64_t rows, int64_t blockKeys)
      : b(b), shape(shape), which(which), buffers(buffers), rows(rows),
        blockKeys(blockKeys) {}

  /// Finds the tile and head of block \p block; calls \p body if there is one.
  /// The last tiles, which see most keys, come first.
  void find(Val block, function_ref<void()> body);

  /// Visits the segments in order, carrying \p state along.
  SmallVector<Val> forSegments(
      ArrayRef<Val> state,
      function_ref<SmallVector<Val>(const Segment &, ArrayRef<Val>)> body);

  /// First row; one past the last; the head and its KV head.
  Val firstRow, endRow, head, kvHead;

  Val loadIndex(kernel::Ptr list, Val index) {
    return list.element(b.i32(), index).load(b.i32());
  }
  /// The keys (index 0) or values (1) of the head in the page of token
  /// \p token (i32) of a sequence.
  kernel::Ptr pagePart(const Segment &segment, Val token, int64_t part);

private:
  Val findEnd(Val begin, Val sequence);
  Val searchEnd(Val begin, Val sequence);

  kernel::KernelBuilder &b;
  const AttentionShape &shape;
  AttentionRows which;
  const AttentionBuffers &buffers;
  int64_t rows, blockKeys;
  Val lastSequence;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_ATTENTIONTILE_H
