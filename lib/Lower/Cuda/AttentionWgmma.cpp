//===- AttentionWgmma.cpp - Flash attention with wgmma --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Flash attention of tiles of query rows for sm_90a, after FlashAttention-3
// (Shah et al., 2024). A block is a producer warpgroup, whose first thread
// copies pages of keys and values as they are into a ring of two stages, and
// consumer warpgroups with 64 rows of one head each:
//
//   producer    K0  V0  K1  V1  K2 ...           one bulk copy a plane and page
//   consumer 0  QK0 |softmax 0|QK1 PV0|softmax 1|QK2 PV1| ...
//   consumer 1      |QK0      |softmax 0|QK1 PV0|softmax 1| ...
//
// A consumer issues the next product of queries and keys, then the last of
// weights and values, and computes its softmax while the second runs; named
// barriers let the consumers take turns at issuing (ping-pong).
//
// Blocks of keys begin at multiples of their size and are taken in ascending
// order, with an online softmax. Blocks that all rows of a warpgroup see as a
// whole skip the mask. Values past the sequence's last key are zeroed in shared
// memory before they meet weights that are zero.
//
// Shared memory: queries [consumers][64, headDim], keys and values
// [2][blockKeys, headDim] in planes of 64 features with the 128-byte swizzle,
// mbarriers. Registers of a consumer (headDim 128): 64 outputs, 64 scores, 32
// weights; 240 allowed.
//
//===----------------------------------------------------------------------===//

#include "AttentionTile.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr int64_t kGroupRows = 64, kGroupThreads = 128, kStages = 2;
static constexpr int64_t kPlaneFeatures = 64, kPlaneRowBytes = 128;
static constexpr int64_t kMaxCopyRows = 64;
static constexpr double kLog2E = 1.44269504088896341;
/// Descriptors count in 16 bytes: 128-byte swizzle, eight rows 1024 bytes
/// apart.
static constexpr int64_t kDescriptor =
    (int64_t(1) << 62) | (int64_t(1024 / 16) << 32);
/// First named barrier of the consumers' turns; the one of each alone.
static constexpr int64_t kTurnBarrier = 1, kGroupBarrier = 5;

bool WgmmaPlan::serves(const AttentionShape &shape) {
  return shape.chip >= 90 && !shape.isQuantized() &&
         (shape.headDim == 64 || shape.headDim == 128 ||
          shape.headDim == 256) &&
         (shape.pageTokens % kMaxCopyRows == 0 ||
          kMaxCopyRows % shape.pageTokens == 0);
}

WgmmaPlan WgmmaPlan::get(const AttentionShape &shape) {
  return {/*consumers=*/2, /*blockKeys=*/shape.headDim == 256 ? 64 : 128};
}

int64_t WgmmaPlan::sharedBytes(const AttentionShape &shape) const {
  return (blockRows() + kStages * 2 * blockKeys) * shape.rowBytes() +
         kStages * 4 * 8;
}

namespace {
/// Sums, and what they stand for, of rows g and g + 8 of a warp.
struct RowState {
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
  WgmmaEmitter(KernelBuilder &b, const AttentionShape &shape,
               const WgmmaPlan &plan, AttentionRows which,
               const AttentionBuffers &buffers)
      : b(b), ptx(b), shape(shape), plan(plan), buffers(buffers),
        tile(b, shape, which, buffers, plan.blockRows(), plan.blockKeys) {}

  void emit();

private:
  // Producer.
  void produce();
  void copyBlock(const Segment &segment, Val block, Val count, int64_t part,
                 Val lastKey);

  // Consumers.
  void consume();
  void loadQueries();
  SmallVector<Val> attendSegment(const Segment &segment, ArrayRef<Val> state);
  SmallVector<Val> attendBlocks(const Segment &segment, Val lo, Val hi,
                                ArrayRef<Val> carried, bool isMasked);
  struct Descriptors {
    SmallVector<Val> queries, keys, values;
  };
  Descriptors getDescriptors(Val count, Val valueCount);
  SmallVector<Val> multiplyKeys(const Descriptors &descriptors);
  SmallVector<Val> multiplyValues(ArrayRef<Val> outputs, ArrayRef<Val> weights,
                                  const Descriptors &descriptors);
  void zeroTail(const Segment &segment, Val count);
  void mask(const Segment &segment, Val block, MutableArrayRef<Val> scores);
  SmallVector<Val> softmax(MutableArrayRef<Val> scores, RowState &state,
                           bool isMasked);
  SmallVector<Val> packWeights(ArrayRef<Val> scores);
  void rescale(RowState &state, ArrayRef<Val> corrections);
  void store(ArrayRef<Val> state);

  // Shared memory (i32 addresses).
  int64_t planes() const { return shape.headDim / kPlaneFeatures; }
  int64_t groupBytes() const { return kGroupRows * shape.rowBytes(); }
  int64_t stageBytes() const { return plan.blockKeys * shape.rowBytes(); }
  int64_t planeBytes() const { return plan.blockKeys * kPlaneRowBytes; }
  Val stageAddress(Val count, int64_t part) {
    return shared +
           ((count & 1) * stageBytes() +
            (plan.consumers * groupBytes() + part * kStages * stageBytes()));
  }
  /// Barriers of keys (0) and values (1), full (0) and empty (1).
  Val barrier(Val count, int64_t part, int64_t which) {
    int64_t start = plan.consumers * groupBytes() + 2 * kStages * stageBytes();
    return shared + ((count & 1) * 8 + (start + (part * 2 + which) * 16));
  }
  Val parity(Val count) { return (count >> 1) & 1; }
  /// All threads of the warpgroup. Numbers are constants for compute-sanitizer.
  void groupBarrier() {
    for (int64_t i = 0; i < plan.consumers; ++i)
      b.ifThen(group == i,
               [&] { ptx.barrier(kGroupBarrier + i, kGroupThreads); });
  }
  Val makeDescriptor(Val address, int64_t leading) {
    return b.extendUnsigned((address >> 4) & 0x3FFF, b.i64()) |
           (kDescriptor | (leading / 16) << 16);
  }
  void release(Val count, int64_t part) {
    b.ifThen(lane == 0, [&] { ptx.arrive(barrier(count, part, 1)); });
  }
  Val number(int64_t value) { return b.constant(b.i32(), value); }
  Val infinity() {
    return b.constant(b.f32(), -std::numeric_limits<double>::infinity());
  }

  KernelBuilder &b;
  Ptx ptx;
  const AttentionShape &shape;
  WgmmaPlan plan;
  const AttentionBuffers &buffers;
  AttentionTile tile;

  Val shared, thread, group, lane, quad;
  /// First row of the warpgroup; the thread's rows and their positions.
  Val groupRow, rows[2], positions[2];
};
} // namespace

void WgmmaEmitter::emit() {
  thread = ptx.thread();
  shared = ptx.address(buffers.shared);
  ptx.launchDependents();
  b.ifThen(thread == 0, [&] {
    for (int64_t part = 0; part < 2; ++part)
      for (int64_t stage = 0; stage < kStages; ++stage) {
        ptx.initBarrier(barrier(number(stage), part, 0), 1);
        ptx.initBarrier(barrier(number(stage), part, 1), 4 * plan.consumers);
      }
    ptx.fenceBarriers();
  });
  ptx.barrier();
  ptx.waitForPrevious();
  tile.find(ptx.block(), [&] {
    group = thread >> 7;
    b.ifElse(
        group == 0,
        [&] {
          ptx.setRegisters(24, /*increase=*/false);
          b.ifThen(thread == 0, [&] { produce(); });
        },
        [&] {
          ptx.setRegisters(240, /*increase=*/true);
          consume();
        });
  });
}

//===----------------------------------------------------------------------===//
// Producer
//===----------------------------------------------------------------------===//

void WgmmaEmitter::produce() {
  tile.forSegments({number(0)}, [&](const Segment &segment,
                                    ArrayRef<Val> before) {
    Val lastKey = tile.loadIndex(buffers.positions, segment.end - 1);
    Val first = before[0] - segment.firstBlock;
    b.forRange(segment.firstBlock, segment.lastBlock, 1, [&](Val block) {
      for (int64_t part = 0; part < 2; ++part)
        copyBlock(segment, block, first + block, part, lastKey);
    });
    return SmallVector<Val>{
        before[0] + b.max(segment.lastBlock - segment.firstBlock, number(0))};
  });
}

/// Copies a block's rows, a plane and a page (at most 64 rows of one) at once;
/// pages that the sequence doesn't have yet are left out.
void WgmmaEmitter::copyBlock(const Segment &segment, Val block, Val count,
                             int64_t part, Val lastKey) {
  int64_t copyRows = std::min(shape.pageTokens, kMaxCopyRows);
  Val full = barrier(count, part, 0);
  ptx.waitBarrier(barrier(count, part, 1), parity(count) ^ 1);
  Val first = block * plan.blockKeys;
  Val copies = b.min((lastKey - first) / copyRows + 1,
                     number(plan.blockKeys / copyRows));
  ptx.arriveExpecting(full, copies * (copyRows * shape.rowBytes()));
  Val target = stageAddress(count, part);
  b.forRange(number(0), copies, 1, [&](Val i) {
    Val token = first + i * copyRows;
    Ptr source = tile.pagePart(segment, token, part)
                     .at((token % shape.pageTokens) * kPlaneRowBytes);
    for (int64_t plane = 0; plane < planes(); ++plane)
      ptx.bulkCopy(target +
                       (i * (copyRows * kPlaneRowBytes) + plane * planeBytes()),
                   source.at(plane * shape.pageTokens * kPlaneRowBytes),
                   number(copyRows * kPlaneRowBytes), full);
  });
}

//===----------------------------------------------------------------------===//
// Consumers
//===----------------------------------------------------------------------===//

void WgmmaEmitter::consume() {
  group = group - 1;
  lane = thread & 31;
  quad = lane & 3;
  groupRow = tile.firstRow + group * kGroupRows;
  Val row = groupRow + ((thread & 127) >> 5) * 16 + (lane >> 2);
  for (int64_t set = 0; set < 2; ++set) {
    rows[set] = row + 8 * set;
    positions[set] =
        tile.loadIndex(buffers.positions, b.min(rows[set], tile.endRow - 1));
  }
  loadQueries();
  // The first consumer has the first turn.
  b.ifThen(group == plan.consumers - 1,
           [&] { ptx.arriveNamed(number(kTurnBarrier), 2 * kGroupThreads); });
  RowState start{{infinity(), infinity()}, {}, {}};
  Val zero = b.constant(b.f32(), 0.0);
  start.sums[0] = start.sums[1] = zero;
  start.outputs.assign(shape.headDim / 2, zero);
  SmallVector<Val> state = start.pack();
  state.push_back(number(0)); // blocks so far
  SmallVector<Val> last = tile.forSegments(
      state, [&](const Segment &segment, ArrayRef<Val> before) {
        using Values = function_ref<SmallVector<Val>()>;
        auto attend = [&] { return attendSegment(segment, before); };
        auto pass = [&] { return SmallVector<Val>(before); };
        return b.ifElse(segment.firstBlock < segment.lastBlock, Values(attend),
                        Values(pass));
      });
  // Take the turn that is left, so that no barrier ends half full.
  b.ifThen(group == 0,
           [&] { ptx.barrierNamed(number(kTurnBarrier), 2 * kGroupThreads); });
  store(ArrayRef<Val>(last).drop_back());
}

/// Rounds the warpgroup's queries to halves and writes them in swizzled planes.
void WgmmaEmitter::loadQueries() {
  int64_t rowChunks = shape.rowBytes() / 16;
  int64_t bytes = shape.query.getIntOrFloatBitWidth() / 8;
  Type wanted = shape.half() == HalfType::BF16 ? b.bf16() : b.f16();
  Ptr target = buffers.shared.at(group * groupBytes());
  Val member = thread & 127;
  AttentionShape layout = shape;
  layout.pageTokens = kGroupRows;
  for (int64_t i = 0; i < kGroupRows * rowChunks / kGroupThreads; ++i) {
    Val index = member + i * kGroupThreads;
    Val row = index / rowChunks, chunk = index % rowChunks;
    Val inside = b.min(groupRow + row, tile.endRow - 1);
    Val feature =
        (inside * shape.heads + tile.head) * shape.headDim + chunk * 8;
    Ptr source = buffers.query.at(b.extendSigned(feature, b.i64()) * bytes);
    Val words;
    if (shape.query == wanted) {
      words = source.load(b.vec(4, b.i32()), 16);
    } else {
      words = b.zero(b.vec(4, b.i32()));
      SmallVector<Val> numbers;
      for (int64_t half = 0; half < bytes / 2; ++half) {
        Val loaded = source.at(16 * half).load(
            b.vec(4, bytes == 4 ? b.f32() : b.i32()), 16);
        for (int64_t w = 0; w < 4; ++w) {
          if (bytes == 4) {
            numbers.push_back(loaded.lane(w));
            continue;
          }
          auto [low, high] =
              ptx.unpack(loaded.lane(w),
                         shape.query.isBF16() ? HalfType::BF16 : HalfType::F16);
          numbers.append({low, high});
        }
      }
      for (int64_t w = 0; w < 4; ++w)
        words = b.insert(
            words, ptx.pack(numbers[2 * w], numbers[2 * w + 1], shape.half()),
            w);
    }
    target.at(layout.chunkOffset(row, chunk)).store(words, 16);
  }
  ptx.fenceProxy();
  groupBarrier();
}

/// The descriptors of both products: of queries and keys, sixteen features a
/// step, and of values, sixteen keys a step.
WgmmaEmitter::Descriptors WgmmaEmitter::getDescriptors(Val count,
                                                       Val valueCount) {
  Val query = makeDescriptor(shared + group * groupBytes(), 16);
  Val key = makeDescriptor(stageAddress(count, 0), 16);
  Val value = makeDescriptor(stageAddress(valueCount, 1), planeBytes());
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

SmallVector<Val> WgmmaEmitter::attendSegment(const Segment &segment,
                                             ArrayRef<Val> before) {
  RowState state = RowState::unpack(before.drop_back());
  Val count = before.back(), first = segment.firstBlock;

  // The first block: nothing to overlap with.
  ptx.barrierNamed(group + kTurnBarrier, 2 * kGroupThreads);
  ptx.waitBarrier(barrier(count, 0, 0), parity(count));
  SmallVector<Val> scores = multiplyKeys(getDescriptors(count, count));
  ptx.arriveNamed(kTurnBarrier + (plan.consumers - 1) - group,
                  2 * kGroupThreads);
  scores = ptx.waitProducts(0, scores);
  release(count, 0);
  mask(segment, first, scores);
  rescale(state, softmax(scores, state, /*isMasked=*/true));
  SmallVector<Val> weights = packWeights(scores);

  // Blocks that all rows of the warpgroup see, then the others.
  Val whole = first + 1;
  if (!shape.window) {
    Val groupEnd = b.min(groupRow + kGroupRows, tile.endRow);
    Val isCovered = (segment.begin <= groupRow) & (groupEnd <= segment.end);
    Val position =
        tile.loadIndex(buffers.positions, b.min(groupRow, tile.endRow - 1));
    Val seen = (position + 1) / plan.blockKeys;
    whole = b.max(whole, b.select(isCovered, seen, number(0)));
  }
  SmallVector<Val> carried = state.pack();
  carried.append(weights);
  carried.push_back(count + 1);
  carried = attendBlocks(segment, first + 1, whole, carried, false);
  carried = attendBlocks(segment, whole, segment.lastBlock, carried, true);

  // The last block's values.
  Val end = carried.pop_back_val();
  int64_t stateSize = 4 + shape.headDim / 2;
  state = RowState::unpack(ArrayRef<Val>(carried).take_front(stateSize));
  weights.assign(carried.begin() + stateSize, carried.end());
  ptx.waitBarrier(barrier(end - 1, 1, 0), parity(end - 1));
  zeroTail(segment, end - 1);
  state.outputs = ptx.waitProducts(
      0,
      multiplyValues(state.outputs, weights, getDescriptors(end - 1, end - 1)),
      weights);
  release(end - 1, 1);
  SmallVector<Val> next = state.pack();
  next.push_back(end);
  return next;
}

SmallVector<Val> WgmmaEmitter::attendBlocks(const Segment &segment, Val lo,
                                            Val hi, ArrayRef<Val> carried,
                                            bool isMasked) {
  int64_t stateSize = 4 + shape.headDim / 2;
  return b.forRange(lo, hi, 1, carried, [&](Val block, ArrayRef<Val> before) {
    RowState state = RowState::unpack(before.take_front(stateSize));
    SmallVector<Val> weights(before.drop_front(stateSize).drop_back());
    Val count = before.back();

    // Issue both products in the warpgroup's turn.
    ptx.waitBarrier(barrier(count, 0, 0), parity(count));
    ptx.barrierNamed(group + kTurnBarrier, 2 * kGroupThreads);
    Descriptors descriptors = getDescriptors(count, count - 1);
    SmallVector<Val> scores = multiplyKeys(descriptors);
    ptx.waitBarrier(barrier(count - 1, 1, 0), parity(count - 1));
    state.outputs = multiplyValues(state.outputs, weights, descriptors);
    ptx.arriveNamed(kTurnBarrier + (plan.consumers - 1) - group,
                    2 * kGroupThreads);

    // Softmax while weights and values multiply.
    scores = ptx.waitProducts(1, scores);
    release(count, 0);
    if (isMasked)
      mask(segment, block, scores);
    SmallVector<Val> corrections = softmax(scores, state, isMasked);

    // The weights go through the wait too: packed before it, they would define
    // operands of a product while one is in flight.
    SmallVector<Val> waiting(state.outputs);
    waiting.append(scores);
    waiting = ptx.waitProducts(0, waiting, weights);
    ArrayRef<Val> done = waiting;
    state.outputs = SmallVector<Val>(done.take_front(shape.headDim / 2));
    release(count - 1, 1);
    rescale(state, corrections);
    SmallVector<Val> results = state.pack();
    results.append(packWeights(done.drop_front(shape.headDim / 2)));
    results.push_back(count + 1);
    return results;
  });
}

/// Clears the values past the segment's last key in the stage of its last
/// block.
void WgmmaEmitter::zeroTail(const Segment &segment, Val count) {
  Val keys = tile.loadIndex(buffers.positions, segment.end - 1) + 1;
  Val filled = keys - (segment.lastBlock - 1) * plan.blockKeys;
  b.ifThen(filled < plan.blockKeys, [&] {
    int64_t rowChunks = shape.rowBytes() / 16;
    Ptr stage = buffers.shared.at((count & 1) * stageBytes())
                    .at(plan.consumers * groupBytes() + kStages * stageBytes());
    AttentionShape layout = shape;
    layout.pageTokens = plan.blockKeys;
    b.forRange(
        filled * rowChunks + (thread & 127), number(plan.blockKeys * rowChunks),
        kGroupThreads, [&](Val index) {
          stage.at(layout.chunkOffset(index / rowChunks, index % rowChunks))
              .store(b.zero(b.vec(4, b.i32())), 16);
        });
    ptx.fenceProxy();
    groupBarrier();
  });
}

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
      scores[i] = b.select(isSeen, scores[i], infinity());
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
      finite =
          b.select(maximum == infinity(), b.constant(b.f32(), 0.0), maximum);
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

/// Writes the rows' results: f32 from the registers, halves by way of the
/// queries' shared memory, so that stores are 16 bytes wide.
void WgmmaEmitter::store(ArrayRef<Val> values) {
  RowState state = RowState::unpack(values);
  int64_t bytes = shape.result.getIntOrFloatBitWidth() / 8;
  Val inverse[2], isDone[2];
  for (int64_t set = 0; set < 2; ++set) {
    Val sum = state.sums[set];
    sum = sum + ptx.shuffleXor(sum, 1);
    sum = sum + ptx.shuffleXor(sum, 2);
    inverse[set] = 1.0 / sum;
    // Rows past the tile and rows left alone have seen nothing.
    isDone[set] = (rows[set] < tile.endRow) & (sum > 0.0);
  }
  auto resultRow = [&](Val row) {
    Val feature = (row * shape.heads + tile.head) * shape.headDim;
    return buffers.result.at(b.extendSigned(feature, b.i64()) * bytes);
  };
  if (bytes == 4) {
    for (int64_t set = 0; set < 2; ++set)
      b.ifThen(isDone[set], [&] {
        Ptr row = resultRow(rows[set]).at(quad * 8);
        for (size_t j = 0; j < state.outputs.size() / 4; ++j) {
          Val pair = b.zero(b.vec(2, b.f32()));
          for (int64_t i = 0; i < 2; ++i)
            pair = b.insert(
                pair, state.outputs[4 * j + 2 * set + i] * inverse[set], i);
          row.at(j * 32).store(pair, 8);
        }
      });
    return;
  }
  HalfType half = shape.result.isBF16() ? HalfType::BF16 : HalfType::F16;
  AttentionShape layout = shape;
  layout.pageTokens = kGroupRows;
  Ptr stage = buffers.shared.at(group * groupBytes());
  // All warps have read the queries.
  groupBarrier();
  for (int64_t set = 0; set < 2; ++set)
    b.ifThen(isDone[set], [&] {
      Val row = rows[set] - groupRow;
      for (size_t j = 0; j < state.outputs.size() / 4; ++j) {
        Val pair =
            ptx.pack(state.outputs[4 * j + 2 * set] * inverse[set],
                     state.outputs[4 * j + 2 * set + 1] * inverse[set], half);
        Val chunk = number(j);
        stage.at(layout.chunkOffset(row, chunk)).at(quad * 4).store(pair, 4);
      }
    });
  // A row's sixteen-byte chunks are stored by four lanes of its warp.
  ptx.assemble("bar.warp.sync 0xffffffff;", "~{memory}", {}, {}, true);
  for (int64_t set = 0; set < 2; ++set)
    b.ifThen(isDone[set], [&] {
      Val row = rows[set] - groupRow;
      Ptr result = resultRow(rows[set]);
      for (int64_t i = 0; i < shape.rowBytes() / 64; ++i) {
        Val chunk = quad + 4 * i;
        Val words = stage.at(layout.chunkOffset(row, chunk))
                        .load(b.vec(4, b.i32()), 16);
        result.at(chunk * 16).store(words, 16);
      }
    });
}

void cuda::emitWgmmaAttention(KernelBuilder &b, const AttentionShape &shape,
                              const WgmmaPlan &plan, AttentionRows rows,
                              const AttentionBuffers &buffers) {
  WgmmaEmitter(b, shape, plan, rows, buffers).emit();
}
