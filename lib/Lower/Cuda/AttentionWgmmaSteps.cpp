//===- AttentionWgmmaSteps.cpp - Products and softmax of wgmma attention --===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A consumer takes a block of keys a step. Each step but the first multiplies
// the queries with its keys and the weights of the block before with their
// values, then turns the scores into weights. The block before may be of the
// sequence before or of the tile before, whose results then leave before the
// step ends.
//
//===----------------------------------------------------------------------===//

#include "AttentionWgmma.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr double kLog2E = 1.44269504088896341;
/// Descriptors count in 16 bytes: 128-byte swizzle, eight rows 1024 bytes
/// apart.
static constexpr int64_t kDescriptor =
    (int64_t(1) << 62) | (int64_t(1024 / 16) << 32);
/// First named barrier of the consumers, one for each.
static constexpr int64_t kGroupBarrier = 1;

//===----------------------------------------------------------------------===//
// Order
//===----------------------------------------------------------------------===//

/// All threads of the warpgroup. Numbers are constants for compute-sanitizer.
void WgmmaEmitter::groupBarrier() {
  for (int64_t i = 0; i < plan.consumers; ++i)
    b.ifThen(group == i,
             [&] { ptx.barrier(kGroupBarrier + i, kGroupThreads); });
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

SmallVector<Val> WgmmaEmitter::pack(const Pending &pending) {
  SmallVector<Val> values = pending.state.pack();
  values.append(pending.weights);
  values.append({pending.count, pending.filled, pending.tile});
  return values;
}

WgmmaEmitter::Pending WgmmaEmitter::unpack(ArrayRef<Val> values) {
  ArrayRef<Val> last = values.take_back(3);
  int64_t stateSize = 4 + shape.headDim / 2;
  return {RowState::unpack(values.take_front(stateSize)),
          SmallVector<Val>(values.drop_front(stateSize).drop_back(3)), last[0],
          last[1], last[2]};
}

void WgmmaEmitter::consume() {
  group = group - 1;
  lane = thread & 31;
  quad = lane & 3;
  ptx.waitForPrevious();
  Val zero = b.constant(b.f32(), 0.0);
  Pending start{{{ptx.infinity(), ptx.infinity()}, {zero, zero}, {}},
                SmallVector<Val>(plan.blockKeys / 4, number(0)),
                number(0),
                number(plan.blockKeys),
                number(kNoTile)};
  start.state.outputs.assign(shape.headDim / 2, zero);
  SmallVector<Val> last = forTiles(
      pack(start), [&](Val place, Val tileNumber, ArrayRef<Val> carried) {
        findRows();
        SmallVector<Val> after = tile.forSegments(
            carried, [&](const Segment &segment, ArrayRef<Val> before) {
              Pending pending = unpack(before);
              pending = attendSegment(segment, place, tileNumber, pending);
              return pack(pending);
            });
        ptx.arrive(barrier(place, SlotEmpty));
        return after;
      });
  finish(unpack(last));
}

/// The thread's rows of a tile: row + 8 too.
Val WgmmaEmitter::rowOf(const TilePlace &place) {
  return place.firstRow + group * kGroupRows + ((thread & 127) >> 5) * 16 +
         (lane >> 2);
}

void WgmmaEmitter::findRows() {
  groupRow = tile.firstRow + group * kGroupRows;
  for (int64_t set = 0; set < 2; ++set) {
    rows[set] = rowOf(tile) + 8 * set;
    positions[set] = tile.loadPosition(b.min(rows[set], tile.endRow - 1));
  }
}

WgmmaEmitter::Pending WgmmaEmitter::attendSegment(const Segment &segment,
                                                  Val place, Val tileNumber,
                                                  Pending pending) {
  using Values = function_ref<SmallVector<Val>()>;
  auto begin = [&] { return pack(beginBlocks(segment, place, pending)); };
  auto enter = [&] {
    return pack(enterSegment(segment, place, tileNumber, pending));
  };
  Pending next =
      unpack(b.ifElse(pending.count == 0, Values(begin), Values(enter)));
  Val second = segment.firstBlock + 1;
  Val whole = b.max(second, wholeBlocks(segment));
  next = attendBlocks(segment, place, second, whole, next, false);
  next = attendBlocks(segment, place, whole, segment.lastBlock, next, true);
  next.filled = segment.lastKey + 1 - (segment.lastBlock - 1) * plan.blockKeys;
  next.tile = tileNumber;
  return next;
}

/// The end of the blocks that all rows of the warpgroup see as a whole; 0 where
/// some of them see nothing or the mask is needed anyhow.
Val WgmmaEmitter::wholeBlocks(const Segment &segment) {
  if (shape.window)
    return number(0);
  Val groupEnd = b.min(groupRow + kGroupRows, tile.endRow);
  Val isCovered = (segment.begin <= groupRow) & (groupEnd <= segment.end);
  Val position = tile.loadPosition(b.min(groupRow, tile.endRow - 1));
  return b.select(isCovered, (position + 1) / plan.blockKeys, number(0));
}

//===----------------------------------------------------------------------===//
// Steps
//===----------------------------------------------------------------------===//

/// The block's first step: nothing to overlap with.
WgmmaEmitter::Pending WgmmaEmitter::beginBlocks(const Segment &segment,
                                                Val place, Pending pending) {
  ptx.waitBarrier(barrier(place, QueriesFull), slotParity(place));
  ptx.waitBarrier(barrier(pending.count, 0, 0), parity(pending.count));
  SmallVector<Val> scores =
      multiplyKeys(getDescriptors(place, pending.count, pending.count));
  scores = ptx.waitProducts(0, scores);
  release(pending.count, 0);
  mask(segment, segment.firstBlock, scores);
  softmax(scores, pending.state, /*isMasked=*/true);
  pending.weights = packWeights(scores);
  pending.count = pending.count + 1;
  return pending;
}

/// The first step of a segment, and the last of the one before, which may be
/// of another tile.
WgmmaEmitter::Pending WgmmaEmitter::enterSegment(const Segment &segment,
                                                 Val place, Val tileNumber,
                                                 Pending pending) {
  Val count = pending.count, isOther = pending.tile != tileNumber;
  ptx.waitBarrier(barrier(place, QueriesFull), slotParity(place));
  ptx.waitBarrier(barrier(count - 1, 1, 0), parity(count - 1));
  zeroTail(pending);
  ptx.waitBarrier(barrier(count, 0, 0), parity(count));
  Descriptors descriptors = getDescriptors(place, count, count - 1);
  SmallVector<Val> scores = multiplyKeys(descriptors);
  SmallVector<Val> &outputs = pending.state.outputs;
  outputs = multiplyValues(outputs, pending.weights, descriptors);

  scores = ptx.waitProducts(1, scores);
  release(count, 0);
  mask(segment, segment.firstBlock, scores);
  RowState state = pending.state;
  for (int64_t set = 0; set < 2; ++set) {
    state.maxima[set] = b.select(isOther, ptx.infinity(), state.maxima[set]);
    state.sums[set] =
        b.select(isOther, b.constant(b.f32(), 0.0), state.sums[set]);
  }
  SmallVector<Val> corrections = softmax(scores, state, /*isMasked=*/true);
  std::tie(outputs, scores) = awaitValues(pending, scores);
  release(count - 1, 1);

  // Sixty-four registers fewer while results leave.
  SmallVector<Val> weights = packWeights(scores);

  using Values = function_ref<SmallVector<Val>()>;
  state.outputs = outputs;
  auto leave = [&] {
    store(pending);
    // Not before the old ones have left.
    return ptx.pin(SmallVector<Val>(outputs.size(), b.constant(b.f32(), 0.0)));
  };
  auto stay = [&] {
    rescale(state, corrections);
    return state.outputs;
  };
  state.outputs = b.ifElse(isOther, Values(leave), Values(stay));
  return {state, weights, count + 1, pending.filled, pending.tile};
}

WgmmaEmitter::Pending WgmmaEmitter::attendBlocks(const Segment &segment,
                                                 Val place, Val lo, Val hi,
                                                 const Pending &start,
                                                 bool isMasked) {
  auto step = [&](Val block, ArrayRef<Val> before) {
    Pending pending = unpack(before);
    RowState &state = pending.state;
    Val count = pending.count;

    ptx.waitBarrier(barrier(count, 0, 0), parity(count));
    Descriptors descriptors = getDescriptors(place, count, count - 1);
    SmallVector<Val> scores = multiplyKeys(descriptors);
    ptx.waitBarrier(barrier(count - 1, 1, 0), parity(count - 1));
    state.outputs = multiplyValues(state.outputs, pending.weights, descriptors);

    scores = ptx.waitProducts(1, scores);
    release(count, 0);
    if (isMasked)
      mask(segment, block, scores);
    SmallVector<Val> corrections = softmax(scores, state, isMasked);
    std::tie(state.outputs, scores) = awaitValues(pending, scores);
    release(count - 1, 1);
    rescale(state, corrections);
    pending.weights = packWeights(scores);
    pending.count = count + 1;
    return pack(pending);
  };
  return unpack(b.forRange(lo, hi, 1, pack(start), step));
}

/// The values of the block's last keys, and its last tile's results.
void WgmmaEmitter::finish(Pending pending) {
  Val last = pending.count - 1;
  ptx.waitBarrier(barrier(last, 1, 0), parity(last));
  zeroTail(pending);
  pending.state.outputs =
      ptx.waitProducts(0,
                       multiplyValues(pending.state.outputs, pending.weights,
                                      getDescriptors(number(0), last, last)),
                       pending.weights);
  store(pending);
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

Val WgmmaEmitter::makeDescriptor(Val address, int64_t leading) {
  return b.extendUnsigned((address >> 4) & 0x3FFF, b.i64()) |
         (kDescriptor | (leading / 16) << 16);
}

/// The descriptors of both products: of queries and keys, sixteen features a
/// step, and of values, sixteen keys a step.
WgmmaEmitter::Descriptors WgmmaEmitter::getDescriptors(Val place, Val count,
                                                       Val valueCount) {
  Val query =
      makeDescriptor(ptx.address(queriesOf(place)) + group * groupBytes(), 16);
  Val key = makeDescriptor(ptx.address(stage(count, 0)), 16);
  Val value = makeDescriptor(ptx.address(stage(valueCount, 1)), planeBytes());
  SmallVector<Val> all;
  int64_t steps = shape.headDim / 16, planeSteps = kPlaneFeatures / 16;
  for (int64_t i = 0; i < steps; ++i)
    all.push_back(query + (i / planeSteps * (kGroupRows * kPlaneRowBytes / 16) +
                           i % planeSteps * 2));
  for (int64_t i = 0; i < steps; ++i)
    all.push_back(key +
                  (i / planeSteps * (planeBytes() / 16) + i % planeSteps * 2));
  for (int64_t i = 0; i < plan.blockKeys / 16; ++i)
    all.push_back(value + i * (16 * kPlaneRowBytes / 16));
  all = ptx.pin(all);
  ArrayRef<Val> pinned = all;
  return {SmallVector<Val>(pinned.take_front(steps)),
          SmallVector<Val>(pinned.slice(steps, steps)),
          SmallVector<Val>(pinned.drop_front(2 * steps))};
}

/// Issues the product of the queries with a stage of keys.
SmallVector<Val> WgmmaEmitter::multiplyKeys(const Descriptors &descriptors) {
  return ptx.multiplyShared(descriptors.queries, descriptors.keys,
                            plan.blockKeys, shape.half());
}

/// Issues the product of weights with a stage of values.
SmallVector<Val> WgmmaEmitter::multiplyValues(ArrayRef<Val> outputs,
                                              ArrayRef<Val> weights,
                                              const Descriptors &descriptors) {
  return ptx.multiplyRegisters(outputs, weights, descriptors.values,
                               shape.headDim, shape.half());
}

/// Waits for all products. The new weights go through the wait too: packed
/// before it, they would define operands of a product while one is in flight.
std::pair<SmallVector<Val>, SmallVector<Val>>
WgmmaEmitter::awaitValues(const Pending &pending, ArrayRef<Val> scores) {
  ArrayRef<Val> outputs = pending.state.outputs;
  SmallVector<Val> waiting(outputs);
  waiting.append(scores.begin(), scores.end());
  waiting = ptx.waitProducts(0, waiting, pending.weights);
  ArrayRef<Val> done = waiting;
  return {SmallVector<Val>(done.take_front(outputs.size())),
          SmallVector<Val>(done.drop_front(outputs.size()))};
}

/// Clears the values past the last key in the stage of a segment's last block.
void WgmmaEmitter::zeroTail(const Pending &pending) {
  b.ifThen(pending.filled < plan.blockKeys, [&] {
    int64_t rowChunks = shape.rowBytes() / 16;
    Ptr values = stage(pending.count - 1, 1);
    AttentionShape layout = shape;
    layout.pageTokens = plan.blockKeys;
    b.forRange(
        pending.filled * rowChunks + (thread & 127),
        number(plan.blockKeys * rowChunks), kGroupThreads, [&](Val index) {
          values.at(layout.chunkOffset(index / rowChunks, index % rowChunks))
              .store(b.zero(b.vec(4, b.i32())), 16);
        });
    ptx.fenceProxy();
    groupBarrier();
  });
}

//===----------------------------------------------------------------------===//
// Softmax
//===----------------------------------------------------------------------===//

/// Scores of keys that a row doesn't see become -infinity, those of rows of
/// other sequences all of them.
void WgmmaEmitter::mask(const Segment &segment, Val block,
                        MutableArrayRef<Val> scores) {
  Val key = block * plan.blockKeys + quad * 2;
  for (int64_t set = 0; set < 2; ++set) {
    Val isIn = (rows[set] >= segment.begin) & (rows[set] < segment.end);
    // Relative to the lane's first key, so that columns are constants.
    Val last = b.select(isIn, positions[set] - key, number(-1));
    for (size_t i = 0; i < scores.size(); ++i) {
      if (static_cast<int64_t>(i % 4) / 2 != set)
        continue;
      int64_t column = i / 4 * 8 + i % 2;
      Val isSeen = last >= column;
      if (shape.window)
        isSeen = isSeen & (last - shape.window < column);
      scores[i] = b.select(isSeen, scores[i], ptx.infinity());
    }
  }
}

/// Turns scores into weights; gives what the sums so far are to be multiplied
/// by.
SmallVector<Val> WgmmaEmitter::softmax(MutableArrayRef<Val> scores,
                                       RowState &state, bool isMasked) {
  SmallVector<Val> corrections;
  Val factor = b.constant(b.f32(), shape.scale * kLog2E);
  for (int64_t set = 0; set < 2; ++set) {
    SmallVector<size_t> mine;
    for (size_t i = 0; i < scores.size(); ++i)
      if (static_cast<int64_t>(i % 4) / 2 == set)
        mine.push_back(i);
    // Four chains, for independent instructions.
    Val largest[4], sums[4];
    for (auto [n, i] : llvm::enumerate(mine))
      largest[n % 4] =
          n < 4 ? scores[i] : ptx.larger(largest[n % 4], scores[i]);
    Val row = ptx.larger(ptx.larger(largest[0], largest[1]),
                         ptx.larger(largest[2], largest[3]));
    row = ptx.larger(row, ptx.shuffleXor(row, 1));
    row = ptx.larger(row, ptx.shuffleXor(row, 2));
    Val maximum = ptx.larger(state.maxima[set], row * factor);
    // A row that sees nothing yet keeps -infinity.
    Val finite = maximum;
    if (isMasked)
      finite = ptx.finite(maximum);
    corrections.push_back(ptx.exp2(state.maxima[set] - finite));
    Val negative = -finite;
    for (auto [n, i] : llvm::enumerate(mine)) {
      scores[i] = ptx.exp2(b.fma(scores[i], factor, negative));
      sums[n % 4] = n < 4 ? scores[i] : sums[n % 4] + scores[i];
    }
    state.maxima[set] = maximum;
    state.sums[set] = b.fma(state.sums[set], corrections.back(),
                            (sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  return corrections;
}

/// Weights as operands of wgmma.
SmallVector<Val> WgmmaEmitter::packWeights(ArrayRef<Val> scores) {
  SmallVector<Val> weights;
  for (size_t i = 0; i < scores.size(); i += 2)
    weights.push_back(ptx.pack(scores[i], scores[i + 1], shape.half()));
  return weights;
}

void WgmmaEmitter::rescale(RowState &state, ArrayRef<Val> corrections) {
  for (size_t i = 0; i < state.outputs.size(); ++i)
    state.outputs[i] = state.outputs[i] * corrections[i % 4 / 2];
}
