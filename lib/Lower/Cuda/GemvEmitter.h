//===- GemvEmitter.h - Writes the body of a GEMV ----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Parts of one class: Gemv.cpp has the ring and the products, GemvInput.cpp
// brings x to shared memory, GemvResults.cpp adds what the warps found and
// stores y. Gemv.h describes the kernel, GemvPlan.cpp cuts it.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_GEMVEMITTER_H
#define QLM_LIB_LOWER_CUDA_GEMVEMITTER_H

#include "Gemv.h"
#include "LinearEpilogue.h"
#include "LinearTables.h"

namespace mlir::qlm::cuda {

/// Bytes of a row in the right operands of two steps.
inline constexpr int64_t kInputBlock = 4 * kPieceBytes;
/// Barrier of the warps that multiply.
inline constexpr int64_t kConsumers = 1;
/// Barriers of the warps of both teams that have the same columns.
inline constexpr int64_t kFirstPair = 2;

class GemvEmitter {
public:
  GemvEmitter(kernel::GpuKernelFrame &frame, const LinearShape &shape,
              const GemvPlan &plan, const LinearBuffers &buffers,
              LinearPairs *pairs)
      : frame(frame), b(frame.builder()), shape(shape), plan(plan),
        buffers(buffers), pairs(pairs), shared(frame.dynamicShared()),
        tables(frame, shape, buffers, shared.at(plan.tables), plan.tableCopies),
        unpacker(b, shape, tables),
        epilogue(b, shape, buffers, unpacker.factor()) {}
  void emit();

private:
  /// Where a ring stands: its slot, and the parity of that slot's turn.
  struct RingPlace {
    kernel::Val slot, parity;
  };

  /// The blocks of features of a warp, in the order of the ring.
  struct Share {
    int64_t blocks = 0; ///< at most
    int64_t teams = 1;
    kernel::Val firstUnit; ///< among the thread block's
    kernel::Val others;    ///< slots of the other team between two rounds
  };

  kernel::Mbarrier full(kernel::Val slot) {
    return kernel::Mbarrier(shared.at(plan.barriers).at(slot * 8), b);
  }
  kernel::Mbarrier empty(kernel::Val slot) {
    return kernel::Mbarrier(
        shared.at(plan.barriers + 8 * plan.slots).at(slot * 8), b);
  }
  kernel::Val number(int64_t value) { return b.constant(b.i32(), value); }
  RingPlace advance(RingPlace place);
  RingPlace skip(RingPlace place, kernel::Val slots);
  /// Visits the slots in order, rounds outside, blocks of features inside, up
  /// to \p together blocks at a time.
  SmallVector<kernel::Val> forSlots(
      int64_t together, ArrayRef<kernel::Val> init,
      function_ref<void(kernel::Val round)> startRound,
      function_ref<void(ArrayRef<RingPlace>, kernel::Val round, int64_t block,
                        MutableArrayRef<kernel::Val> carried)>
          visit);
  kernel::Val isOwn(int64_t block);
  bool isOfSameUnit(int64_t block, int64_t other) const;
  kernel::Val blockNumber(int64_t block);
  LinearPairs::Place pairPlace();

  void emitProducer();
  void emitCopies(RingPlace place, kernel::Val round, int64_t block);
  void emitConsumer();
  bool copiesInput() const;
  int64_t roundsAhead() const;
  void copyInput(kernel::Val round);
  void beginInput();
  void awaitInput(kernel::Val round);
  void emitUnalignedInput();
  void emitNormalizedInput();
  SmallVector<kernel::Val> loadEight(kernel::Ptr from, kernel::Val piece,
                                     bool isInside = false);
  void storeNormalized(kernel::Val token, kernel::Val piece,
                       ArrayRef<kernel::Val> x, ArrayRef<kernel::Val> w,
                       kernel::Val factor);
  kernel::Val normFactor(kernel::Val token, kernel::Val sum);
  kernel::Ptr inputPiece(kernel::Val number, kernel::Val piece);
  kernel::Ptr inputPlace(kernel::Val token, kernel::Val piece);
  kernel::Val sourceRow(kernel::Val token);
  void loadOperands(kernel::Val round);
  void multiply(ArrayRef<RingPlace> places, kernel::Val round, int64_t block,
                MutableArrayRef<kernel::Val> sums);
  SmallVector<kernel::Val>
  multiplySlots(ArrayRef<RingPlace> places,
                ArrayRef<SmallVector<kernel::Val>> shared,
                ArrayRef<kernel::Val> sums);
  int64_t blockSums() const;
  bool allHaveColumns() const;
  kernel::Val hasColumns(kernel::Val round);
  int64_t segmentCount() const;
  SmallVector<kernel::Val> loadCommon(int64_t block);
  SmallVector<SmallVector<kernel::Val>>
  loadScales(kernel::Ptr slot, ArrayRef<kernel::Val> common);
  SmallVector<kernel::Val> decodeScales(kernel::Ptr slot,
                                        ArrayRef<kernel::Val> common);
  SmallVector<kernel::Val> loadZeros(kernel::Ptr slot, int64_t segment);
  kernel::Val groupInSlot(kernel::Val segment);
  void emitResults(ArrayRef<kernel::Val> sums);
  /// An element of y, or a pair, among the thread block's own of a row.
  struct Output {
    kernel::Val number;                 ///< as the thread block counts
    SmallVector<kernel::Val, 2> locals; ///< its sums among the block's features
    SmallVector<kernel::Val, 2> features; ///< and among those of the linear
    kernel::Val place;                    ///< column of y
    kernel::Val exists;
  };
  void holdOutliers();
  void storeOutlierParts();
  kernel::Val addOutlierParts(kernel::Val row, kernel::Val feature);
  int64_t outputCount() const;
  Output locate(kernel::Val number);
  void holdTerms(bool isFixed);
  int64_t termCount(bool isFixed) const;

  kernel::GpuKernelFrame &frame;
  kernel::KernelBuilder &b;
  const LinearShape &shape;
  const GemvPlan &plan;
  const LinearBuffers &buffers;
  LinearPairs *pairs;
  kernel::Ptr shared;
  LinearTables tables;
  WeightUnpacker unpacker;
  LinearEpilogue epilogue;
  /// Of the thread's result, where it has one at most; empty otherwise.
  SmallVector<EpilogueTerms> heldTerms;
  /// Of the row whose outliers the thread adds.
  kernel::Val outlierCount;

  kernel::Val thread, warp, lane, first, count, rows;
  /// Of a warp that multiplies: its number in its team, and that.
  kernel::Val column, team;
  Share share;
  /// The first group of a round, and the last one's number in its slots, where
  /// that matters.
  kernel::Val firstGroup, lastGroup;
  /// Right operands of the warp's columns of a round: two a step.
  SmallVector<SmallVector<kernel::Val>> operands;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_GEMVEMITTER_H
