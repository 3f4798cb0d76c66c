//===- Gemm.cpp - Linears of many rows on sm_90a --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Gemm.h"
#include "LinearEpilogue.h"
#include "LinearTables.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Bytes of a row of x in shared memory: one swizzled line.
static constexpr int64_t kAtomBytes = 128;
static constexpr int64_t kPieceBytes = 16;
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

/// Rows of a tile for more rows than one tile has: the fewest rows that the
/// slowest multiprocessor goes through, where a tile costs about 24 rows more
/// than its own (filling the pipeline, storing y).
static int64_t chooseTokens(int64_t rows, int64_t featureTiles,
                            int64_t multiprocessors) {
  constexpr int64_t kTileCost = 24;
  int64_t best = kMostTokens, least = std::numeric_limits<int64_t>::max();
  for (int64_t tokens = kMostTokens; tokens >= 64; tokens /= 2) {
    int64_t tiles = featureTiles * llvm::divideCeil(rows, tokens);
    int64_t cost =
        static_cast<int64_t>(llvm::divideCeil(tiles, multiprocessors)) *
        (tokens + kTileCost);
    if (cost >= least)
      continue;
    least = cost;
    best = tokens;
  }
  return best;
}

GemmPlan GemmPlan::get(const LinearShape &shape, int64_t rows,
                       int64_t multiprocessors, int64_t tokens, int64_t split) {
  GemmPlan plan;
  plan.tokens = tokens;
  if (!tokens)
    plan.tokens =
        rows > 128
            ? chooseTokens(rows, plan.featureTiles(shape), multiprocessors)
            : std::max(int64_t(16), int64_t(llvm::PowerOf2Ceil(rows)));
  // Few rows: long stages, so that a copy has at least 1 KiB.
  int64_t atomColumns = kAtomBytes / shape.inputBytes();
  bool longStages = shape.inputBytes() == 2 && plan.tokens <= 128 &&
                    shape.paddedColumns() % (2 * atomColumns) == 0;
  plan.atoms = longStages ? 2 : 1;
  plan.stageColumns = plan.atoms * atomColumns;
  plan.steps = llvm::divideCeil(shape.columns, plan.stageColumns);
  plan.inputBytes = plan.atoms * plan.tokens * kAtomBytes;
  plan.codeBytes =
      kTileBlocks * plan.stageColumns / shape.lineColumns() * kLineBytes;
  if (shape.grouped()) {
    int64_t groups =
        std::max(int64_t(1), plan.stageColumns / shape.groupColumns);
    plan.scaleBytes = kTileBlocks * groups * kBlockRows * shape.scaleBytes();
    plan.zeroBytes = shape.zeroPoints ? kTileBlocks * groups * kBlockRows : 0;
  }
  plan.stageBytes = llvm::alignTo(plan.inputBytes + plan.codeBytes +
                                      plan.scaleBytes + plan.zeroBytes,
                                  1024);
  int64_t tableBytes = LinearTables::bytes(shape);
  plan.shareMultiprocessor =
      plan.tokens <= 64 &&
      3 * plan.stageBytes + tableBytes <= kSharedLimit / 2 - 2048;
  int64_t budget =
      (plan.shareMultiprocessor ? kSharedLimit / 2 - 1024 : kSharedLimit) -
      tableBytes;
  plan.stages = std::min((budget - 1024) / plan.stageBytes, kMostStages);
  int64_t tiles =
      plan.featureTiles(shape) * llvm::divideCeil(rows, plan.tokens);
  plan.split =
      split ? split
      : plan.tokens <= 128
          ? chooseSplit(tiles, plan.steps,
                        multiprocessors * (plan.shareMultiprocessor ? 2 : 1))
          : 1;
  int64_t ringBytes = plan.stages * plan.stageBytes;
  // After the last stage the ring holds partial sums, or y on its way out.
  int64_t sumBytes = kFeatures * plan.tokens * 4;
  if (plan.split > 1)
    ringBytes = std::max(ringBytes, sumBytes);
  plan.barriers = ringBytes;
  plan.tables = ringBytes + llvm::alignTo(16 * plan.stages, 128);
  plan.sharedBytes =
      tableBytes ? plan.tables + tableBytes : ringBytes + 16 * plan.stages;
  return plan;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

namespace {

class GemmEmitter {
public:
  GemmEmitter(GpuKernelFrame &frame, const LinearShape &shape,
              const GemmPlan &plan, const LinearBuffers &buffers)
      : frame(frame), b(frame.builder()), shape(shape), plan(plan),
        buffers(buffers), shared(frame.dynamicShared()),
        tables(frame, shape, buffers, shared.at(plan.tables)),
        unpacker(b, shape, tables), matrix(b, shape.matrixType(), plan.tokens) {
  }
  void emit();

private:
  /// A stage of the ring: its number, and the parity of its turn.
  struct RingPlace {
    Val stage, parity;
  };
  /// Two features of a lane, r and r + 8 of its warp's block.
  struct FeatureScales {
    Val features[2], scales[2], biases[2];
  };

  Mbarrier full(Val stage) {
    return Mbarrier(shared.at(plan.barriers).at(stage * 8), b);
  }
  Mbarrier empty(Val stage) {
    return Mbarrier(shared.at(plan.barriers + 8 * plan.stages).at(stage * 8),
                    b);
  }
  Val number(int64_t value) { return b.constant(b.i32(), value); }
  RingPlace advance(RingPlace place) {
    Val next = place.stage + 1;
    Val wraps = next == plan.stages;
    return {b.select(wraps, number(0), next),
            b.select(wraps, place.parity ^ 1, place.parity)};
  }
  void emitTile();

  void emitProducer();
  void copyWeights(RingPlace place, Val step);
  void copyInput(RingPlace place, Val step);

  Val emitConsumer();
  Val multiplyStage(RingPlace place, Val step, Val sums);
  SmallVector<Val> loadGroup(Ptr stage, Val step, int64_t column,
                             SmallVectorImpl<Val> &zeros);

  void storePartials(Val sums);
  void emitCombined();
  void emitWhole(Val sums);
  FeatureScales loadFeatureScales();
  Val finish(Val sum, const FeatureScales &features, int64_t half, Val row);
  /// Rounds and stores the two sums of a lane for row \p row of x: to y, or to
  /// the tile of y in shared memory.
  void storePair(Val row, Val inTile, Val first, Val second,
                 const FeatureScales &features);
  void storeTile();
  bool staged() const { return shape.output != OutputFormat::F32; }
  int64_t tileFeatures() const { return shape.swiglu ? 32 : 64; }
  /// Bytes of a row of the staged tile of a warpgroup; the padding spreads
  /// rows over the banks.
  int64_t tilePitch() const { return tileFeatures() * 2 + 16; }

  GpuKernelFrame &frame;
  KernelBuilder &b;
  const LinearShape &shape;
  const GemmPlan &plan;
  const LinearBuffers &buffers;
  Ptr shared;
  LinearTables tables;
  WeightUnpacker unpacker;
  Wgmma matrix;

  Val thread, lane, warp, rows;
  Val featureTile, firstRow, rank, firstStep, lastStep;
  Val group, warpInGroup; ///< consumer warpgroup, and its warp
};

} // namespace

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
  featureTile = tile / tokenTiles;
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
        Val sums = emitConsumer();
        // The ring's memory gets another use: all have read it.
        frame.barrier(1, GemmPlan::kConsumers);
        frame.waitForPrevious();
        if (plan.split > 1)
          storePartials(sums);
        else
          emitWhole(sums);
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

/// Lanes 0-7 of the first producing warp copy the lines of a block of features
/// each, lanes 8-15 its scales, lanes 16-23 its zero points.
void GemmEmitter::copyWeights(RingPlace place, Val step) {
  b.ifThen(warp == GemmPlan::kConsumers / kWarp, [&] {
    constexpr int64_t kBlocks = GemmPlan::kTileBlocks;
    Val block = lane % kBlocks;
    Val global = featureTile * kBlocks + block;
    Val blocks = number(kBlocks);
    if (shape.blocks() % kBlocks != 0)
      blocks = b.min(blocks, number(shape.blocks()) - featureTile * kBlocks);
    int64_t blockCodes = plan.codeBytes / kBlocks;
    int64_t lines = blockCodes / kLineBytes;
    Val codes = number(blockCodes);
    if (shape.lines() % lines != 0)
      codes = b.min(codes, (number(shape.lines()) - step * lines) * kLineBytes);
    Val groups, firstGroup;
    int64_t groupScales = kBlockRows * shape.scaleBytes();
    int64_t groupZeros = shape.zeroPoints ? kBlockRows : 0;
    Val bytes = codes;
    if (shape.grouped()) {
      int64_t most = plan.scaleBytes / kBlocks / groupScales;
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
      b.ifThen(lane < kBlocks, [&] {
        bulkCopy(
            stage.at(plan.inputBytes).at(block * blockCodes),
            buffers.weights.at(wide * shape.blockBytes()).at(step * blockCodes),
            codes, barrier,
            plan.tokens <= 128 ? CacheHint::EvictFirst : CacheHint::Normal);
      });
      if (!shape.grouped())
        return;
      Val from = wide * shape.groups() + frame.wide(firstGroup);
      b.ifThen((lane >= kBlocks) & (lane < 2 * kBlocks), [&] {
        bulkCopy(stage.at(plan.inputBytes + plan.codeBytes)
                     .at(block * (plan.scaleBytes / kBlocks)),
                 buffers.scales.at(from * groupScales), groups * groupScales,
                 barrier);
      });
      if (shape.zeroPoints)
        b.ifThen((lane >= 2 * kBlocks) & (lane < 3 * kBlocks), [&] {
          bulkCopy(stage.at(plan.inputBytes + plan.codeBytes + plan.scaleBytes)
                       .at(block * (plan.zeroBytes / kBlocks)),
                   buffers.zeroPoints.at(from * groupZeros),
                   groups * groupZeros, barrier);
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

Val GemmEmitter::emitConsumer() {
  Val zero = number(0);
  SmallVector<Val> last =
      b.forRange(firstStep, lastStep, 1, {matrix.zero(), zero, zero},
                 [&](Val step, ArrayRef<Val> carried) {
                   RingPlace place = {carried[1], carried[2]};
                   full(place.stage).wait(place.parity);
                   fenceAsyncProxy(b);
                   Val sums = multiplyStage(place, step, carried[0]);
                   b.ifThen(lane == 0, [&] { empty(place.stage).arrive(); });
                   RingPlace next = advance(place);
                   return SmallVector<Val>{sums, next.stage, next.parity};
                 });
  return last[0];
}

/// All lines of a stage, in groups of products. Products read their left
/// operand's registers while they are under way, and ptxas gives registers
/// that no later instruction reads to the next line's loads: so a group is
/// complete before those begin. The other warpgroups' products, and those of a
/// second thread block, fill the time.
Val GemmEmitter::multiplyStage(RingPlace place, Val step, Val sums) {
  Ptr stage = shared.at(place.stage * plan.stageBytes);
  Val tile = swizzledDescriptor(b, sharedAddress(b, stage));
  int64_t lines = plan.stageColumns / shape.lineColumns();
  // Four steps take 16 registers; with few sums there is room for a stage.
  int64_t together = 4 * shape.stepColumns() / shape.lineColumns();
  if (plan.tokens <= 32)
    together = lines;
  for (int64_t first = 0; first < lines; first += together) {
    SmallVector<SmallVector<Val>> steps;
    for (int64_t line = first; line < first + together; ++line) {
      Ptr codes = stage.at(plan.inputBytes + line * kLineBytes)
                      .at((group * 4 + warpInGroup) *
                              (plan.codeBytes / GemmPlan::kTileBlocks) +
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
            loadGroup(stage, step, line * shape.lineColumns() + column, zeros);
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
    Wgmma::fence(b);
    for (size_t s = 0; s < steps.size(); ++s) {
      int64_t byte = (first * shape.lineColumns() +
                      static_cast<int64_t>(s) * shape.stepColumns()) *
                     shape.inputBytes();
      int64_t offset =
          byte / kAtomBytes * plan.tokens * kAtomBytes + byte % kAtomBytes;
      Val at = offset ? tile + (offset >> 4) : tile;
      sums = matrix.multiply(sums, steps[s], at);
    }
    Wgmma::commit(b);
    sums = matrix.wait(sums, 0);
  }
  return sums;
}

/// Scales of rows r and r + 8 for a column of the stage, twice each as f16;
/// \p zeros get their zero points.
SmallVector<Val> GemmEmitter::loadGroup(Ptr stage, Val step, int64_t column,
                                        SmallVectorImpl<Val> &zeros) {
  Val group16 = number(column / shape.groupColumns);
  // Padding takes the last group's scale: what lies behind it may be NaN.
  if (shape.lacksGroup())
    group16 =
        b.min(group16, number(shape.groups() - 1) -
                           step * (plan.stageColumns / shape.groupColumns));
  Val block = group * 4 + warpInGroup;
  Val row = lane / 4;
  auto at = [&](int64_t base, int64_t perBlock, int64_t elementBytes) {
    return stage.at(base)
        .at(group16 * (kBlockRows * elementBytes))
        .at(block * (perBlock / GemmPlan::kTileBlocks) + row * elementBytes);
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
  Val feature =
      (featureTile * GemmPlan::kTileBlocks + block) * kBlockRows + row;
  Val ofRow = step * plan.stageColumns / shape.groupColumns + group16;
  for (int64_t half = 0; half < 2; ++half) {
    Val scale = tables.scale(from.at(half * 8 * shape.scaleBytes()),
                             feature + half * 8, ofRow);
    scales.push_back(b.broadcast(b.fromF32(scale, b.f16()), 2));
  }
  return scales;
}

//===----------------------------------------------------------------------===//
// y
//===----------------------------------------------------------------------===//

/// Four sums of a lane for rows 8 j + 2 q, + 1 of x: [j][thread] f32x4.
void GemmEmitter::storePartials(Val sums) {
  Type type = shape.input == InputFormat::Int8 ? b.i32() : b.f32();
  for (int64_t j = 0; j < plan.tokens / 8; ++j) {
    Val four = b.zero(b.vec(4, type));
    for (int64_t i = 0; i < 4; ++i)
      four = b.insert(four, matrix.element(sums, 4 * j + i), i);
    shared.at(j * GemmPlan::kConsumers * 16).at(thread * 16).store(four, 16);
  }
}

GemmEmitter::FeatureScales GemmEmitter::loadFeatureScales() {
  FeatureScales result;
  Val feature = featureTile * GemmPlan::kFeatures + group * 64 +
                warpInGroup * kBlockRows + lane / 4;
  for (int64_t half = 0; half < 2; ++half) {
    // Blocks beyond the last are not stored: any address will do.
    Val bounded =
        b.min(feature + half * 8, number(shape.blocks() * kBlockRows - 1));
    result.features[half] = bounded;
    if (shape.scales && !shape.grouped())
      result.scales[half] =
          b.toF32(buffers.scales.at(bounded * shape.scaleBytes())
                      .load(shape.halfScales ? b.f16() : b.f32()));
    if (shape.bias)
      result.biases[half] = buffers.bias.at(bounded * 4).load(b.f32());
  }
  return result;
}

Val GemmEmitter::finish(Val sum, const FeatureScales &features, int64_t half,
                        Val row) {
  Val rowScale;
  if (shape.inputScales)
    rowScale = buffers.inputScales.at(row * 4).load(b.f32());
  Val value = shape.input == InputFormat::Int8 ? b.toFloat(sum, b.f32()) : sum;
  if (unpacker.factor() != 1)
    value = value * unpacker.factor();
  if (features.scales[half])
    value = value * features.scales[half];
  if (rowScale)
    value = value * rowScale;
  if (shape.outliers) {
    LinearEpilogue epilogue(b, shape, buffers, unpacker.factor());
    value = b.fma(epilogue.sumOutliers(row, features.features[half]),
                  features.scales[half], value);
  }
  if (features.biases[half])
    value = value + features.biases[half];
  return value;
}

void GemmEmitter::storePair(Val row, Val inTile, Val first, Val second,
                            const FeatureScales &features) {
  Val existing = b.min(row, rows - 1);
  Val values[2] = {finish(first, features, 0, existing),
                   finish(second, features, 1, existing)};
  int64_t count = 2;
  if (shape.swiglu) {
    values[0] = gateUp(b, values[0], values[1]);
    count = 1;
  }
  int64_t blockOutputs = shape.swiglu ? 8 : kBlockRows;
  Val feature = warpInGroup * blockOutputs + lane / 4;
  if (staged()) {
    Ptr place =
        shared.at((group * plan.tokens + inTile) * tilePitch() + feature * 2);
    Type type = shape.output == OutputFormat::F16 ? b.f16() : b.bf16();
    for (int64_t half = 0; half < count; ++half)
      place.at(half * 16).store(b.fromF32(values[half], type));
    return;
  }
  Val output = (featureTile * 2 + group) * tileFeatures() + feature;
  b.ifThen(row < rows, [&] {
    Val place = frame.wide(row) * shape.outputFeatures() + frame.wide(output);
    for (int64_t half = 0; half < count; ++half) {
      auto store = [&] {
        Val value = values[half];
        if (shape.residual)
          value = value +
                  buffers.residual.at(place * 4).at(half * 32).load(b.f32());
        buffers.result.at(place * 4).at(half * 32).store(value);
      };
      if (shape.outputFeatures() % (2 * tileFeatures()) == 0)
        store();
      else
        b.ifThen(output + half * 8 < shape.outputFeatures(), store);
    }
  });
}

void GemmEmitter::emitWhole(Val sums) {
  FeatureScales features = loadFeatureScales();
  for (int64_t j = 0; j < plan.tokens / 8; ++j)
    for (int64_t t = 0; t < 2; ++t) {
      Val inTile = lane % 4 * 2 + (8 * j + t);
      storePair(firstRow + inTile, inTile, matrix.element(sums, 4 * j + t),
                matrix.element(sums, 4 * j + 2 + t), features);
    }
  if (staged())
    storeTile();
}

/// Adds the partial sums of all ranks, for this rank's part of the rows.
void GemmEmitter::emitCombined() {
  FeatureScales features = loadFeatureScales();
  int64_t pieces = plan.tokens / 8;
  Val lo = rank * pieces / plan.split, hi = (rank + 1) * pieces / plan.split;
  Val own = sharedAddress(b, shared) + thread * 16;
  bool integer = shape.input == InputFormat::Int8;
  b.forRange(lo, hi, 1, [&](Val j) {
    SmallVector<Val> sums;
    for (int64_t other = 0; other < plan.split; ++other) {
      Val from =
          mapToRank(b, own + j * (GemmPlan::kConsumers * 16), number(other));
      SmallVector<Val> four = loadCluster4(b, from);
      for (int64_t i = 0; i < 4; ++i) {
        Val part = integer ? b.bitcast(four[i], b.i32()) : four[i];
        if (other)
          sums[i] = sums[i] + part;
        else
          sums.push_back(part);
      }
    }
    for (int64_t t = 0; t < 2; ++t) {
      Val inTile = j * 8 + lane % 4 * 2 + t;
      Val row = firstRow + inTile;
      if (!staged()) {
        storePair(row, inTile, sums[t], sums[2 + t], features);
        continue;
      }
      // 16-bit results of few rows: straight to memory.
      LinearEpilogue epilogue(b, shape, buffers, unpacker.factor());
      Val feature = featureTile * GemmPlan::kFeatures + group * 64 +
                    warpInGroup * kBlockRows + lane / 4;
      b.ifThen((row < rows) & (feature < shape.blocks() * kBlockRows), [&] {
        if (shape.swiglu) {
          Val output =
              (featureTile * GemmPlan::kTileBlocks + group * 4 + warpInGroup) *
                  8 +
              lane / 4;
          b.ifThen(output < shape.outputFeatures(), [&] {
            epilogue.storeGated(row, output, feature, sums[t], sums[2 + t]);
          });
          return;
        }
        for (int64_t half = 0; half < 2; ++half)
          b.ifThen(feature + half * 8 < shape.outputFeatures(), [&] {
            epilogue.store(row, feature + half * 8, sums[2 * half + t]);
          });
      });
    }
  });
}

/// Writes a warpgroup's tile of y from shared memory, 16 bytes a thread.
void GemmEmitter::storeTile() {
  b.ifElse(
      group == 0, [&] { frame.barrier(2, GemmPlan::kWarpgroup); },
      [&] { frame.barrier(3, GemmPlan::kWarpgroup); });
  int64_t pieces = tileFeatures() * 2 / 16;
  Val own = thread % GemmPlan::kWarpgroup;
  Val piece = own % pieces;
  Val output = (featureTile * 2 + group) * tileFeatures() + piece * 8;
  int64_t rowStep = GemmPlan::kWarpgroup / pieces;
  Val count = b.min(rows - firstRow, number(plan.tokens));
  Type type = shape.output == OutputFormat::F16 ? b.f16() : b.bf16();
  b.forRange(own / pieces, count, rowStep, [&](Val inTile) {
    Val words =
        shared.at((group * plan.tokens + inTile) * tilePitch() + piece * 16)
            .load(b.vec(8, type), 16);
    Val place = frame.wide(firstRow + inTile) * shape.outputFeatures() +
                frame.wide(output);
    auto addResidual = [&](Val values) {
      if (!shape.residual)
        return values;
      Val wide = b.toF32(values);
      Val sum =
          wide + buffers.residual.at(place * 4).load(b.vec(8, b.f32()), 4);
      return b.fromF32(sum, type);
    };
    if (shape.outputFeatures() % 8 == 0) {
      auto store = [&] {
        buffers.result.at(place * 2).store(addResidual(words), 16);
      };
      if (shape.outputFeatures() % (2 * tileFeatures()) == 0)
        store();
      else
        b.ifThen(output < shape.outputFeatures(), store);
      return;
    }
    for (int64_t i = 0; i < 8; ++i)
      b.ifThen(output + i < shape.outputFeatures(), [&] {
        Val value = words.lane(i);
        if (shape.residual)
          value = b.fromF32(
              b.toF32(value) +
                  buffers.residual.at(place * 4).at(i * 4).load(b.f32()),
              type);
        buffers.result.at(place * 2).at(i * 2).store(value);
      });
  });
}

void cuda::emitGemm(GpuKernelFrame &frame, const LinearShape &shape,
                    const GemmPlan &plan, const LinearBuffers &buffers) {
  GemmEmitter(frame, shape, plan, buffers).emit();
}
