//===- DecodeEmitter.h - Writes decoding attention --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// AttentionDecode.cpp, which describes the kernel, has what a block computes of
// its keys; AttentionStages.cpp brings them to shared memory,
// AttentionCombine.cpp adds the parts of warps and blocks.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_DECODEEMITTER_H
#define QLM_LIB_LOWER_CUDA_DECODEEMITTER_H

#include "Attention.h"
#include "AttentionFragments.h"

namespace mlir::qlm::cuda {

/// Floats of one part: outputs, maxima and sums of the rows, in whole vectors.
inline int64_t partFloats(const AttentionShape &shape) {
  return llvm::alignTo(DecodePlan::rows(shape) * (shape.headDim + 2), 4);
}

/// Keys that a warp takes at once.
inline constexpr int64_t kBlockKeys = 16;

/// A part of attention in memory: `[rows, headDim]` outputs, `[rows]` maxima,
/// `[rows]` sums, all f32.
struct Part {
  kernel::Ptr outputs, maxima, sums;
  Part(kernel::Ptr base, int64_t rows, int64_t headDim)
      : outputs(base), maxima(base.at(rows * headDim * 4)),
        sums(base.at(rows * (headDim + 1) * 4)) {}
};

/// Features that a thread combines at once.
inline constexpr int64_t kVectorLanes = 4;

/// The same for who watches it: `[rows, headDim]` outputs, `[rows]` pairs of
/// maximum and sum.
struct WatchedPart {
  kernel::Ptr outputs, rows;
  WatchedPart(kernel::Ptr base, int64_t rows, const AttentionShape &shape)
      : outputs(base), rows(base.at(rows * shape.headDim * 4)) {}
};

class DecodeEmitter {
public:
  DecodeEmitter(kernel::KernelBuilder &b, const AttentionShape &shape,
                const DecodePlan &plan, const AttentionBuffers &buffers)
      : b(b), ptx(b), shape(shape), plan(plan), buffers(buffers),
        fragments(b, shape), rows(DecodePlan::rows(shape)),
        rowSets(rows > 8 ? 2 : 1) {}

  void emit();

private:
  void findItem();
  void emitRow();
  void findShares();
  /// Chunks of \p count neighbouring ones, the first its own, that a block has.
  kernel::Val turns(kernel::Val count) {
    return (count + (shares - 1)) >> shareBits;
  }
  void findRow(function_ref<void()> body);
  void loadQueries();
  SmallVector<kernel::Val> attend();
  Fragments::Block loadBlock(kernel::Val first);
  SmallVector<kernel::Val> attendBlock(kernel::Val first, kernel::Val stage,
                                       ArrayRef<kernel::Val> state);
  void initStages();
  void startCopies();
  kernel::Ptr keysOf(kernel::Val page);
  void copyChunk(kernel::Val index, kernel::Val page);
  void refill(kernel::Val index, kernel::Val count, kernel::Val page);
  /// Number of the split's chunk \p index among all.
  kernel::Val chunkOf(kernel::Val index) {
    return firstChunk + (index << shareBits);
  }
  void forOwnRow(function_ref<void(Type type, kernel::Val kind,
                                   kernel::Val offset, kernel::Val exists)>
                     visit);
  void loadOwnRow(kernel::Ptr part);
  void storeOwnRow(kernel::Val stage);
  kernel::Val stageAddress(kernel::Val stage);
  kernel::Val stageBarrier(kernel::Val stage, int64_t which);
  void waitForPrevious() {
    if (shape.chip >= 90)
      ptx.waitForPrevious();
  }
  void syncWarp() {
    ptx.assemble("bar.warp.sync 0xffffffff;", "~{memory}", {}, {}, true);
  }
  int64_t chunkKeys() const { return plan.warps * kBlockKeys; }
  void storeWarp(ArrayRef<kernel::Val> state);
  /// A vector of a part, and its row's maximum and sum.
  struct Merged {
    kernel::Val maximum, sum, outputs;
  };
  Merged mergeWarps(kernel::Val index);
  void combineWarps(const Part &total);
  void combineParts(kernel::Ptr parts);
  void combineSplits();
  void combineOwn();
  void combineBlocks();
  void combineWatched();
  void combineWatched(kernel::Ptr parts, kernel::Val present, int64_t splits);
  kernel::Ptr itemParts();
  // Words that say themselves that they are there: memory is zero before.
  /// Stores two or four f32, zeros as -0.
  void show(kernel::Ptr place, ArrayRef<kernel::Val> values);
  /// Waits until four words at \p four and two at \p two are there, and those
  /// \p stride bytes further, and so on, \p count in all, of which bits of
  /// \p mask (i32) are set; gives six f32 each. What isn't waited for is one.
  SmallVector<kernel::Val> watch(kernel::Ptr four, kernel::Ptr two,
                                 int64_t stride, int64_t count,
                                 kernel::Val mask);
  /// Gives vector \p index of each part.
  using LoadVector = function_ref<SmallVector<Merged>(kernel::Val index)>;
  void combine(LoadVector load);
  int64_t rowVectors() const { return shape.headDim / kVectorLanes; }
  kernel::Val vectorCount();
  kernel::Val loadIndex(kernel::Ptr list, kernel::Val index) {
    return list.element(b.i32(), index).load(b.i32());
  }
  Part warpPart(kernel::Val warp) {
    return Part(buffers.shared.at(warp * (partFloats(shape) * 4)), rows,
                shape.headDim);
  }

  kernel::KernelBuilder &b;
  Ptx ptx;
  const AttentionShape &shape;
  DecodePlan plan;
  const AttentionBuffers &buffers;
  Fragments fragments;
  int64_t rows, rowSets;

  // i32 of the block: its split; token, KV head and tile of heads; the keys
  // the token sees, the first of them.
  // `hasWork` (i1) is null where all blocks of a row have work.
  kernel::Val thread, warp, split, item, token, kvHead, firstHead, position,
      sequence, keys, start, hasWork;
  /// The first chunk with a key; the split's chunks: first, first + shares, ...
  /// below last.
  kernel::Val startChunk, firstChunk, lastChunk;
  /// Blocks that share the context, and its logarithm.
  kernel::Val shares, shareBits;
  kernel::Val sharedAddress;
  kernel::Ptr pages;
  SmallVector<kernel::Val> low, high;
  /// Whether the warp (i1) needs the row's own key and value, and its pieces.
  kernel::Val ownsRow;
  SmallVector<kernel::Val> ownRow;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_DECODEEMITTER_H
