//===- AttentionPrefill.cpp - Flash attention with mma.sync ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Flash attention (Dao, 2023) of tiles of query rows, for every type of cache
// and every chip from sm_80 on. A block has 16 rows of one head in each of its
// warps, which share blocks of 64 keys in shared memory:
//
//            keys 0 .. 63    64 .. 127   ...
//   warp 0   rows 0 .. 15    the same rows          K, V: two stages, copied by
//   warp 1   rows 16 .. 31                          cp.async in the pages'
//   order
//   ...
//
// Blocks of keys are taken in ascending order; those that no row of a warp sees
// are passed over, which changes no bit of the others' sums. Keys past the last
// position are the last key again, so that whatever a page holds there is never
// read; the mask is by position.
//
// Shared memory: 2 stages of [64, headDim] keys and values and their scales.
// Registers (headDim 128): 64 outputs, 32 scores, 32 queries, 64 operands.
//
//===----------------------------------------------------------------------===//

#include "AttentionFragments.h"
#include "AttentionTile.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr int64_t kBlockKeys = 64, kSliceKeys = 16, kStages = 2;
static constexpr int64_t kSlices = kBlockKeys / kSliceKeys;
static constexpr double kLog2E = 1.44269504088896341;

/// The shape of a block of keys in shared memory: a page of its own.
static AttentionShape getBlockShape(AttentionShape shape) {
  shape.pageTokens = kBlockKeys;
  return shape;
}

PrefillPlan PrefillPlan::get(const AttentionShape &shape) { return {4}; }

int64_t PrefillPlan::sharedBytes(const AttentionShape &shape) const {
  return kStages * 2 * getBlockShape(shape).headBytes();
}

namespace {
class PrefillEmitter {
public:
  PrefillEmitter(KernelBuilder &b, const AttentionShape &shape,
                 const PrefillPlan &plan, const AttentionBuffers &buffers)
      : b(b), ptx(b), shape(shape), blockShape(getBlockShape(shape)),
        plan(plan), buffers(buffers), fragments(b, blockShape),
        tile(b, shape, buffers, plan.blockRows(), kBlockKeys) {}

  void emit();

private:
  void emitTile();
  void copyBlock(const Segment &segment, Val block);
  SmallVector<Val> attendSegment(const Segment &segment, ArrayRef<Val> state);
  SmallVector<Val> attendBlock(const Segment &segment, Val block,
                               ArrayRef<Val> state);
  void softmax(MutableArrayRef<Val> scores, MutableArrayRef<Val> state,
               int64_t set);
  void store(ArrayRef<Val> state);
  Ptr stagePart(Val block, int64_t part) {
    return buffers.shared.at(((block & 1) * 2 + part) * blockShape.headBytes());
  }

  KernelBuilder &b;
  Ptx ptx;
  const AttentionShape &shape;
  AttentionShape blockShape;
  PrefillPlan plan;
  const AttentionBuffers &buffers;
  Fragments fragments;
  AttentionTile tile;

  Val thread, warpRow;
  /// Of rows g and g + 8 of the warp.
  Val rows[2], positions[2];
  SmallVector<Val> low, high;
};
} // namespace

void PrefillEmitter::emit() {
  thread = ptx.thread();
  if (shape.chip >= 90) {
    ptx.launchDependents();
    ptx.waitForPrevious();
  }
  Val number = ptx.block();
  b.ifThen(number < tile.count(), [&] {
    tile.select(number);
    emitTile();
  });
}

void PrefillEmitter::emitTile() {
  warpRow = tile.firstRow + (thread >> 5) * 16;
  int64_t bytes = shape.query.getIntOrFloatBitWidth() / 8;
  for (int64_t set = 0; set < 2; ++set) {
    rows[set] = warpRow + fragments.group() + 8 * set;
    Val inside = b.min(rows[set], tile.endRow - 1);
    positions[set] = tile.loadPosition(inside);
    Val feature = b.extendSigned(inside * shape.heads + tile.head, b.i64()) *
                  (shape.headDim * bytes);
    (set ? high : low) =
        fragments.loadQuery(buffers.query.at(feature), rows[set] < tile.endRow);
  }
  // Maxima [2] (of scores times log2 e), sums [2], outputs [tiles][4].
  SmallVector<Val> state(2, ptx.infinity());
  state.append(2 + 4 * fragments.outputTiles(), b.constant(b.f32(), 0.0));
  auto attend = [&](const Segment &segment, ArrayRef<Val> before) {
    return attendSegment(segment, before);
  };
  store(tile.forSegments(state, attend));
}

/// Starts to copy a block of keys and values to its stage, 16 bytes at once.
void PrefillEmitter::copyBlock(const Segment &segment, Val block) {
  int64_t rowChunks = shape.rowBytes() / 16;
  int64_t rowsAtOnce = std::max<int64_t>(1, plan.threads() / rowChunks);
  bool isEven = plan.threads() % rowChunks == 0 && kBlockKeys % rowsAtOnce == 0;
  Val keys[2] = {ptx.address(stagePart(block, 0)),
                 ptx.address(stagePart(block, 1))};
  auto copy = [&](Val row, Val chunk) {
    Val token = b.min(block * kBlockKeys + row, segment.lastKey);
    Val slot = token % shape.pageTokens;
    for (int64_t part = 0; part < 2; ++part)
      ptx.copyAsync(keys[part] + blockShape.chunkOffset(row, chunk),
                    tile.pagePart(segment, token, part)
                        .at(shape.chunkOffset(slot, chunk)));
  };
  if (isEven) {
    Val chunk = thread % rowChunks, row = thread / rowChunks;
    for (int64_t first = 0; first < kBlockKeys; first += rowsAtOnce)
      copy(row + first, chunk);
  } else {
    b.forRange(thread, constantLike(thread, kBlockKeys * rowChunks),
               plan.threads(),
               [&](Val i) { copy(i / rowChunks, i % rowChunks); });
  }
  if (shape.isQuantized()) {
    // Scales, one at a time: a page's last may be the sequence's last.
    b.ifThen(thread < kBlockKeys, [&] {
      Val token = b.min(block * kBlockKeys + thread, segment.lastKey);
      for (int64_t part = 0; part < 2; ++part) {
        Val scale = tile.pagePart(segment, token, part)
                        .at(shape.codeBytes())
                        .element(b.f32(), token % shape.pageTokens)
                        .load(b.f32());
        stagePart(block, part)
            .at(blockShape.codeBytes())
            .element(b.f32(), thread)
            .store(scale);
      }
    });
  }
}

SmallVector<Val> PrefillEmitter::attendSegment(const Segment &segment,
                                               ArrayRef<Val> state) {
  b.ifThen(segment.firstBlock < segment.lastBlock,
           [&] { copyBlock(segment, segment.firstBlock); });
  ptx.commitCopies();
  // The last position of the warp's rows in the segment.
  Val warpEnd = b.min(warpRow + 16, segment.end);
  Val isMine = (warpRow < segment.end) & (warpRow + 16 > segment.begin);
  Val lastKey = tile.loadPosition(b.max(warpEnd - 1, segment.begin));
  return b.forRange(
      segment.firstBlock, segment.lastBlock, 1, state,
      [&](Val block, ArrayRef<Val> before) {
        b.ifThen(block + 1 < segment.lastBlock,
                 [&] { copyBlock(segment, block + 1); });
        ptx.commitCopies();
        ptx.waitForCopies(1);
        ptx.barrier();
        using Values = function_ref<SmallVector<Val>()>;
        auto attend = [&] { return attendBlock(segment, block, before); };
        auto pass = [&] { return SmallVector<Val>(before); };
        auto next = b.ifElse(isMine & (block * kBlockKeys <= lastKey),
                             Values(attend), Values(pass));
        ptx.barrier();
        return next;
      });
}

SmallVector<Val> PrefillEmitter::attendBlock(const Segment &segment, Val block,
                                             ArrayRef<Val> before) {
  // Multiply queries and keys: scores [slices][2 tiles][4].
  SmallVector<Val> scores, state(before);
  SmallVector<Fragments::Block> slices(kSlices);
  auto first = [&](int64_t slice) {
    return constantLike(block, slice * kSliceKeys);
  };
  for (int64_t slice = 0; slice < kSlices; ++slice) {
    fragments.loadKeys(slices[slice], stagePart(block, 0), first(slice));
    scores.append(fragments.multiplyKeys(slices[slice], low, high));
  }
  // Mask by position and sequence.
  Val key = block * kBlockKeys + fragments.quad() * 2;
  for (int64_t set = 0; set < 2; ++set) {
    Val isIn = (rows[set] >= segment.begin) & (rows[set] < segment.end);
    Val last = b.select(isIn, positions[set], constantLike(key, int64_t(-1)));
    for (size_t i = 0; i < scores.size(); ++i) {
      if (int64_t(i % 4) / 2 != set)
        continue;
      Val column = key + (int64_t(i / 4) * 8 + int64_t(i % 2));
      Val isSeen = column <= last;
      if (shape.window)
        isSeen = isSeen & (column > last - shape.window);
      scores[i] = b.select(isSeen, scores[i], ptx.infinity());
    }
    softmax(scores, state, set);
  }
  // Multiply weights and values.
  MutableArrayRef<Val> outputs = MutableArrayRef<Val>(state).drop_front(4);
  SmallVector<Val> valid(4, b.constant(b.i1(), int64_t(1)));
  for (int64_t slice = 0; slice < kSlices; ++slice) {
    fragments.loadValues(slices[slice], stagePart(block, 1), first(slice));
    fragments.multiplyValues(slices[slice],
                             ArrayRef<Val>(scores).slice(8 * slice, 8), valid,
                             outputs, /*hasHigh=*/true);
  }
  return state;
}

/// Turns the scores of a row into weights, and brings the state to the new
/// maximum.
void PrefillEmitter::softmax(MutableArrayRef<Val> scores,
                             MutableArrayRef<Val> state, int64_t set) {
  SmallVector<size_t> mine;
  for (size_t i = 0; i < scores.size(); ++i)
    if (int64_t(i % 4) / 2 == set)
      mine.push_back(i);
  Val largest = scores[mine[0]];
  for (size_t i : ArrayRef<size_t>(mine).drop_front())
    largest = ptx.larger(largest, scores[i]);
  largest = ptx.larger(largest, ptx.shuffleXor(largest, 1));
  largest = ptx.larger(largest, ptx.shuffleXor(largest, 2));
  Val factor = b.constant(b.f32(), shape.scale * kLog2E);
  Val maximum = ptx.larger(state[set], largest * factor);
  Val finite = ptx.finite(maximum);
  Val correction = ptx.exp2(state[set] - finite);
  Val sum = state[2 + set] * correction;
  for (size_t i : mine) {
    scores[i] = ptx.exp2(b.fma(scores[i], factor, -finite));
    sum = sum + scores[i];
  }
  state[set] = maximum;
  state[2 + set] = sum;
  for (size_t i = 4; i < state.size(); ++i)
    if (int64_t(i % 4) / 2 == set)
      state[i] = state[i] * correction;
}

void PrefillEmitter::store(ArrayRef<Val> state) {
  int64_t bytes = shape.result.getIntOrFloatBitWidth() / 8;
  for (int64_t set = 0; set < 2; ++set) {
    Val sum = state[2 + set];
    sum = sum + ptx.shuffleXor(sum, 1);
    sum = sum + ptx.shuffleXor(sum, 2);
    // Rows past the tile and rows left alone have seen nothing.
    b.ifThen((rows[set] < tile.endRow) & (sum > 0.0), [&] {
      Val feature =
          b.extendSigned(rows[set] * shape.heads + tile.head, b.i64()) *
          (shape.headDim * bytes);
      fragments.storeOutputs(buffers.result.at(feature), state.drop_front(4),
                             /*high=*/set == 1, 1.0 / sum, shape.result);
    });
  }
}

void cuda::emitPrefillAttention(KernelBuilder &b, const AttentionShape &shape,
                                const PrefillPlan &plan,
                                const AttentionBuffers &buffers) {
  PrefillEmitter(b, shape, plan, buffers).emit();
}
