//===- GemmPlan.cpp - How linears of many rows are cut --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Gemm.h"
#include "LinearTables.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;

static constexpr int64_t kSharedLimit = 227 * 1024;
static constexpr int64_t kMostTokens = 256, kWideTokens = 128;
static constexpr int64_t kMostStages = 12;
/// Stages of a span, at least.
static constexpr int64_t kLeastStages = 4;

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

/// Thread blocks that share \p tiles tiles of the plan, if that is worth it;
/// 0 otherwise.
int64_t GemmPlan::countSpans(const LinearShape &shape, int64_t tiles,
                             int64_t multiprocessors) const {
  // A step of one row has a row of tiles, and each span a stage at least.
  int64_t spans = std::min({multiprocessors, featureTiles(shape) * steps,
                            tiles * steps / kLeastStages});
  bool isEven =
      tiles <= multiprocessors ? spans <= tiles : tiles % multiprocessors == 0;
  return isEven ? 0 : spans;
}

/// Chooses a tile for more than 128 rows: what the slowest multiprocessor goes
/// through, in rows of 128 features, is the least. A tile costs about 24 rows
/// more than its own (filling the pipeline, storing y), a span's sums as many.
/// Tiles of 256 features copy half as much of x for their products.
void GemmPlan::chooseTile(const LinearShape &shape, int64_t rows,
                          int64_t multiprocessors, bool mayShare) {
  constexpr int64_t kTileCost = 24;
  int64_t least = std::numeric_limits<int64_t>::max();
  auto consider = [&](int64_t tileRows, int64_t blocks) {
    GemmPlan other;
    other.tokens = tileRows;
    other.warpBlocks = blocks;
    other.setStage(shape);
    int64_t tiles =
        other.featureTiles(shape) * llvm::divideCeil(rows, tileRows);
    int64_t tileCost = blocks * tileRows + kTileCost;
    auto rounds =
        static_cast<int64_t>(llvm::divideCeil(tiles, multiprocessors));
    int64_t cost = tileCost * rounds;
    if (mayShare)
      other.spans = other.countSpans(shape, tiles, multiprocessors);
    if (other.spans) {
      int64_t shared = tileCost * tiles / other.spans + 2 * kTileCost;
      if (shared >= cost)
        other.spans = 0;
      cost = std::min(cost, shared);
    }
    if (cost >= least)
      return;
    least = cost;
    tokens = tileRows;
    warpBlocks = blocks;
    spans = other.spans;
  };
  // With inputs of one byte a whole prompt took 8 % longer in wide tiles.
  if (shape.inputBytes() == 2)
    for (int64_t tileRows = kWideTokens; tileRows >= 64; tileRows -= 8)
      consider(tileRows, 2);
  for (int64_t tileRows = kMostTokens; tileRows >= 64; tileRows /= 2)
    consider(tileRows, 1);
}

void GemmPlan::setStage(const LinearShape &shape) {
  int64_t atomColumns = kAtomBytes / shape.inputBytes();
  // Few rows: long stages, since each has its own wait.
  if (!atoms) {
    atoms = 1;
    int64_t most = shape.inputBytes() == 2 ? 2 : 1;
    while (atoms < most && tokens <= 128 &&
           shape.paddedColumns() % (2 * atoms * atomColumns) == 0)
      atoms *= 2;
  }
  stageColumns = atoms * atomColumns;
  steps = llvm::divideCeil(shape.columns, stageColumns);
  inputBytes = atoms * tokens * kAtomBytes;
  codeBytes = tileBlocks() * stageColumns / shape.lineColumns() * kLineBytes;
  if (shape.grouped()) {
    int64_t groups = std::max(int64_t(1), stageColumns / shape.groupColumns);
    scaleBytes = tileBlocks() * groups * kBlockRows * shape.scaleBytes();
    zeroBytes = shape.zeroPoints ? tileBlocks() * groups * kBlockRows : 0;
  }
  stageBytes = llvm::alignTo(inputBytes + codeBytes + scaleBytes + zeroBytes,
                             int64_t(1024));
}

void GemmPlan::layOut(const LinearShape &shape) {
  constexpr int64_t kOutgoingBytes = 20 * 1024;
  int64_t tableBytes = LinearTables::bytes(shape, LinearTables::kFewCopies);
  int64_t budget =
      (shareMultiprocessor ? kSharedLimit / 2 - 1024 : kSharedLimit) -
      tableBytes - 1024;
  // After the last stage the ring holds partial sums, or y on its way out;
  // with spans the next tile is on its way into it.
  outgoingRows = tokens;
  int64_t apart = 0;
  if (spans) {
    while (outgoingBytes(shape) > kOutgoingBytes && outgoingRows > 16)
      outgoingRows = outgoingRows > 64 ? 64 : outgoingRows / 2;
    apart = llvm::alignTo(outgoingBytes(shape), int64_t(128));
  }
  stages = std::min((budget - apart) / stageBytes, kMostStages);
  int64_t ringBytes = stages * stageBytes;
  if (!spans)
    ringBytes = std::max<int64_t>(
        ringBytes, llvm::alignTo(split > 1 ? kFeatures * tokens * 4
                                           : warpBlocks * outgoingBytes(shape),
                                 int64_t(1024)));
  outgoing = spans ? ringBytes : 0;
  barriers = ringBytes + apart;
  tables = barriers + llvm::alignTo(16 * stages, int64_t(128));
  sharedBytes = tables + tableBytes;
}

GemmPlan GemmPlan::get(const LinearShape &shape, int64_t rows,
                       int64_t multiprocessors, const Wish &wish) {
  GemmPlan plan;
  plan.tokens = wish.tokens;
  plan.warpBlocks = wish.warpBlocks ? wish.warpBlocks : 1;
  bool mayShare = wish.mayShare && !wish.split;
  if (!wish.tokens && rows > 128)
    plan.chooseTile(shape, rows, multiprocessors, mayShare);
  else if (!wish.tokens)
    plan.tokens = std::max(int64_t(16), int64_t(llvm::PowerOf2Ceil(rows)));
  plan.atoms = wish.atoms;
  plan.setStage(shape);
  int64_t tableBytes = LinearTables::bytes(shape, LinearTables::kFewCopies);
  plan.shareMultiprocessor =
      !wish.isAlone && plan.tokens <= 64 && plan.warpBlocks == 1 &&
      3 * plan.stageBytes + tableBytes <= kSharedLimit / 2 - 2048;
  int64_t tiles =
      plan.featureTiles(shape) * llvm::divideCeil(rows, plan.tokens);
  if (wish.spans)
    plan.spans = std::min(wish.spans, plan.featureTiles(shape) * plan.steps);
  else if (mayShare && rows <= 128 && !wish.tokens)
    plan.spans = plan.countSpans(shape, tiles, multiprocessors);
  if (plan.spans)
    plan.split = 1;
  else if (wish.split)
    plan.split = wish.split;
  else if (plan.tokens <= 128 && plan.warpBlocks == 1)
    plan.split =
        chooseSplit(tiles, plan.steps,
                    multiprocessors * (plan.shareMultiprocessor ? 2 : 1));
  // Two steps take 8 registers a block twice; few sums leave room for more. A
  // stage has two chunks at least: in a loop of one, operands would have to
  // move from register to register while they are read.
  plan.chunkSteps = wish.chunkSteps     ? wish.chunkSteps
                    : plan.tokens <= 32 ? 4
                                        : 2;
  plan.chunkSteps =
      std::min(plan.chunkSteps, plan.stageColumns / shape.stepColumns() / 2);
  plan.layOut(shape);
  return plan;
}
