//===- AttentionCombine.cpp - Adds parts of decoding attention ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DecodeEmitter.h"

#include "qlm/Lower/Cuda/Kernels.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Writes the warp's part to shared memory.
void DecodeEmitter::storeWarp(ArrayRef<Val> state) {
  Part part = warpPart(warp);
  for (int64_t set = 0; set < rowSets; ++set) {
    Val row = fragments.group() + 8 * set;
    Val sum = state[rowSets + set];
    sum = sum + ptx.shuffleXor(sum, 1);
    sum = sum + ptx.shuffleXor(sum, 2);
    b.ifThen(row < rows, [&] {
      b.ifThen(fragments.quad() == 0, [&] {
        part.maxima.element(b.f32(), row).store(state[set]);
        part.sums.element(b.f32(), row).store(sum);
      });
      SmallVector<Val> outputs;
      for (int64_t tile = 0; tile < fragments.outputTiles(); ++tile)
        for (int64_t i = 0; i < 4; ++i)
          outputs.push_back(
              state[2 * rowSets + (tile * rowSets + (i / 2) % rowSets) * 2 +
                    i % 2]);
      fragments.storeOutputs(part.outputs.at(row * (shape.headDim * 4)),
                             outputs, /*high=*/set == 1,
                             b.constant(b.f32(), 1.0), b.f32());
    });
  }
}

/// Sums the warps' parts to \p total, in the order of warps.
void DecodeEmitter::combineWarps(const Part &total) {
  auto forWarps = [&](Val row, function_ref<void(Part, Val weight)> body) {
    Val maximum = infinity();
    SmallVector<Val> maxima;
    for (int64_t w = 0; w < plan.warps; ++w) {
      Part part = warpPart(constantLike(warp, w));
      maxima.push_back(part.maxima.element(b.f32(), row).load(b.f32()));
      maximum = ptx.larger(maximum, maxima.back());
    }
    for (int64_t w = 0; w < plan.warps; ++w)
      body(warpPart(constantLike(warp, w)),
           ptx.exp2(maxima[w] - finite(maximum)));
    return maximum;
  };
  b.ifThen(thread < rows, [&] {
    Val sum = b.constant(b.f32(), 0.0);
    Val maximum = forWarps(thread, [&](Part part, Val weight) {
      sum =
          b.fma(part.sums.element(b.f32(), thread).load(b.f32()), weight, sum);
    });
    total.maxima.element(b.f32(), thread).store(maximum);
    total.sums.element(b.f32(), thread).store(sum);
  });
  int64_t vectors = rows * shape.headDim / 4;
  b.forRange(
      thread, constantLike(thread, vectors), plan.threads(), [&](Val index) {
        Val row = index / (shape.headDim / 4);
        Val sum = b.zero(b.vec(4, b.f32()));
        forWarps(row, [&](Part part, Val weight) {
          Val output = part.outputs.at(index * 16).load(b.vec(4, b.f32()), 16);
          sum = b.fma(output, b.broadcast(weight, 4), sum);
        });
        total.outputs.at(index * 16).store(sum, 16);
      });
}

/// Sums vectors lo .. hi - 1 (i32, by thread; four elements each) of the
/// splits' parts, in the order of splits, and stores them.
void DecodeEmitter::combine(int64_t splits, Val lo, Val hi, LoadRow loadRow,
                            LoadOutputs loadOutputs) {
  constexpr int64_t kLanes = 4;
  Val head = kvHead * shape.group() + firstHead;
  Val count = b.min(constantLike(head, rows), shape.group() - firstHead);
  hi = b.min(hi, count * (shape.headDim / kLanes));
  int64_t bytes = shape.result.getIntOrFloatBitWidth() / 8;
  Val feature = (token * shape.heads + head) * shape.headDim;
  Ptr results = buffers.result.at(b.extendSigned(feature, b.i64()) * bytes);
  b.forRange(lo + thread, hi, plan.threads(), [&](Val index) {
    Val row = index / (shape.headDim / kLanes);
    SmallVector<std::pair<Val, Val>> parts;
    SmallVector<SmallVector<Val>> outputs;
    for (int64_t s = 0; s < splits; ++s) {
      parts.push_back(loadRow(s, row));
      outputs.push_back(loadOutputs(s, index));
    }
    Val maximum = infinity(), sum = b.constant(b.f32(), 0.0);
    for (auto [other, partSum] : parts)
      maximum = ptx.larger(maximum, other);
    SmallVector<Val> totals(kLanes, sum);
    for (int64_t s = 0; s < splits; ++s) {
      Val weight = ptx.exp2(parts[s].first - maximum);
      sum = b.fma(parts[s].second, weight, sum);
      for (int64_t i = 0; i < kLanes; ++i)
        totals[i] = b.fma(outputs[s][i], weight, totals[i]);
    }
    Val inverse = 1.0 / sum;
    for (Val &total : totals)
      total = total * inverse;
    if (bytes == 4) {
      Val vector = b.zero(b.vec(kLanes, b.f32()));
      for (int64_t i = 0; i < kLanes; ++i)
        vector = b.insert(vector, totals[i], i);
      results.at(index * 16).store(vector, 16);
      return;
    }
    HalfType half = shape.result.isBF16() ? HalfType::BF16 : HalfType::F16;
    Val vector = b.zero(b.vec(2, b.i32()));
    for (int64_t i = 0; i < 2; ++i)
      vector =
          b.insert(vector, ptx.pack(totals[2 * i], totals[2 * i + 1], half), i);
    results.at(index * 8).store(vector, 8);
  });
}

/// Combines parts in memory: that of split 0 at \p parts, and so on. Splits
/// without keys have none; the block's own stands for it, with weight zero.
void DecodeEmitter::combineParts(Ptr parts, bool isShared) {
  Val own = isShared ? split : constantLike(split, int64_t(0));
  Val count = lastChunk - startChunk;
  auto exists = [&](int64_t s) {
    // Chunks startChunk, startChunk + 1, ... are of splits in turn.
    Val isOne = ((s - startChunk) & (shares - 1)) < count;
    return plan.isAdaptive() && s ? isOne & (shares > s) : isOne;
  };
  auto part = [&](int64_t s) {
    Val place = b.select(exists(s), constantLike(split, s), own);
    return Part(parts.at(place * (partFloats(shape) * 4)), rows, shape.headDim);
  };
  combine(
      isShared ? plan.splits : 1, constantLike(thread, int64_t(0)),
      constantLike(thread, rows * shape.headDim / 4),
      [&](int64_t s, Val row) {
        Val maximum = part(s).maxima.element(b.f32(), row).load(b.f32());
        return std::make_pair(b.select(exists(s), maximum, infinity()),
                              part(s).sums.element(b.f32(), row).load(b.f32()));
      },
      [&](int64_t s, Val index) {
        Val vector = part(s).outputs.at(index * 16).load(b.vec(4, b.f32()), 16);
        SmallVector<Val> elements;
        for (int64_t i = 0; i < 4; ++i)
          elements.push_back(vector.lane(i));
        return elements;
      });
}

void DecodeEmitter::combineSplits() {
  if (plan.splits == 1)
    return combineOwn();
  if (plan.fewest > 1)
    return combineBlocks();
  b.ifElse(shares == 1, [&] { combineOwn(); }, [&] { combineBlocks(); });
}

/// The block has all of the context.
void DecodeEmitter::combineOwn() {
  Part total = warpPart(constantLike(warp, plan.warps));
  combineWarps(total);
  ptx.barrier();
  combineParts(total.outputs, /*isShared=*/false);
}

void DecodeEmitter::combineBlocks() {
  int64_t bytes = partFloats(shape) * 4;
  Ptr parts = buffers.workspace.at(kCounterBytes)
                  .at(b.extendSigned(item, b.i64()) * (plan.splits * bytes));
  combineWarps(Part(parts.at(split * bytes), rows, shape.headDim));
  // Release the part, count it, acquire the others'; shared memory tells all
  // threads.
  ptx.assemble("fence.acq_rel.gpu;", "~{memory}", {}, {}, true);
  ptx.barrier();
  Ptr counter = buffers.workspace.element(b.i32(), item);
  Ptr flag = buffers.shared;
  Val last = b.min(shares, lastChunk - startChunk) - 1;
  b.ifThen(thread == 0, [&] {
    Val before = ptx.assemble("atom.acq_rel.gpu.global.add.u32 $0, [$1], 1;",
                              "=r,l,~{memory}", b.i32(), {b.val(counter.get())},
                              true)[0];
    flag.store(before);
    b.ifThen(before == last,
             [&] { counter.store(constantLike(before, int64_t(0))); });
  });
  ptx.barrier();
  b.ifThen(flag.load(b.i32()) == last, [&] {
    ptx.assemble("fence.acq_rel.gpu;", "~{memory}", {}, {}, true);
    combineParts(parts, /*isShared=*/true);
  });
}
