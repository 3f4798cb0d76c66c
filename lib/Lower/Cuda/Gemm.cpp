//===- Gemm.cpp - Linears of many rows on sm_90a --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GemmEmitter.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr int64_t kPieces = kAtomBytes / kPieceBytes;
/// Threads that copy weights, and as many that copy x.
static constexpr int64_t kCopiers = GemmPlan::kWarpgroup / 2;

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

void GemmEmitter::emit() {
  thread = frame.thread();
  warp = frame.warp();
  lane = frame.lane();
  rows = frame.size(buffers.rows);
  group = warp / 4;
  warpInGroup = warp % 4;
  if (plan.spans)
    return emitSpans();
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
  // A kernel that doesn't wait would let the next one start too early.
  b.ifElse(
      firstRow < rows, [&] { emitTile(); }, [&] { frame.waitForPrevious(); });
}

void GemmEmitter::emitBarriers() {
  b.ifThen(thread == 0, [&] {
    b.forRange(number(0), number(plan.stages), 1, [&](Val stage) {
      // Those that copy x; those that copy weights, or the one that starts
      // bulk copies.
      full(stage).init(kCopiers + (plan.bulkCopies(shape) ? 1 : kCopiers));
      empty(stage).init(GemmPlan::kConsumers);
    });
    fenceMbarrierInit(b);
  });
  tables.fill();
  frame.barrier();
  frame.launchDependents();
}

/// Gives warpgroups their registers: one copies, the others \p consume.
void GemmEmitter::emitRoles(function_ref<void()> consume) {
  b.ifElse(
      group == GemmPlan::kConsumers / GemmPlan::kWarpgroup,
      [&] {
        decreaseRegisters(b, plan.producerRegisters());
        emitProducer();
      },
      [&] {
        increaseRegisters(b, plan.consumerRegisters());
        consume();
      });
}

void GemmEmitter::emitTile() {
  emitBarriers();
  emitRoles([&] {
    RingPlace place = {number(0), number(0)};
    SmallVector<Val> sums = multiplyTile(place);
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

/// Two warps copy weights, which don't wait for the kernel before, two x.
void GemmEmitter::emitProducer() {
  Val own = thread - GemmPlan::kConsumers;
  auto produce = [&](function_ref<void(RingPlace, Val step)> copy) {
    forStages([&](RingPlace place, Val step) {
      empty(place.stage).wait(place.parity ^ 1);
      copy(place, step);
    });
  };
  b.ifElse(
      own < kCopiers,
      [&] {
        copier = own;
        produce([&](RingPlace place, Val step) {
          if (plan.bulkCopies(shape))
            return copyWeightsInBulk(place, step);
          copyWeights(place, step);
          full(place.stage).arriveAfterCopies();
        });
      },
      [&] {
        copier = own - kCopiers;
        frame.waitForPrevious();
        produce([&](RingPlace place, Val step) {
          copyInput(place, step);
          full(place.stage).arriveAfterCopies();
        });
      });
}

/// Visits the block's stages of all tiles in order.
void GemmEmitter::forStages(function_ref<void(RingPlace, Val step)> visit) {
  Val zero = number(0);
  auto visitTile = [&](ArrayRef<Val> start) {
    return b.forRange(firstStep, lastStep, 1, start,
                      [&](Val step, ArrayRef<Val> carried) {
                        RingPlace place = {carried[0], carried[1]};
                        visit(place, step);
                        RingPlace next = advance(place);
                        return SmallVector<Val>{next.stage, next.parity};
                      });
  };
  if (plan.spans)
    b.forRange(zero, pieces, 1, {zero, zero},
               [&](Val index, ArrayRef<Val> carried) {
                 locate(index);
                 return visitTile(carried);
               });
  else
    visitTile({zero, zero});
}

/// Copies \p blockBytes bytes (a power of two, or any multiple of 16 up to
/// 2 KiB) of each block of the tile, 16 a thread at once. Blocks lie
/// \p distance bytes apart from \p source on, of which \p count are there; of
/// each only the first \p bytes are read where that is given.
void GemmEmitter::copyBlocks(Ptr target, Ptr source, int64_t blockBytes,
                             int64_t distance, Val count, Val bytes) {
  Val own = copier;
  int64_t pieces = blockBytes / kPieceBytes;
  int64_t total = pieces * plan.tileBlocks();
  for (int64_t first = 0; first < total; first += kCopiers) {
    Val block, piece;
    Ptr from = source,
        to = target.at(first * kPieceBytes).at(own * kPieceBytes);
    if (pieces >= kCopiers) {
      block = number(first / pieces);
      piece = own + first % pieces;
      from = from.at(first / pieces * distance);
    } else {
      block = own / pieces + first / pieces;
      piece = own % pieces;
      from = from.at(frame.wide(own / pieces) * distance)
                 .at(first / pieces * distance);
    }
    from = from.at(frame.wide(piece * kPieceBytes));
    Val exists = count ? block < count : Val();
    if (bytes) {
      Val inside = piece * kPieceBytes < bytes;
      exists = exists ? exists & inside : inside;
    }
    auto copy = [&] {
      if (exists)
        copyAsync16(to, from, b.select(exists, number(kPieceBytes), number(0)));
      else
        copyAsync16(to, from);
    };
    if (total - first < kCopiers)
      b.ifThen(own < total - first, copy);
    else
      copy();
  }
}

/// Lines of a stage, one copy a block of features. The engine starts one such
/// copy in some 30 ns, so short ones are not worth it.
void GemmEmitter::copyWeightsInBulk(RingPlace place, Val step) {
  const int64_t tileBlocks = plan.tileBlocks();
  Val blocks = number(tileBlocks);
  if (shape.blocks() % tileBlocks != 0)
    blocks = b.min(blocks, number(shape.blocks()) - tileBlock);
  int64_t blockCodes = plan.codeBytes / tileBlocks;
  int64_t lines = blockCodes / kLineBytes;
  Val bytes = number(blockCodes);
  if (shape.lines() % lines != 0)
    bytes = b.min(bytes, (number(shape.lines()) - step * lines) * kLineBytes);
  Mbarrier barrier = full(place.stage);
  b.ifThen(copier == 0, [&] { barrier.arriveExpecting(bytes * blocks); });
  b.ifThen(copier < kWarp, [&] {
    frame.syncWarp();
    b.ifThen(copier < blocks, [&] {
      bulkCopy(shared.at(place.stage * plan.stageBytes)
                   .at(plan.inputBytes)
                   .at(copier * blockCodes),
               buffers.weights
                   .at(frame.wide(tileBlock + copier) * shape.blockBytes())
                   .at(step * blockCodes),
               bytes, barrier,
               plan.tokens <= 128 ? CacheHint::EvictFirst : CacheHint::Normal);
    });
  });
}

/// Lines, scales and zero points of a stage.
void GemmEmitter::copyWeights(RingPlace place, Val step) {
  const int64_t tileBlocks = plan.tileBlocks();
  Val count;
  if (shape.blocks() % tileBlocks != 0)
    count = number(shape.blocks()) - tileBlock;
  Ptr stage = shared.at(place.stage * plan.stageBytes).at(plan.inputBytes);
  Val wide = frame.wide(tileBlock);
  int64_t blockCodes = plan.codeBytes / tileBlocks;
  int64_t lines = blockCodes / kLineBytes;
  Val codes;
  if (shape.lines() % lines != 0)
    codes = (number(shape.lines()) - step * lines) * kLineBytes;
  copyBlocks(stage,
             buffers.weights.at(wide * shape.blockBytes())
                 .at(frame.wide(step * blockCodes)),
             blockCodes, shape.blockBytes(), count, codes);
  if (!shape.grouped())
    return;
  int64_t groupScales = kBlockRows * shape.scaleBytes();
  int64_t most = plan.scaleBytes / tileBlocks / groupScales;
  Val firstGroup = step * plan.stageColumns / shape.groupColumns;
  Val scales, zeros;
  if (shape.groups() % most != 0) {
    Val groups = number(shape.groups()) - firstGroup;
    scales = groups * groupScales;
    zeros = groups * kBlockRows;
  }
  copyBlocks(stage.at(plan.codeBytes),
             buffers.scales.at(wide * (shape.groups() * groupScales))
                 .at(frame.wide(firstGroup * groupScales)),
             most * groupScales, shape.groups() * groupScales, count, scales);
  if (shape.zeroPoints)
    copyBlocks(stage.at(plan.codeBytes + plan.scaleBytes),
               buffers.zeroPoints.at(wide * (shape.groups() * kBlockRows))
                   .at(frame.wide(firstGroup * kBlockRows)),
               most * kBlockRows, shape.groups() * kBlockRows, count, zeros);
}

/// Each thread copies one piece of every 8th row, at constant distances; of
/// rows and columns that x lacks nothing is read, and zeros stand for them.
void GemmEmitter::copyInput(RingPlace place, Val step) {
  constexpr int64_t kRowStep = kCopiers / kPieces;
  static_assert(kRowStep == 8, "tiles have a multiple of 8 rows");
  Val piece = copier % kPieces, row = copier / kPieces;
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
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

/// Products of chunk i are under way while chunk i + 1 is unpacked, into the
/// registers of chunk i - 1, which is complete by then. So the tensor cores
/// have a chunk of each warpgroup at any time.
SmallVector<Val> GemmEmitter::multiplyTile(RingPlace &place) {
  full(place.stage).wait(place.parity);
  fenceAsyncProxy(b);
  SmallVector<Val> start(plan.warpBlocks, matrix.zero());
  llvm::append_range(start, unpackChunk(place, firstStep, 0));
  start.append({place.stage, place.parity});
  auto split = [&](ArrayRef<Val> carried) {
    ArrayRef<Val> place = carried.take_back(2);
    return std::tuple(
        llvm::to_vector(carried.take_front(plan.warpBlocks)),
        Operands(carried.drop_front(plan.warpBlocks).drop_back(2)),
        RingPlace{place[0], place[1]});
  };
  SmallVector<Val> last = b.forRange(
      firstStep, lastStep - 1, 1, start, [&](Val step, ArrayRef<Val> carried) {
        auto [sums, operands, place] = split(carried);
        sums = multiplyStage(place, step, sums, operands,
                             /*isLast=*/false);
        RingPlace next = advance(place);
        llvm::append_range(sums, operands);
        sums.append({next.stage, next.parity});
        return sums;
      });
  auto [sums, operands, at] = split(last);
  RingPlace end = at;
  sums = multiplyStage(end, lastStep - 1, sums, operands,
                       /*isLast=*/true);
  for (Val &each : sums)
    each = matrix.wait(each, 0);
  empty(end.stage).arrive();
  place = advance(end);
  return sums;
}

/// Multiplies a stage, whose first chunk is in \p operands, which get the next
/// stage's first one.
SmallVector<Val> GemmEmitter::multiplyStage(RingPlace place, Val step,
                                            SmallVector<Val> sums,
                                            Operands &operands, bool isLast) {
  Ptr stage = shared.at(place.stage * plan.stageBytes);
  Val tile = swizzledDescriptor(b, sharedAddress(b, stage));
  int64_t chunkColumns = plan.chunkSteps * shape.stepColumns();
  int64_t chunks = plan.stageColumns / chunkColumns;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    Wgmma::fence(b);
    for (int64_t s = 0; s < plan.chunkSteps; ++s) {
      int64_t byte =
          (chunk * chunkColumns + s * shape.stepColumns()) * shape.inputBytes();
      int64_t offset =
          byte / kAtomBytes * plan.tokens * kAtomBytes + byte % kAtomBytes;
      Val at = offset ? tile + (offset >> 4) : tile;
      for (int64_t h = 0; h < plan.warpBlocks; ++h)
        sums[h] = matrix.multiply(
            sums[h],
            ArrayRef<Val>(operands).slice(4 * (h * plan.chunkSteps + s), 4),
            at);
    }
    Wgmma::commit(b);
    Wgmma::wait(b, 1);
    // All products of the stage before are complete.
    if (chunk == 0)
      b.ifThen(step > firstStep, [&] {
        Val before = b.select(place.stage == 0, number(plan.stages - 1),
                              place.stage - 1);
        empty(before).arrive();
      });
    if (chunk + 1 < chunks) {
      operands = unpackChunk(place, step, chunk + 1);
    } else if (!isLast) {
      RingPlace next = advance(place);
      full(next.stage).wait(next.parity);
      fenceAsyncProxy(b);
      operands = unpackChunk(next, step + 1, 0);
    }
  }
  return sums;
}

GemmEmitter::Operands GemmEmitter::unpackChunk(RingPlace place, Val step,
                                               int64_t chunk) {
  Ptr stage = shared.at(place.stage * plan.stageBytes);
  Operands operands;
  for (int64_t h = 0; h < plan.warpBlocks; ++h)
    llvm::append_range(
        operands,
        unpackSteps(stage, step, h, chunk * plan.chunkSteps, plan.chunkSteps));
  return operands;
}

/// Operands of \p count steps of the warp's block \p h from step \p first of
/// the stage on.
SmallVector<Val> GemmEmitter::unpackSteps(Ptr stage, Val step, int64_t h,
                                          int64_t first, int64_t count) {
  int64_t lineSteps = shape.lineColumns() / shape.stepColumns();
  int64_t stepWords = 4 / lineSteps;
  SmallVector<Val> operands;
  for (int64_t s = first; s < first + count;) {
    int64_t line = s / lineSteps, inLine = s % lineSteps;
    int64_t steps = std::min(first + count - s, lineSteps - inLine);
    // Steps of a line that share a scale.
    int64_t column = s * shape.stepColumns();
    if (shape.grouped())
      steps =
          std::min(steps, (shape.groupColumns - column % shape.groupColumns) /
                              shape.stepColumns());
    Ptr codes =
        stage.at(plan.inputBytes + line * kLineBytes + inLine * stepWords * 4)
            .at(blockOf(h) * (plan.codeBytes / plan.tileBlocks()) +
                lane * kLaneBytes);
    int64_t words = steps * stepWords;
    Val some = codes.load(b.vec(words, b.i32()), 4 * words);
    Val all = b.zero(b.vec(4, b.i32()));
    for (int64_t i = 0; i < words; ++i)
      all = b.insert(all, some.lane(i), inLine * stepWords + i);
    SmallVector<Val> scales, zeros;
    if (shape.grouped())
      scales = loadGroup(stage, step, h, column, zeros);
    auto unpacked = unpacker.unpack(all, zeros);
    for (int64_t i = inLine; i < inLine + steps; ++i)
      for (auto [index, value] : llvm::enumerate(unpacked[i]))
        operands.push_back(scales.empty()
                               ? value
                               : b.bitcast(b.bitcast(value, b.vec(2, b.f16())) *
                                               scales[index % 2],
                                           b.i32()));
    s += steps;
  }
  return operands;
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
