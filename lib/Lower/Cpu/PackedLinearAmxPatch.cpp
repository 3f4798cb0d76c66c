//===- PackedLinearAmxPatch.cpp - 32 rows by two blocks on AMX ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A patch multiplies its rows by one chunk of columns. Between chunks its
// totals wait in scratch memory, registers as they are: [row tiles, blocks, 16
// rows, 16 features]. With one group they are the sums of products so far;
// with several, f32 totals of scaled groups, and the sums of a group are
// stored, then scaled by vectors.
//
//===----------------------------------------------------------------------===//

#include "PackedLinear.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

static constexpr int64_t kBlocks = AmxPlan::kBlocks;
static constexpr int64_t kTileRows = AmxPlan::kTileRows;
static constexpr int64_t kTileBytes = AmxPlan::kTileBytes;
static constexpr int64_t kTileSize = kTileRows * kTileBytes;
static constexpr int64_t kPatchSize = AmxPlan::kRowTiles * kBlocks * kTileSize;
/// Steps that are written out one after the other.
static constexpr int64_t kUnrolledSteps = 4;
/// Rows of each block whose sums are scaled in one round.
static constexpr int64_t kScaledRows = 8;

/// Multiplies \p rowTiles tiles of rows, from \p rowTile on, by the panel.
void LinearEmitter::emitAmxPatch(const AmxPanel &panel, int64_t rowTiles,
                                 Val rowTile) {
  AmxPatch patch{panel, rowTiles, rowTile * kTileRows, {}, {}};
  Val whole = rows / kTileRows;
  for (int64_t r = 0; r < rowTiles; ++r) {
    Val tile = rowTile + r;
    int64_t tileBytes = kTileRows * shape.columns * shape.inputBytes;
    Val inside = b.val(input.at(tile * tileBytes).get());
    Val tail = b.val(rowSums.at(amx.tail).get());
    patch.x[r] = Ptr(b.select(tile < whole, inside, tail).get(), &b);
  }
  Val local = panel.pair * (amx.rowBlock / kTileRows) + rowTile - panel.rowTile;
  patch.totals = rowSums.at(local * (kBlocks * kTileSize) + amx.totals);

  b.ifThen(panel.column == 0, [&] { emitAmxZeros(patch); });
  if (shape.groups == 1) {
    emitAmxSums(patch, panel.column, panel.end, patch.totals, /*adds=*/true);
  } else {
    int64_t columns = shape.groupColumns;
    b.forRange(panel.column, panel.end, amx.passGroups * columns,
               [&](Val column) {
                 Ptr sums = rowSums.at(amx.sums);
                 for (int64_t g = 0; g < amx.passGroups; ++g) {
                   Val first = column + g * columns;
                   emitAmxSums(patch, first, first + columns,
                               sums.at(g * kPatchSize), /*adds=*/false);
                 }
                 emitAmxScaled(patch, column / columns, sums);
               });
  }
  b.ifThen(panel.end == shape.columns, [&] { emitAmxResult(patch); });
}

/// Zero bits are zero as int32 and as f32.
void LinearEmitter::emitAmxZeros(const AmxPatch &patch) {
  Val zero = b.zero(b.vec(lanes, b.f32()));
  Val end = b.index(patch.rowTiles * kBlocks * kTileSize);
  b.forRange(b.index(0), end, kTileSize, [&](Val i) {
    for (int64_t row = 0; row < kTileRows; ++row)
      patch.totals.at(i + row * kTileBytes).store(zero, kTileBytes);
  });
}

/// Leaves the sums over columns [\p column, \p end) at \p sums, added to what
/// is there if \p adds.
void LinearEmitter::emitAmxSums(const AmxPatch &patch, Val column, Val end,
                                Ptr sums, bool adds) {
  Type tile = LLVM::LLVMX86AMXType::get(b.getContext());
  int64_t stepBytes = amx.stepColumns * shape.inputBytes;
  Val height = b.constant(b.i16(), kTileRows);
  Val width = b.constant(b.i16(), kTileBytes);
  Val depth = b.constant(b.i16(), stepBytes);
  Val lines = b.constant(b.i16(), stepBytes / 4);
  auto load = [&](Ptr from, Val rowCount, Val bytes, int64_t stride) {
    return b.intrinsic("llvm.x86.tileloadd64.internal", tile,
                       {rowCount, bytes, b.val(from.get()), b.index(stride)});
  };
  StringRef multiply =
      shape.layout == LayoutKind::BFloat16 ? "llvm.x86.tdpbf16ps.internal"
      : shape.layout == LayoutKind::Int4   ? "llvm.x86.tdpbssd.internal"
                                           : "llvm.x86.tdpbsud.internal";
  bool fetches = patch.panel.streams && shape.layout != LayoutKind::Int4;
  auto addStep = [&](Val at, SmallVector<Val> carried) {
    SmallVector<Val> as, bs;
    for (int64_t r = 0; r < patch.rowTiles; ++r)
      as.push_back(load(patch.x[r].at(at * shape.inputBytes), height, depth,
                        shape.columns * shape.inputBytes));
    Val ahead = fetches ? getAmxAhead(at * amx.columnBytes) : Val();
    for (int64_t s = 0; s < kBlocks; ++s) {
      Ptr block = weights.at(patch.panel.blocks[s] * shape.blockBytes());
      for (int64_t i = 0; fetches && i < stepBytes / 4; ++i)
        block.at(ahead).at(i * kTileBytes).prefetch();
      Ptr from =
          patch.panel.codes[s].at((at - patch.panel.column) * amx.columnBytes);
      bs.push_back(load(from, lines, width, kTileBytes));
    }
    for (int64_t r = 0; r < patch.rowTiles; ++r)
      for (int64_t s = 0; s < kBlocks; ++s) {
        Val &sum = carried[r * kBlocks + s];
        sum = b.intrinsic(multiply, tile,
                          {height, width, depth, sum, as[r], bs[s]});
      }
    return carried;
  };
  SmallVector<Val> acc;
  for (int64_t i = 0; i < patch.rowTiles * kBlocks; ++i)
    acc.push_back(adds ? load(sums.at(i * kTileSize), height, width, kTileBytes)
                       : b.intrinsic("llvm.x86.tilezero.internal", tile,
                                     {height, width}));
  int64_t steps = shape.groupColumns / amx.stepColumns;
  if (!adds && steps <= kUnrolledSteps)
    for (int64_t i = 0; i < steps; ++i)
      acc = addStep(column + i * amx.stepColumns, acc);
  else
    acc = b.forRange(column, end, amx.stepColumns, acc,
                     [&](Val at, ArrayRef<Val> carried) {
                       return addStep(at, SmallVector<Val>(carried));
                     });
  for (int64_t i = 0; i < patch.rowTiles * kBlocks; ++i)
    b.intrinsic("llvm.x86.tilestored64.internal",
                {height, width, b.val(sums.at(i * kTileSize).get()),
                 b.index(kTileBytes), acc[i]});
}

/// The f32 value of a row's sum in a group: int8 codes of the layout i8x16x4
/// were multiplied with their offset.
Val LinearEmitter::getAmxSum(Val sum, Val row, Val group, Val zeroPoint) {
  if (shape.layout == LayoutKind::Int8) {
    Ptr place = rowSums.at((row * shape.groups + group) * 4);
    Val rowSum = b.broadcast(place.load(b.i32()), lanes);
    sum = shape.zeroPoints ? sum - zeroPoint * rowSum : sum + rowSum;
  }
  return b.toFloat(sum, b.f32());
}

/// Adds the sums of a pass's groups, scaled, to the totals in their order.
void LinearEmitter::emitAmxScaled(const AmxPatch &patch, Val firstGroup,
                                  Ptr sums) {
  VectorType ints = b.vec(lanes, b.i32()), floats = b.vec(lanes, b.f32());
  /// Of a group and block.
  SmallVector<Val> scales, zeros;
  for (int64_t g = 0; g < amx.passGroups; ++g)
    for (int64_t s = 0; s < kBlocks; ++s) {
      Val block = patch.panel.blocks[s];
      bool hasZero = shape.zeroPoints && shape.layout == LayoutKind::Int8;
      scales.push_back(loadScale(block, firstGroup + g, 0));
      zeros.push_back(hasZero ? loadZeroPoint(block, firstGroup + g, 0)
                              : Val());
    }
  auto addRow = [&](Val row, int64_t r, int64_t s) {
    Val place = row * kTileBytes + (r * kBlocks + s) * kTileSize;
    Ptr at = patch.totals.at(place);
    Val total = at.load(floats, kTileBytes);
    for (int64_t g = 0; g < amx.passGroups; ++g) {
      Val sum = sums.at(place + g * kPatchSize).load(ints, kTileBytes);
      sum = getAmxSum(sum, patch.firstRow + r * kTileRows + row, firstGroup + g,
                      zeros[g * kBlocks + s]);
      total = b.fma(scales[g * kBlocks + s], sum, total);
    }
    at.store(total, kTileBytes);
  };
  for (int64_t r = 0; r < patch.rowTiles; ++r)
    b.forRange(b.index(0), b.index(kTileRows), kScaledRows, [&](Val first) {
      for (int64_t i = 0; i < kScaledRows; ++i)
        for (int64_t s = 0; s < kBlocks; ++s)
          addRow(first + i, r, s);
    });
}

/// Stores the rows that there are:
/// result = inputScales * total + bias + residual.
void LinearEmitter::emitAmxResult(const AmxPatch &patch) {
  VectorType ints = b.vec(lanes, b.i32()), floats = b.vec(lanes, b.f32());
  bool scales = shape.quantized && shape.groups == 1;
  bool masked = shape.features % (kBlocks * lanes) != 0;
  Val feature[kBlocks], mask[kBlocks], scale[kBlocks], zero[kBlocks],
      biases[kBlocks];
  for (int64_t s = 0; s < kBlocks; ++s) {
    Val block = patch.panel.blocks[s];
    feature[s] = (patch.panel.blocks[0] + s) * lanes;
    if (masked)
      mask[s] = b.firstLanes(lanes, shape.features - feature[s]);
    if (scales)
      scale[s] = loadScale(block, b.index(0), 0);
    if (scales && shape.zeroPoints && shape.layout == LayoutKind::Int8)
      zero[s] = loadZeroPoint(block, b.index(0), 0);
    if (bias)
      biases[s] = bias.at(block * (lanes * 4)).load(floats, lanes * 4);
  }
  Val last = b.min(patch.firstRow + patch.rowTiles * kTileRows, rows);
  b.forRange(patch.firstRow, last, 1, [&](Val row) {
    Val local = row - patch.firstRow;
    Val tile = local / kTileRows;
    Ptr totals = patch.totals.at(local * kTileBytes +
                                 tile * ((kBlocks - 1) * kTileSize));
    Val rowScale;
    if (inputScales)
      rowScale = b.broadcast(inputScales.at(row * 4).load(b.f32()), lanes);
    for (int64_t s = 0; s < kBlocks; ++s) {
      Ptr place = totals.at(s * kTileSize);
      Val y;
      if (scales)
        y = b.fma(
            scale[s],
            getAmxSum(place.load(ints, kTileBytes), row, b.index(0), zero[s]),
            b.zero(floats));
      else
        y = place.load(floats, kTileBytes);
      if (rowScale)
        y = y * rowScale;
      if (bias)
        y = y + biases[s];
      Val offset = (row * shape.features + feature[s]) * 4;
      storeResult(y, offset, mask[s]);
    }
  });
}
