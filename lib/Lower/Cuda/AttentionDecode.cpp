//===- AttentionDecode.cpp - Attention of single rows, split --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Flash decoding (Dao et al., 2023): the keys of a token are shared among
// `splits` blocks of `warps` warps. Sixteen keys meet all query heads of their
// KV head at once, as the 16 rows of a tensor core's operand (a group of 4
// heads leaves 12 rows idle; loads, not products, are what takes the time):
//
//   keys      0      16     32     48     64     80     96 ...
//   chunk     0 (split 0)               1 (split 1)           (4 warps)
//             warp 0  warp 1  warp 2  warp 3  warp 0 ...
//
// Where many rows fill the machine, fewer than `splits` blocks share a short
// context, by its length alone; the others leave. Split s of n takes chunks s,
// s + n, ... in ascending order, and a warp its 16 keys of each, with an online
// softmax of its own. Parts are then combined warp by warp in the block and
// split by split among blocks. The order of sums depends on positions alone,
// never on other rows or on the grid.
//
// Phases: find the row, load queries, for each chunk (load keys and values,
// multiply, softmax, multiply), combine warps, combine splits, store.
//
// Registers (headDim 128, f16): 32 keys, 32 values, 16 queries, 32 outputs for
// groups up to 8 heads (else 64); about 150 in all. No shared memory but for
// combining.
//
// Checked against float64 and timed on an H100:
// benchmarks/results/2026-11-28-cuda-attention.md.
//
//===----------------------------------------------------------------------===//

#include "DecodeEmitter.h"

#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Lower/Cuda/Workspace.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr int64_t kTileRows = 16;
/// Shared memory that lets two blocks share a processor.
static constexpr int64_t kStagedBytes = 96 * 1024;
static constexpr int64_t kMinStages = 2, kMaxStages = 4;
/// With many rows, one block in this many may have no work.
static constexpr int64_t kMostIdle = 16;
static constexpr double kLog2E = 1.44269504088896341;

int64_t DecodePlan::rows(const AttentionShape &shape) {
  return std::min(shape.group(), kTileRows);
}
int64_t DecodePlan::tiles(const AttentionShape &shape) {
  return llvm::divideCeil(shape.group(), kTileRows);
}

DecodePlan DecodePlan::get(const AttentionShape &shape, int64_t maxRows,
                           int64_t mostSplits) {
  // About 128 blocks for one row: as many as the machine has processors.
  int64_t items = shape.kvHeads * tiles(shape), splits = 4;
  while (splits < mostSplits && splits * items < 128)
    splits *= 2;
  // A counter for each item in the workspace.
  if (maxRows * items * 4 > kCounterBytes)
    splits = 1;
  // More rows fill the machine with a block each: what is short isn't shared.
  int64_t fewest = splits;
  while (mostSplits == kSplitsOfMany && fewest > 1 &&
         fewest * items > kBlocksOfMany)
    fewest /= 2;
  DecodePlan plan{splits,
                  fewest,
                  /*warps=*/4,
                  /*stages=*/0,
                  /*isEarly=*/false,
                  /*isWatched=*/false,
                  maxRows,
                  splits * items};
  plan.isWatched = shape.chip >= 90 && maxRows <= kFewRows && splits > 1 &&
                   fewest == splits &&
                   plan.partBytes(shape) <= kZeroBytes - kCounterBytes;
  // Where a chunk is a page, it is copied as it is.
  if (shape.chip >= 90 && shape.pageTokens == plan.warps * kBlockKeys)
    plan.stages = std::clamp<int64_t>(kStagedBytes / (2 * shape.headBytes()),
                                      kMinStages, kMaxStages);
  return plan;
}

int64_t DecodePlan::blocksPerRow(const AttentionShape &shape) const {
  return splits * shape.kvHeads * tiles(shape);
}
void DecodePlan::spread(const AttentionShape &shape, int64_t processors) {
  int64_t blocks = blocksPerRow(shape);
  int64_t padded = llvm::alignTo(blocks, processors);
  if (isAdaptive() && padded % splits)
    return;
  bool isCheap = (padded - blocks) * kMostIdle <= blocks;
  gridPerRow = isCheap || maxRows <= kFewRows ? padded : blocks;
}
int64_t DecodePlan::stageBytes(const AttentionShape &shape) const {
  int64_t parts = warps * partFloats(shape) * 4;
  int64_t staged = stages * 2 * shape.headBytes();
  return llvm::alignTo(std::max(staged, parts), 16);
}
int64_t DecodePlan::sharedBytes(const AttentionShape &shape) const {
  return stageBytes(shape) + stages * 2 * 8;
}
int64_t DecodePlan::partBytes(const AttentionShape &shape) const {
  return maxRows * blocksPerRow(shape) * partFloats(shape) * 4;
}
int64_t DecodePlan::partsOffset() const {
  return isWatched ? kCounterBytes : kZeroBytes;
}
int64_t DecodePlan::scratchBytes(const AttentionShape &shape) const {
  return hasParts() && !isWatched ? partBytes(shape) : 0;
}

void DecodeEmitter::emit() {
  findItem();
  if (shape.chip >= 90)
    ptx.launchDependents();
  if (plan.stages) {
    sharedAddress = ptx.address(buffers.shared);
    initStages();
  }
  findRow([&] { emitRow(); });
}

void DecodeEmitter::findItem() {
  thread = ptx.thread();
  warp = thread >> 5;
  Val block = ptx.block();
  int64_t tiles = DecodePlan::tiles(shape), items = tiles * shape.kvHeads;
  // With blocks that have no work, rows are apart; they begin alike.
  Val own;
  if (plan.isAdaptive()) {
    // Blocks that most contexts leave without work come last.
    int64_t perSplit = plan.gridPerRow / plan.splits;
    Val ofSplit = ptx.blocks() / plan.splits;
    split = block / ofSplit;
    token = block % ofSplit / perSplit;
    own = block % ofSplit % perSplit;
  } else {
    token = block / plan.gridPerRow;
    Val local = block % plan.gridPerRow;
    split = local % plan.splits;
    own = local / plan.splits;
  }
  if (plan.gridPerRow != items * plan.splits)
    hasWork = own < items;
  item = token * items + own;
  firstHead = (item % tiles) * kTileRows;
  kvHead = item / tiles % shape.kvHeads;
}

/// Calls \p body where the block has a row. Positions and sequences are loaded
/// before it is known whether the row exists: their buffers hold those of the
/// largest step.
void DecodeEmitter::findRow(function_ref<void()> body) {
  position = loadIndex(buffers.positions, token);
  sequence = loadIndex(buffers.tokenSequences, token);
  Val exists = token < buffers.tokens;
  if (hasWork)
    exists = exists & hasWork;
  b.ifElse(exists, [&] { body(); }, [&] { waitForPrevious(); });
}

void DecodeEmitter::emitRow() {
  keys = position + 1;
  start = constantLike(keys, int64_t(0));
  if (shape.window)
    start = b.max(start, keys - shape.window);
  lastChunk = (keys + (chunkKeys() - 1)) / chunkKeys();
  startChunk = start / chunkKeys();
  findShares();
  // The first of the split's chunks that isn't before the window.
  Val skipped = b.max(startChunk - split, constantLike(split, int64_t(0)));
  firstChunk = split + (turns(skipped) << shareBits);
  pages = buffers.blockTables.element(b.i32(), sequence * buffers.maxPages);
  // Splits without keys have no part.
  Val hasKeys = firstChunk < lastChunk;
  if (plan.isAdaptive())
    hasKeys = hasKeys & (split < shares);
  b.ifElse(
      hasKeys,
      [&] {
        if (plan.stages)
          startCopies();
        else
          waitForPrevious();
        loadQueries();
        SmallVector<Val> state = attend();
        if (plan.stages)
          ptx.barrier();
        storeWarp(state);
        ptx.barrier();
        combineSplits();
      },
      [&] { waitForPrevious(); });
}

/// How many blocks share the context: twice as many for twice its length.
void DecodeEmitter::findShares() {
  Val chunks = lastChunk - startChunk;
  int64_t bits = llvm::Log2_64(plan.fewest);
  shareBits = constantLike(chunks, bits);
  for (int64_t few = plan.fewest; few < plan.splits; few *= 2)
    shareBits = b.select(chunks > few * DecodePlan::kChunksOfBlock,
                         constantLike(chunks, ++bits), shareBits);
  shares = constantLike(chunks, int64_t(1)) << shareBits;
}

void DecodeEmitter::loadQueries() {
  int64_t bytes = shape.query.getIntOrFloatBitWidth() / 8;
  Val head = kvHead * shape.group() + firstHead;
  Val feature = (token * shape.heads + head) * shape.headDim;
  Ptr queries = buffers.query.at(b.extendSigned(feature, b.i64()) * bytes);
  // Heads of this tile.
  Val count = b.min(constantLike(head, rows), shape.group() - firstHead);
  auto load = [&](int64_t offset) {
    Val row = fragments.group() + offset;
    Ptr query = queries.at(b.min(row, count - 1) * (shape.headDim * bytes));
    return fragments.loadQuery(query, row < count);
  };
  low = load(0);
  if (rowSets == 2)
    high = load(8);
}

/// State: maxima [rowSets] (of scores times log2 e), sums [rowSets], outputs
/// [tiles][2 * rowSets]; in the loop the next copy's page besides.
SmallVector<Val> DecodeEmitter::attend() {
  SmallVector<Val> state(rowSets, ptx.infinity());
  state.append(rowSets + fragments.outputTiles() * 2 * rowSets,
               b.constant(b.f32(), 0.0));
  Val zero = constantLike(split, int64_t(0));
  Val count = turns(lastChunk - firstChunk);
  // The page of the next turn's copy, known by then; a window's masks leave no
  // register for it.
  bool isAhead = plan.stages && !shape.window;
  if (isAhead)
    state.push_back(zero);
  auto last =
      b.forRange(zero, count, 1, state, [&](Val index, ArrayRef<Val> carried) {
        ArrayRef<Val> before = carried.drop_back(isAhead);
        Val chunk = chunkOf(index), stage, nextPage;
        if (plan.stages) {
          stage = index % plan.stages;
          refill(index, count, isAhead ? carried.back() : Val());
          if (isAhead)
            nextPage = loadIndex(
                pages, b.min(chunkOf(index + plan.stages), lastChunk - 1));
          ptx.waitBarrier(stageBarrier(stage, 0), (index / plan.stages) & 1);
          if (plan.isEarly)
            b.ifThen(ownsRow & (chunk == lastChunk - 1),
                     [&] { storeOwnRow(stage); });
        }
        Val key = chunk * chunkKeys() + warp * kBlockKeys;
        Val isSeen = key < keys;
        if (shape.window)
          isSeen = isSeen & (key + kBlockKeys > start);
        using Values = function_ref<SmallVector<Val>()>;
        auto attend = [&] { return attendBlock(key, stage, before); };
        auto pass = [&] { return SmallVector<Val>(before); };
        SmallVector<Val> next = b.ifElse(isSeen, Values(attend), Values(pass));
        // Every lane gives the stage back for its own reads.
        if (plan.stages)
          ptx.arrive(stageBarrier(stage, 1));
        if (isAhead)
          next.push_back(nextPage);
        return next;
      });
  if (isAhead)
    last.pop_back();
  return last;
}

/// Loads the warp's keys and values of a chunk straight from their page.
Fragments::Block DecodeEmitter::loadBlock(Val first) {
  Ptr keyPart = keysOf(loadIndex(pages, first / shape.pageTokens));
  Ptr valuePart = keyPart.at(shape.kvHeads * shape.headBytes());
  Fragments::Block block;
  fragments.loadKeys(block, keyPart, first % shape.pageTokens);
  fragments.loadValues(block, valuePart, first % shape.pageTokens);
  return block;
}

SmallVector<Val> DecodeEmitter::attendBlock(Val first, Val stage,
                                            ArrayRef<Val> state) {
  // Load.
  Fragments::Block block;
  Ptr keyPart, valuePart;
  Val slot = warp * kBlockKeys;
  if (plan.stages) {
    keyPart = buffers.shared.at(stage * (2 * shape.headBytes()));
    valuePart = keyPart.at(shape.headBytes());
    fragments.loadKeys(block, keyPart, slot);
  } else {
    block = loadBlock(first);
  }

  // Multiply, mask.
  SmallVector<Val> scores = fragments.multiplyKeys(block, low, high);
  SmallVector<Val> valid;
  for (int64_t i = 0; i < 4; ++i) {
    Val key = first + fragments.quad() * 2 + (8 * (i / 2) + i % 2);
    Val isSeen = key < keys;
    if (shape.window)
      isSeen = isSeen & (key >= start);
    valid.push_back(isSeen);
  }
  for (int64_t i = 0; i < 8; ++i)
    scores[i] = b.select(valid[2 * (i / 4) + i % 2], scores[i], ptx.infinity());

  // Softmax, the first row set in scores 0, 1, 4, 5.
  SmallVector<Val> next(state), weights(8, b.constant(b.f32(), 0.0));
  Val factor = b.constant(b.f32(), shape.scale * kLog2E);
  for (int64_t set = 0; set < rowSets; ++set) {
    int64_t at[] = {2 * set, 2 * set + 1, 2 * set + 4, 2 * set + 5};
    Val largest = ptx.larger(ptx.larger(scores[at[0]], scores[at[1]]),
                             ptx.larger(scores[at[2]], scores[at[3]]));
    largest = ptx.larger(largest, ptx.shuffleXor(largest, 1));
    largest = ptx.larger(largest, ptx.shuffleXor(largest, 2));
    Val maximum = ptx.larger(state[set], largest * factor);
    Val correction = ptx.exp2(state[set] - maximum);
    for (int64_t i : at)
      weights[i] = ptx.exp2(b.fma(scores[i], factor, -maximum));
    Val sum =
        (weights[at[0]] + weights[at[1]]) + (weights[at[2]] + weights[at[3]]);
    next[set] = maximum;
    next[rowSets + set] = b.fma(state[rowSets + set], correction, sum);
    for (int64_t tile = 0; tile < fragments.outputTiles(); ++tile)
      for (int64_t i = 0; i < 2; ++i) {
        Val &output = next[2 * rowSets + (tile * rowSets + set) * 2 + i];
        output = output * correction;
      }
  }

  // Multiply with the values.
  if (plan.stages)
    fragments.loadValues(block, valuePart, slot);
  SmallVector<Val> outputs;
  Val zero = b.constant(b.f32(), 0.0);
  for (int64_t tile = 0; tile < fragments.outputTiles(); ++tile)
    for (int64_t i = 0; i < 4; ++i)
      outputs.push_back(
          i < 2 * rowSets ? next[2 * rowSets + tile * 2 * rowSets + i] : zero);
  fragments.multiplyValues(block, weights, valid, outputs, rowSets == 2);
  for (int64_t tile = 0; tile < fragments.outputTiles(); ++tile)
    for (int64_t i = 0; i < 2 * rowSets; ++i)
      next[2 * rowSets + tile * 2 * rowSets + i] = outputs[4 * tile + i];
  return next;
}

void cuda::emitDecodeAttention(KernelBuilder &b, const AttentionShape &shape,
                               const DecodePlan &plan,
                               const AttentionBuffers &buffers) {
  DecodeEmitter(b, shape, plan, buffers).emit();
}
