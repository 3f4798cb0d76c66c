//===- AttentionWgmma.h - What the warps of wgmma attention do --*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// AttentionWgmma.cpp, which describes the kernel, gives warps their roles;
// AttentionWgmmaCopies.cpp has the warps that copy, AttentionWgmmaSteps.cpp
// those that multiply.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_ATTENTIONWGMMA_H
#define QLM_LIB_LOWER_CUDA_ATTENTIONWGMMA_H

#include "AttentionTile.h"

namespace mlir::qlm::cuda {

/// Sums, and what they stand for, of rows g and g + 8 of a warp.
struct RowState {
  using Val = kernel::Val;

  Val maxima[2], sums[2];
  SmallVector<Val> outputs;

  static RowState unpack(ArrayRef<Val> values) {
    return {{values[0], values[1]},
            {values[2], values[3]},
            SmallVector<Val>(values.drop_front(4))};
  }
  SmallVector<Val> pack() const {
    SmallVector<Val> values = {maxima[0], maxima[1], sums[0], sums[1]};
    values.append(outputs);
    return values;
  }
};

class WgmmaEmitter {
public:
  using Val = kernel::Val;
  using Ptr = kernel::Ptr;

  WgmmaEmitter(kernel::KernelBuilder &b, const AttentionShape &shape,
               const WgmmaPlan &plan, const AttentionBuffers &buffers)
      : b(b), ptx(b), shape(shape), plan(plan), buffers(buffers),
        tile(b, shape, buffers, plan.blockRows(), plan.blockKeys) {}

  void emit();

private:
  void initBarriers();
  void emitRoles();

  // Tiles: the n-th of the block lies in slot n % slots.
  /// The turn of the block's first tile.
  Val firstTurn();
  /// Calls \p body for each tile of the block, as the loaders announce them,
  /// and carries values along; \p body is given the tile's place in the block
  /// and its number.
  SmallVector<Val> forTiles(
      ArrayRef<Val> state,
      function_ref<SmallVector<Val>(Val place, Val tileNumber, ArrayRef<Val>)>
          body);
  Val awaitTile(Val place);

  // Loaders: warps that bring a tile's rows. The n-th tile to be taken is
  // tileOf(n).
  void load();
  Val findHeadsAtOnce();
  Val tileOf(Val turn);
  Val announceTile(Val place, Val turn);
  Val loadQueries(Val place);
  Val convertPiece(Ptr source);

  // The thread that copies pages.
  void copyPages();
  void copyBlock(const Segment &segment, Val block, Val count, int64_t part);

  // Consumers. A consumer carries from one block of keys to the next what it
  // has of its rows, and the weights of the last block, whose values are still
  // to be multiplied.
  struct Pending {
    RowState state;
    SmallVector<Val> weights;
    /// Blocks so far; keys that the last one holds; its tile's number.
    Val count, filled, tile;
  };
  SmallVector<Val> pack(const Pending &pending);
  Pending unpack(ArrayRef<Val> values);
  void consume();
  Val rowOf(const TilePlace &place);
  void findRows();
  Pending attendSegment(const Segment &segment, Val place, Val tileNumber,
                        Pending pending);
  Pending beginBlocks(const Segment &segment, Val place, Pending pending);
  Pending enterSegment(const Segment &segment, Val place, Val tileNumber,
                       Pending pending);
  Pending attendBlocks(const Segment &segment, Val place, Val lo, Val hi,
                       const Pending &start, bool isMasked);
  void finish(Pending pending);
  struct Descriptors {
    SmallVector<Val> queries, keys, values;
  };
  Descriptors getDescriptors(Val place, Val count, Val valueCount);
  SmallVector<Val> multiplyKeys(const Descriptors &descriptors);
  SmallVector<Val> multiplyValues(ArrayRef<Val> outputs, ArrayRef<Val> weights,
                                  const Descriptors &descriptors);
  std::pair<SmallVector<Val>, SmallVector<Val>>
  awaitValues(const Pending &pending, ArrayRef<Val> scores);
  void zeroTail(const Pending &pending);
  Val wholeBlocks(const Segment &segment);
  void mask(const Segment &segment, Val block, MutableArrayRef<Val> scores);
  SmallVector<Val> softmax(MutableArrayRef<Val> scores, RowState &state,
                           bool isMasked);
  SmallVector<Val> packWeights(ArrayRef<Val> scores);
  void rescale(RowState &state, ArrayRef<Val> corrections);
  void store(const Pending &pending);
  void storeFloats(ArrayRef<Val> own, Val inverse, Ptr row, Val isDone);
  void storeHalves(ArrayRef<Val> own, Val inverse, Ptr row, Val isDone);
  void transposeQuad(MutableArrayRef<Val> words);

  // Shared memory (i32 addresses): queries, keys, values, rows, barriers.
  int64_t planes() const { return shape.headDim / kPlaneFeatures; }
  int64_t groupBytes() const { return kGroupRows * shape.rowBytes(); }
  int64_t slotBytes() const { return plan.consumers * groupBytes(); }
  int64_t stageBytes() const { return plan.blockKeys * shape.rowBytes(); }
  int64_t planeBytes() const { return plan.blockKeys * kPlaneRowBytes; }
  int64_t ringStart() const { return plan.slots * slotBytes(); }
  int64_t rowsStart() const {
    return ringStart() + 2 * plan.stages * stageBytes();
  }
  int64_t barrierStart() const {
    return rowsStart() + plan.slots * plan.rowsBytes();
  }
  Val slot(Val place) { return plan.slots == 1 ? number(0) : place & 1; }
  Ptr queriesOf(Val place) {
    return buffers.shared.at(slot(place) * slotBytes());
  }
  /// Positions and sequences of the tile's rows, then its number.
  Ptr rowsOf(Val place) {
    return buffers.shared.at(rowsStart()).at(slot(place) * plan.rowsBytes());
  }
  Ptr stage(Val count, int64_t part) {
    return buffers.shared.at(ringStart() + part * plan.stages * stageBytes())
        .at(count % plan.stages * stageBytes());
  }
  /// Barriers of keys (0) and values (1), full (0) and empty (1).
  Val barrier(Val count, int64_t part, int64_t which) {
    return shared + (count % plan.stages * 8 +
                     (barrierStart() + (part * 2 + which) * plan.stages * 8));
  }
  Val parity(Val count) { return count / plan.stages & 1; }
  /// Barriers of a slot: its rows are there, its queries too, it is empty.
  enum SlotBarrier { RowsFull, QueriesFull, SlotEmpty };
  Val barrier(Val place, SlotBarrier which) {
    return shared +
           (slot(place) * 8 +
            (barrierStart() + (4 * plan.stages + which * plan.slots) * 8));
  }
  Val slotParity(Val place) {
    return plan.slots == 1 ? place & 1 : (place >> 1) & 1;
  }

  void groupBarrier();
  void release(Val count, int64_t part) { ptx.arrive(barrier(count, part, 1)); }

  Val makeDescriptor(Val address, int64_t leading);
  Val number(int64_t value) { return b.constant(b.i32(), value); }

  static constexpr int64_t kGroupRows = WgmmaPlan::kGroupRows;
  static constexpr int64_t kGroupThreads = 128;
  /// The first thread of warp 0 copies pages; the other warps load.
  static constexpr int64_t kLoaders = 96;
  /// The number that is announced behind the last tile.
  static constexpr int64_t kNoTile = -1;
  static constexpr int64_t kPlaneFeatures = 64, kPlaneRowBytes = 128;

  kernel::KernelBuilder &b;
  Ptx ptx;
  const AttentionShape &shape;
  WgmmaPlan plan;
  const AttentionBuffers &buffers;
  AttentionTile tile;

  Val shared, thread, group, lane, quad;
  /// Heads times tiles of rows; heads whose tiles come after one another.
  Val tiles, headsAtOnce;
  /// First row of the warpgroup; the thread's rows and their positions.
  Val groupRow, rows[2], positions[2];
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_ATTENTIONWGMMA_H
