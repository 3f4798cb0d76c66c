//===- DecodeEmitter.h - Writes decoding attention --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// AttentionDecode.cpp, which describes the kernel, has what a block computes of
// its keys; AttentionCombine.cpp adds the parts of warps and blocks.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_DECODEEMITTER_H
#define QLM_LIB_LOWER_CUDA_DECODEEMITTER_H

#include "Attention.h"
#include "AttentionFragments.h"

#include <limits>

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

class DecodeEmitter {
public:
  DecodeEmitter(kernel::KernelBuilder &b, const AttentionShape &shape,
                const DecodePlan &plan, AttentionRows which,
                const AttentionBuffers &buffers)
      : b(b), ptx(b), shape(shape), plan(plan), which(which), buffers(buffers),
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
  void copyChunk(kernel::Val index);
  void refill(kernel::Val index, kernel::Val count);
  kernel::Val stageAddress(kernel::Val stage);
  kernel::Val stageBarrier(kernel::Val stage, int64_t which);
  void waitForPrevious() {
    if (shape.chip >= 90)
      ptx.waitForPrevious();
  }
  int64_t chunkKeys() const { return plan.warps * kBlockKeys; }
  void storeWarp(ArrayRef<kernel::Val> state);
  void combineWarps(const Part &total);
  void combineParts(kernel::Ptr parts, bool isShared);
  void combineSplits();
  void combineOwn();
  void combineBlocks();
  using LoadOutputs =
      function_ref<SmallVector<kernel::Val>(int64_t split, kernel::Val index)>;
  using LoadRow = function_ref<std::pair<kernel::Val, kernel::Val>(
      int64_t split, kernel::Val row)>;
  void combine(int64_t splits, kernel::Val lo, kernel::Val hi, LoadRow loadRow,
               LoadOutputs loadOutputs);
  kernel::Val loadIndex(kernel::Ptr list, kernel::Val index) {
    return list.element(b.i32(), index).load(b.i32());
  }
  Part warpPart(kernel::Val warp) {
    return Part(buffers.shared.at(warp * (partFloats(shape) * 4)), rows,
                shape.headDim);
  }
  kernel::Val infinity() {
    return b.constant(b.f32(), -std::numeric_limits<double>::infinity());
  }
  /// Zero where a maximum is -infinity (no key seen), so that differences
  /// with it are numbers.
  kernel::Val finite(kernel::Val maximum) {
    return b.select(maximum == infinity(), b.constant(b.f32(), 0.0), maximum);
  }

  kernel::KernelBuilder &b;
  Ptx ptx;
  const AttentionShape &shape;
  DecodePlan plan;
  AttentionRows which;
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
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_DECODEEMITTER_H
