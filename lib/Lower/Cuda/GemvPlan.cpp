//===- GemvPlan.cpp - How linears of a few rows are cut -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GemvEmitter.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;

/// Shared memory of a block, so that two fit into a multiprocessor's 227 KiB.
static constexpr int64_t kSharedBudget = 112 * 1024;
/// Where x leaves too little of that for the ring, a block takes all.
static constexpr int64_t kLargeBudget = 224 * 1024;
static constexpr int64_t kSmallestRing = 40 * 1024;
/// Blocks of features whose sums, 4 a block, leave room for what is unpacked:
/// of two thread blocks a multiprocessor (96 registers), and of one.
static constexpr int64_t kMostBlocks = 14, kMostAlone = 16;
/// The same of groups and several rows: their sums and their groups' are apart.
static constexpr int64_t kMostGrouped = 6;
static constexpr int64_t kMostSlots = 64;
/// Barriers, and what else is small.
static constexpr int64_t kOtherBytes = 1024;
/// Rows for which a ring has room for slots of twice the columns.
static constexpr int64_t kDeepRows = 2;

/// Whether \p bytes leave room for a ring.
static bool fits(int64_t bytes) {
  return bytes + kSmallestRing <= kLargeBudget - kOtherBytes;
}

static int64_t roundRows(int64_t rows) { return llvm::PowerOf2Ceil(rows); }

bool GemvPlan::serves(const LinearShape &shape, int64_t rows) {
  if (rows > kMostRows || (shape.norm && shape.inputBytes() != 2))
    return false;
  int64_t inputBytes =
      roundRows(rows) * shape.paddedColumns() * shape.inputBytes();
  return fits(inputBytes +
              LinearTables::bytes(shape, LinearTables::kAllCopies));
}

void GemvPlan::choose(const LinearShape &shape, int64_t multiprocessors) {
  int64_t units = shape.units();
  auto blocksOf = [&](int64_t blocks) {
    return static_cast<int64_t>(llvm::divideCeil(units, blocks)) *
           shape.unitBlocks();
  };
  // For one row also blocks without work: a multiprocessor that has no block of
  // this launch would take two of the next one, which would last twice as long.
  grid = maxRows == 1 ? multiprocessors : std::min(units, multiprocessors);
  int64_t inputBytes = this->inputBytes(shape);
  bool isLookedUp = shape.weights == WeightFormat::Nf4;
  bool hasManySums =
      shape.grouped() && maxRows > 1 && blocksOf(grid) > kMostGrouped;
  bool hasLongInput =
      kSharedBudget - inputBytes - tableBytes(shape) - kOtherBytes <
      kSmallestRing;
  isAlone = hasManySums || hasLongInput || isLookedUp;
  if (isLookedUp &&
      fits(inputBytes + LinearTables::bytes(shape, LinearTables::kByteCopies)))
    tableCopies = LinearTables::kByteCopies;
  while (blocksOf(grid) > (isAlone ? kMostAlone : kMostBlocks))
    grid += multiprocessors;
  blockCount = blocksOf(grid);

  // A warp's columns fill whole pairs of right operands.
  int64_t pairColumns = kInputBlock / shape.inputBytes();
  depth = std::max(int64_t(1), pairColumns / shape.lineColumns());
  // A slot costs as many instructions as a line: waiting, scales, places.
  if (maxRows <= kDeepRows && shape.lines() % (2 * depth) == 0)
    depth *= 2;
  rounds = llvm::divideCeil(shape.lines(), kColumnWarps * depth);

  // One row's sums and products are few: its second thread block a
  // multiprocessor is the next kernel's.
  bool hasFewSums = maxRows > kDeepRows && blockCount <= kMostGrouped;
  int64_t most = blockCount / shape.unitBlocks();
  if (most > 1 && (isAlone || hasFewSums))
    teams = 2;
  teamBlocks = llvm::divideCeil(most, teams) * shape.unitBlocks();
}

int64_t GemvPlan::inputBytes(const LinearShape &shape) const {
  return maxRows * shape.paddedColumns() * shape.inputBytes();
}

int64_t GemvPlan::tableBytes(const LinearShape &shape) const {
  return LinearTables::bytes(shape, tableCopies);
}

void GemvPlan::layOut(const LinearShape &shape,
                      const LinearPairs *linearPairs) {
  codeBytes = kColumnWarps * depth * kLineBytes;
  int64_t slotColumns = kColumnWarps * warpColumns(shape);
  if (shape.grouped()) {
    int64_t groups = std::max<int64_t>(1, slotColumns / shape.groupColumns);
    slotScaleBytes = groups * kBlockRows * shape.scaleBytes();
    slotZeroBytes = shape.zeroPoints ? groups * kBlockRows : 0;
  }
  slotBytes =
      llvm::alignTo(codeBytes + slotScaleBytes + slotZeroBytes, int64_t(128));

  int64_t sumBytes = kColumnWarps * sumFeatures() * maxRows * 4;
  int64_t pairBytes =
      linearPairs
          ? linearPairs->sharedBytes(blockCount / 2 * kBlockRows, maxRows)
          : 0;
  int64_t outlierBytes = outlierThreads(shape) ? consumers() * 4 : 0;
  int64_t fixed = inputBytes(shape) + pairBytes + tableBytes(shape) +
                  outlierBytes + kOtherBytes;
  int64_t budget = kSharedBudget - fixed >= kSmallestRing && !isAlone
                       ? kSharedBudget
                       : kLargeBudget;
  slots = std::min(
      {(budget - fixed) / slotBytes, int64_t(kMostSlots), rounds * blockCount});
  // The sums take the ring's place after the last slot.
  int64_t ringBytes = llvm::alignTo(std::max(slots * slotBytes, sumBytes), 128);
  input = ringBytes;
  sums = 0;
  barriers = input + inputBytes(shape);
  // After the barriers: the sums of squares of x.
  tables = llvm::alignTo(barriers + 16 * slots + 4 * warps(), 16);
  pairs = tables + tableBytes(shape);
  outliers = llvm::alignTo(pairs + pairBytes, 4);
  sharedBytes = outliers + outlierBytes;
  // Smaller blocks would find room beside each other, unevenly.
  if (maxRows == 1)
    sharedBytes = std::max(sharedBytes, kHalfShared);
}

GemvPlan GemvPlan::get(const LinearShape &shape, int64_t rows,
                       int64_t multiprocessors, const LinearPairs *pairs) {
  GemvPlan plan;
  plan.maxRows = roundRows(rows);
  plan.choose(shape, multiprocessors);
  plan.layOut(shape, pairs);
  return plan;
}
