//===- Gemm.cpp - Linears of many rows on sm_90a --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GemmEmitter.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Bytes of a row of x in shared memory: one swizzled line.
static constexpr int64_t kAtomBytes = 128;
static constexpr int64_t kPieces = kAtomBytes / kPieceBytes;
/// Registers of 65,536 that the warpgroups take: 56 and 224 of one block
/// a multiprocessor, 56 and 88 of two.
static constexpr int64_t kProducerRegisters = 56;
static constexpr int64_t kConsumerRegisters = 224, kSharedRegisters = 88;
static constexpr int64_t kSharedLimit = 227 * 1024;
static constexpr int64_t kMostTokens = 256;
static constexpr int64_t kMostStages = 8;

//===----------------------------------------------------------------------===//
// Plan
//===----------------------------------------------------------------------===//

bool GemmPlan::serves(const LinearShape &shape) {
  if (shape.norm || shape.columns * shape.inputBytes() % kPieceBytes != 0)
    return false;
  // What lies past the columns in shared memory may be NaN in E4M3.
  if (shape.input == InputFormat::Fp8 && shape.paddedColumns() % 128 != 0)
    return false;
  // Groups are scaled in f16 registers.
  return !shape.grouped() || shape.inputBytes() == 2;
}

/// Thread blocks of a cluster so that few rows fill the machine: a power of
/// two, since clusters of three leave holes in the machine's groups of
/// multiprocessors (84 fit where 88 places are; measured 21 us against 15).
static int64_t chooseSplit(int64_t tiles, int64_t steps, int64_t places) {
  int64_t split = 1;
  while (split < 4 && 2 * split * tiles <= places && 8 * split <= steps)
    split *= 2;
  return split;
}

/// Chooses a tile for more than 128 rows: what the slowest multiprocessor goes
/// through, in rows of 128 features, is the least. A tile costs about 24 rows
/// more than its own (filling the pipeline, storing y). Tiles of 256 features
/// by 128 rows copy half as much of x for their products, and took 0.92 of the
/// time of 128 by 256 (benchmarks/results/2026-11-29-cuda-closing.md).
static void chooseTile(GemmPlan &plan, const LinearShape &shape, int64_t rows,
                       int64_t multiprocessors) {
  constexpr int64_t kTileCost = 24, kWideRows = 128, kWideCost = 236;
  int64_t least = std::numeric_limits<int64_t>::max();
  auto consider = [&](int64_t tokens, int64_t warpBlocks, int64_t cost) {
    GemmPlan other;
    other.warpBlocks = warpBlocks;
    int64_t tiles = other.featureTiles(shape) * llvm::divideCeil(rows, tokens);
    cost = (cost + kTileCost) *
           static_cast<int64_t>(llvm::divideCeil(tiles, multiprocessors));
    if (cost >= least)
      return;
    least = cost;
    plan.tokens = tokens;
    plan.warpBlocks = warpBlocks;
  };
  // With inputs of one byte a whole prompt took 8 % longer in wide tiles.
  if (shape.inputBytes() == 2)
    consider(kWideRows, 2, kWideCost);
  for (int64_t tokens = kMostTokens; tokens >= 64; tokens /= 2)
    consider(tokens, 1, tokens);
}

GemmPlan GemmPlan::get(const LinearShape &shape, int64_t rows,
                       int64_t multiprocessors, int64_t tokens, int64_t split,
                       int64_t warpBlocks) {
  GemmPlan plan;
  plan.warpBlocks = warpBlocks ? warpBlocks : 1;
  plan.tokens = tokens;
  if (!tokens && rows > 128)
    chooseTile(plan, shape, rows, multiprocessors);
  else if (!tokens)
    plan.tokens = std::max(int64_t(16), int64_t(llvm::PowerOf2Ceil(rows)));
  // Few rows: long stages, so that a copy has at least 1 KiB.
  int64_t atomColumns = kAtomBytes / shape.inputBytes();
  bool longStages = shape.inputBytes() == 2 && plan.tokens <= 128 &&
                    shape.paddedColumns() % (2 * atomColumns) == 0;
  plan.atoms = longStages ? 2 : 1;
  plan.stageColumns = plan.atoms * atomColumns;
  plan.steps = llvm::divideCeil(shape.columns, plan.stageColumns);
  plan.inputBytes = plan.atoms * plan.tokens * kAtomBytes;
  plan.codeBytes =
      plan.tileBlocks() * plan.stageColumns / shape.lineColumns() * kLineBytes;
  if (shape.grouped()) {
    int64_t groups =
        std::max(int64_t(1), plan.stageColumns / shape.groupColumns);
    plan.scaleBytes =
        plan.tileBlocks() * groups * kBlockRows * shape.scaleBytes();
    plan.zeroBytes =
        shape.zeroPoints ? plan.tileBlocks() * groups * kBlockRows : 0;
  }
  plan.stageBytes = llvm::alignTo(plan.inputBytes + plan.codeBytes +
                                      plan.scaleBytes + plan.zeroBytes,
                                  1024);
  int64_t tableBytes = LinearTables::bytes(shape, LinearTables::kFewCopies);
  plan.shareMultiprocessor =
      plan.tokens <= 64 && plan.warpBlocks == 1 &&
      3 * plan.stageBytes + tableBytes <= kSharedLimit / 2 - 2048;
  int64_t budget =
      (plan.shareMultiprocessor ? kSharedLimit / 2 - 1024 : kSharedLimit) -
      tableBytes;
  plan.stages = std::min((budget - 1024) / plan.stageBytes, kMostStages);
  int64_t tiles =
      plan.featureTiles(shape) * llvm::divideCeil(rows, plan.tokens);
  plan.split =
      split ? split
      : plan.tokens <= 128 && plan.warpBlocks == 1
          ? chooseSplit(tiles, plan.steps,
                        multiprocessors * (plan.shareMultiprocessor ? 2 : 1))
          : 1;
  int64_t ringBytes = plan.stages * plan.stageBytes;
  // After the last stage the ring holds partial sums, or y on its way out.
  int64_t sumBytes = plan.split > 1
                         ? kFeatures * plan.tokens * 4
                         : plan.warpBlocks * plan.outgoingBytes(shape);
  ringBytes = std::max<int64_t>(ringBytes, llvm::alignTo(sumBytes, 1024));
  plan.barriers = ringBytes;
  plan.tables = ringBytes + llvm::alignTo(16 * plan.stages, 128);
  plan.sharedBytes =
      tableBytes ? plan.tables + tableBytes : ringBytes + 16 * plan.stages;
  return plan;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

void GemmEmitter::emit() {
  thread = frame.thread();
  warp = frame.warp();
  lane = frame.lane();
  rows = frame.size(buffers.rows);
  int64_t tiles = plan.featureTiles(shape);
  // Tiles that share weights are neighbours.
  Val tile = frame.block() / plan.split;
  Val tokenTiles = frame.blocks() / (tiles * plan.split);
  rank = frame.block() % plan.split;
  featureTile = tile / tokenTiles * plan.warpBlocks;
  tileBlock = featureTile * GemmPlan::kTileBlocks;
  outgoing = shared;
  firstRow = tile % tokenTiles * plan.tokens;
  firstStep = rank * plan.steps / plan.split;
  lastStep = (rank + 1) * plan.steps / plan.split;
  group = warp / 4;
  warpInGroup = warp % 4;
  // A kernel that doesn't wait would let the next one start too early.
  b.ifElse(
      firstRow < rows, [&] { emitTile(); }, [&] { frame.waitForPrevious(); });
}

void GemmEmitter::emitTile() {
  b.ifThen(thread == 0, [&] {
    b.forRange(number(0), number(plan.stages), 1, [&](Val stage) {
      // Each producer's copies of x, and the weights' bytes.
      full(stage).init(GemmPlan::kWarpgroup + 1);
      empty(stage).init(GemmPlan::kConsumers / kWarp);
    });
    fenceMbarrierInit(b);
  });
  tables.fill();
  frame.barrier();
  frame.launchDependents();
  int64_t more =
      plan.shareMultiprocessor ? kSharedRegisters : kConsumerRegisters;
  b.ifElse(
      group == GemmPlan::kConsumers / GemmPlan::kWarpgroup,
      [&] {
        decreaseRegisters(b, kProducerRegisters);
        emitProducer();
      },
      [&] {
        increaseRegisters(b, more);
        SmallVector<Val> sums = emitConsumer();
        // The ring's memory gets another use: all have read it.
        frame.barrier(1, GemmPlan::kConsumers);
        frame.waitForPrevious();
        if (plan.split > 1)
          return storePartials(sums[0]);
        for (int64_t h = 0; h < plan.warpBlocks; ++h)
          emitWhole(sums[h], h);
      });
  if (plan.split == 1)
    return;
  clusterBarrier(b);
  b.ifThen(thread < GemmPlan::kConsumers, [&] { emitCombined(); });
  // A block's memory stays until all have read it.
  clusterBarrier(b);
}

//===----------------------------------------------------------------------===//
// Copies
//===----------------------------------------------------------------------===//

void GemmEmitter::emitProducer() {
  Val zero = number(0);
  Val count = lastStep - firstStep;
  // The weights of the first stages don't wait for the kernel before.
  Val early = b.min(count, number(plan.stages));
  b.forRange(zero, early, 1,
             [&](Val i) { copyWeights({i, zero}, firstStep + i); });
  frame.waitForPrevious();
  b.forRange(zero, early, 1,
             [&](Val i) { copyInput({i, zero}, firstStep + i); });
  b.forRange(early, count, 1, {zero, number(1)},
             [&](Val i, ArrayRef<Val> carried) {
               RingPlace place = {carried[0], carried[1]};
               empty(place.stage).wait(place.parity ^ 1);
               copyWeights(place, firstStep + i);
               copyInput(place, firstStep + i);
               RingPlace next = advance(place);
               return SmallVector<Val>{next.stage, next.parity};
             });
}

/// As many lanes of the first producing warp as a tile has blocks copy the
/// lines of a block of features each, the next ones its scales, then its zero
/// points.
void GemmEmitter::copyWeights(RingPlace place, Val step) {
  b.ifThen(warp == GemmPlan::kConsumers / kWarp, [&] {
    const int64_t tileBlocks = plan.tileBlocks();
    Val block = lane % tileBlocks;
    Val global = tileBlock + block;
    Val blocks = number(tileBlocks);
    if (shape.blocks() % tileBlocks != 0)
      blocks = b.min(blocks, number(shape.blocks()) - tileBlock);
    int64_t blockCodes = plan.codeBytes / tileBlocks;
    int64_t lines = blockCodes / kLineBytes;
    Val codes = number(blockCodes);
    if (shape.lines() % lines != 0)
      codes = b.min(codes, (number(shape.lines()) - step * lines) * kLineBytes);
    Val groups, firstGroup;
    int64_t groupScales = kBlockRows * shape.scaleBytes();
    int64_t groupZeros = shape.zeroPoints ? kBlockRows : 0;
    Val bytes = codes;
    if (shape.grouped()) {
      int64_t most = plan.scaleBytes / tileBlocks / groupScales;
      firstGroup = step * plan.stageColumns / shape.groupColumns;
      groups = number(most);
      if (shape.groups() % most != 0)
        groups = b.min(groups, number(shape.groups()) - firstGroup);
      bytes = bytes + groups * (groupScales + groupZeros);
    }
    Mbarrier barrier = full(place.stage);
    b.ifThen(lane == 0, [&] { barrier.arriveExpecting(bytes * blocks); });
    frame.syncWarp();
    Ptr stage = shared.at(place.stage * plan.stageBytes);
    Val wide = frame.wide(global);
    b.ifThen(block < blocks, [&] {
      b.ifThen(lane < tileBlocks, [&] {
        bulkCopy(
            stage.at(plan.inputBytes).at(block * blockCodes),
            buffers.weights.at(wide * shape.blockBytes()).at(step * blockCodes),
            codes, barrier,
            plan.tokens <= 128 ? CacheHint::EvictFirst : CacheHint::Normal);
      });
      if (!shape.grouped())
        return;
      Val from = wide * shape.groups() + frame.wide(firstGroup);
      b.ifThen((lane >= tileBlocks) & (lane < 2 * tileBlocks), [&] {
        bulkCopy(stage.at(plan.inputBytes + plan.codeBytes)
                     .at(block * (plan.scaleBytes / tileBlocks)),
                 buffers.scales.at(from * groupScales), groups * groupScales,
                 barrier);
      });
      // The next lanes' task, or the first ones' once more.
      int64_t firstOfZeros = 3 * tileBlocks <= kWarp ? 2 * tileBlocks : 0;
      if (shape.zeroPoints)
        b.ifThen(
            (lane >= firstOfZeros) & (lane < firstOfZeros + tileBlocks), [&] {
              bulkCopy(
                  stage.at(plan.inputBytes + plan.codeBytes + plan.scaleBytes)
                      .at(block * (plan.zeroBytes / tileBlocks)),
                  buffers.zeroPoints.at(from * groupZeros), groups * groupZeros,
                  barrier);
            });
    });
  });
}

/// Each thread copies one piece of every 16th row, at constant distances; of
/// rows and columns that x lacks nothing is read, and zeros stand for them.
void GemmEmitter::copyInput(RingPlace place, Val step) {
  constexpr int64_t kRowStep = GemmPlan::kWarpgroup / kPieces;
  Val own = thread - GemmPlan::kConsumers;
  Val piece = own % kPieces, row = own / kPieces;
  int64_t pieceColumns = kPieceBytes / shape.inputBytes();
  int64_t rowBytes = shape.columns * shape.inputBytes();
  Ptr stage = shared.at(place.stage * plan.stageBytes)
                  .at(row * kAtomBytes + ((piece ^ (row % 8)) * kPieceBytes));
  Ptr from = buffers.input.at(frame.wide(firstRow + row) * rowBytes);
  for (int64_t atom = 0; atom < plan.atoms; ++atom) {
    Val column = step * plan.stageColumns +
                 atom * (kAtomBytes / shape.inputBytes()) +
                 piece * pieceColumns;
    Val left = rows - firstRow - row;
    if (shape.columns % plan.stageColumns != 0)
      left = b.select(column < shape.columns, left, number(0));
    Ptr source = from.at(frame.wide(column * shape.inputBytes()));
    for (int64_t i = 0; i < plan.tokens / kRowStep; ++i) {
      Val bytes = b.select(left > i * kRowStep, number(kPieceBytes), number(0));
      copyAsync16(stage.at((atom * plan.tokens + i * kRowStep) * kAtomBytes),
                  source.at(i * kRowStep * rowBytes), bytes);
    }
  }
  full(place.stage).arriveAfterCopies();
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

SmallVector<Val> GemmEmitter::emitConsumer() {
  Val zero = number(0);
  // The first turn is warpgroup 0's.
  if (plan.takesTurns())
    b.ifThen((group == 1) & (firstStep < lastStep), [&] { passTurn(Val()); });
  SmallVector<Val> start(plan.warpBlocks, matrix.zero());
  start.append(2, zero);
  SmallVector<Val> last = b.forRange(
      firstStep, lastStep, 1, start, [&](Val step, ArrayRef<Val> carried) {
        ArrayRef<Val> position = carried.take_back(2);
        RingPlace place = {position[0], position[1]};
        full(place.stage).wait(place.parity);
        fenceAsyncProxy(b);
        SmallVector<Val> sums =
            multiplyStage(place, step, llvm::to_vector(carried.drop_back(2)));
        b.ifThen(lane == 0, [&] { empty(place.stage).arrive(); });
        RingPlace next = advance(place);
        sums.append({next.stage, next.parity});
        return sums;
      });
  last.pop_back_n(2);
  return last;
}

/// Barriers of the turns of the two warpgroups.
static constexpr int64_t kTurn = 4;

/// Where products fill the time, the warpgroups start theirs in turns: one
/// unpacks while the other multiplies. Left alone they come to multiply, and to
/// unpack, at the same time.
void GemmEmitter::waitForTurn() {
  if (plan.takesTurns())
    inlinePtx(b, Type(), "bar.sync $0, $1;", "r,r",
              {group + kTurn, number(GemmPlan::kConsumers)}, /*effects=*/true);
}

/// Lets the other warpgroup start its products. \p lastOf: the step whose last
/// products these are, or null; nobody waits after the last one.
void GemmEmitter::passTurn(Val lastOf) {
  if (!plan.takesTurns())
    return;
  auto pass = [&] {
    inlinePtx(b, Type(), "bar.arrive $0, $1;", "r,r",
              {(group ^ 1) + kTurn, number(GemmPlan::kConsumers)},
              /*effects=*/true);
  };
  if (lastOf)
    b.ifThen((group == 0) | (lastOf + 1 < lastStep), pass);
  else
    pass();
}

/// Operands of the products of the warp's block \p h with lines \p first to
/// \p first + \p count of a stage, unpacked and scaled: four registers for each
/// step.
SmallVector<SmallVector<Val>> GemmEmitter::unpackLines(Ptr stage, Val step,
                                                       int64_t h, int64_t first,
                                                       int64_t count) {
  SmallVector<SmallVector<Val>> steps;
  for (int64_t line = first; line < first + count; ++line) {
    Ptr codes = stage.at(plan.inputBytes + line * kLineBytes)
                    .at(blockOf(h) * (plan.codeBytes / plan.tileBlocks()) +
                        lane * kLaneBytes);
    Val words = codes.load(b.vec(4, b.i32()), kLaneBytes);
    if (!shape.grouped()) {
      llvm::append_range(steps, unpacker.unpack(words));
      continue;
    }
    // Runs of steps that share a scale.
    int64_t run = std::min(shape.groupColumns, shape.lineColumns());
    for (int64_t column = 0; column < shape.lineColumns(); column += run) {
      SmallVector<Val> zeros;
      SmallVector<Val> scales =
          loadGroup(stage, step, h, line * shape.lineColumns() + column, zeros);
      auto unpacked = unpacker.unpack(words, zeros);
      for (int64_t s = 0; s < run / shape.stepColumns(); ++s) {
        SmallVector<Val> &four = unpacked[column / shape.stepColumns() + s];
        for (int64_t i = 0; i < 4; ++i)
          four[i] = b.bitcast(
              b.bitcast(four[i], b.vec(2, b.f16())) * scales[i % 2], b.i32());
        steps.push_back(four);
      }
    }
  }
  return steps;
}

/// All lines of a stage, in groups of products. Products read their left
/// operand's registers while they are under way, and ptxas gives registers
/// that no later instruction reads to the next line's loads: so a group is
/// complete before those begin. The other warpgroups' products, and those of a
/// second thread block, fill the time.
SmallVector<Val> GemmEmitter::multiplyStage(RingPlace place, Val step,
                                            SmallVector<Val> sums) {
  Ptr stage = shared.at(place.stage * plan.stageBytes);
  Val tile = swizzledDescriptor(b, sharedAddress(b, stage));
  int64_t lines = plan.stageColumns / shape.lineColumns();
  // Four steps take 16 registers; with few sums there is room for a stage.
  int64_t together = 4 * shape.stepColumns() / shape.lineColumns();
  if (plan.tokens <= 32)
    together = lines;
  for (int64_t first = 0; first < lines; first += together) {
    SmallVector<SmallVector<SmallVector<Val>>> steps;
    for (int64_t h = 0; h < plan.warpBlocks; ++h)
      steps.push_back(unpackLines(stage, step, h, first, together));
    waitForTurn();
    Wgmma::fence(b);
    for (size_t s = 0; s < steps[0].size(); ++s) {
      int64_t byte = (first * shape.lineColumns() +
                      static_cast<int64_t>(s) * shape.stepColumns()) *
                     shape.inputBytes();
      int64_t offset =
          byte / kAtomBytes * plan.tokens * kAtomBytes + byte % kAtomBytes;
      Val at = offset ? tile + (offset >> 4) : tile;
      for (int64_t h = 0; h < plan.warpBlocks; ++h)
        sums[h] = matrix.multiply(sums[h], steps[h][s], at);
    }
    Wgmma::commit(b);
    passTurn(first + together < lines ? Val() : step);
    for (Val &each : sums)
      each = matrix.wait(each, 0);
  }
  return sums;
}

/// Scales of rows r and r + 8 for a column of the stage, twice each as f16;
/// \p zeros get their zero points.
SmallVector<Val> GemmEmitter::loadGroup(Ptr stage, Val step, int64_t h,
                                        int64_t column,
                                        SmallVectorImpl<Val> &zeros) {
  Val group16 = number(column / shape.groupColumns);
  // Padding takes the last group's scale: what lies behind it may be NaN.
  if (shape.lacksGroup())
    group16 =
        b.min(group16, number(shape.groups() - 1) -
                           step * (plan.stageColumns / shape.groupColumns));
  Val block = blockOf(h);
  Val row = lane / 4;
  auto at = [&](int64_t base, int64_t perBlock, int64_t elementBytes) {
    return stage.at(base)
        .at(group16 * (kBlockRows * elementBytes))
        .at(block * (perBlock / plan.tileBlocks()) + row * elementBytes);
  };
  if (shape.zeroPoints) {
    Ptr from = at(plan.inputBytes + plan.codeBytes + plan.scaleBytes,
                  plan.zeroBytes, 1);
    for (int64_t half = 0; half < 2; ++half)
      zeros.push_back(unpacker.biasOf(from.at(half * 8).load(b.i8())));
  }
  Ptr from =
      at(plan.inputBytes + plan.codeBytes, plan.scaleBytes, shape.scaleBytes());
  SmallVector<Val> scales;
  Val feature = (tileBlock + block) * kBlockRows + row;
  Val ofRow = step * plan.stageColumns / shape.groupColumns + group16;
  for (int64_t half = 0; half < 2; ++half) {
    Val scale = tables.scale(from.at(half * 8 * shape.scaleBytes()),
                             tables.common(feature + half * 8, ofRow));
    scales.push_back(b.broadcast(b.fromF32(scale, b.f16()), 2));
  }
  return scales;
}

void cuda::emitGemm(GpuKernelFrame &frame, const LinearShape &shape,
                    const GemmPlan &plan, const LinearBuffers &buffers) {
  GemmEmitter(frame, shape, plan, buffers).emit();
}
