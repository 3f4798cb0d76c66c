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

/// A tile of one head. All are i32.
struct TilePlace {
  /// First row; one past the last.
  kernel::Val firstRow, endRow, head;
};

/// The rows of a tile that are of one sequence. All are i32.
struct Segment {
  kernel::Val sequence, begin, end;
  /// Position of its last row, and with it the last key that is there.
  kernel::Val lastKey;
  /// Blocks of keys [firstBlock, lastBlock) that its rows see, at least one.
  kernel::Val firstBlock, lastBlock;
  /// The sequence's row of the block tables.
  kernel::Ptr pages;
};

class AttentionTile : public TilePlace {
public:
  using Val = kernel::Val;

  AttentionTile(kernel::KernelBuilder &b, const AttentionShape &shape,
                const AttentionBuffers &buffers, int64_t rows,
                int64_t blockKeys)
      : b(b), shape(shape), buffers(buffers), rows(rows), blockKeys(blockKeys),
        positionList(buffers.positions), sequenceList(buffers.tokenSequences) {}

  /// Tiles of a step, of all heads (i32).
  Val count();
  /// Where tile \p number, less than count(), is. The last rows, which see most
  /// keys, come first.
  TilePlace locate(Val number);
  /// Makes it the current tile.
  void select(Val number);
  /// Takes the positions and sequences of the current tile's rows from copies,
  /// `[2, rows]` i32.
  void setLists(kernel::Ptr copies);

  /// Visits the segments in order, carrying \p state along.
  SmallVector<Val> forSegments(
      ArrayRef<Val> state,
      function_ref<SmallVector<Val>(const Segment &, ArrayRef<Val>)> body);

  /// Position of row \p row of the tile.
  Val loadPosition(Val row) { return loadOfRow(positionList, row); }
  Val loadIndex(kernel::Ptr list, Val index) {
    return list.element(b.i32(), index).load(b.i32());
  }
  /// The keys (index 0) or values (1) of the head in the page of token
  /// \p token (i32) of a sequence.
  kernel::Ptr pagePart(const Segment &segment, Val token, int64_t part);

private:
  Val findEnd(Val begin, Val sequence);
  Val searchEnd(Val begin, Val sequence);
  Val loadOfRow(kernel::Ptr list, Val row) {
    return loadIndex(list, firstListed ? row - firstListed : row);
  }

  kernel::KernelBuilder &b;
  const AttentionShape &shape;
  const AttentionBuffers &buffers;
  int64_t rows, blockKeys;
  /// The lists, and the row that they begin with (none: the step's first).
  kernel::Ptr positionList, sequenceList;
  Val firstListed, lastSequence;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_ATTENTIONTILE_H
