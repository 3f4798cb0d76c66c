//===- PackedLinearAmxPatch.cpp - 32 rows by two blocks on AMX ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A patch multiplies its rows by all columns of two blocks. With one group the
// products are summed in registers. With several, the sums of `passGroups`
// groups are stored side by side, as registers are: [row tiles, blocks, 16
// rows, 16 features]; vectors then scale them and add them to f32 totals of
// the same order.
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
/// Rows of each block whose sums are scaled in one round.
static constexpr int64_t kScaledRows = 8;

/// Multiplies \p rowTiles tiles of the row block, from \p rowTile on.
void LinearEmitter::emitAmxPatch(const AmxPanel &panel, int64_t rowTiles,
                                 Val rowTile) {
  AmxPatch patch{panel, rowTiles, {}, {}, {}, {}};
  patch.firstRow = panel.firstRow + rowTile * kTileRows;
  patch.lastRow = b.min(patch.firstRow + rowTiles * kTileRows, rows);
  int64_t tileBytes = kTileRows * shape.columns * shape.inputBytes;
  for (int64_t r = 0; r < rowTiles; ++r)
    patch.x[r] = rowSums.at((rowTile + r) * tileBytes + amx.arranged);
  int64_t pairBytes = kBlocks * shape.blockBytes();
  int64_t share = AmxPlan::getFetchedLines(shape, amx) * kTileBytes *
                  (shape.columns / amx.stepColumns);
  patch.next = weights.at(panel.blocks[0] * shape.blockBytes() + pairBytes)
                   .at(rowTile / AmxPlan::kRowTiles * share);
  if (shape.groups == 1)
    emitAmxOneGroup(patch);
  else
    emitAmxGroups(patch);
  emitAmxResult(patch);
}

/// Leaves the int32 or f32 sums of all columns in the place of totals.
void LinearEmitter::emitAmxOneGroup(const AmxPatch &patch) {
  const AmxPanel &panel = patch.panel;
  auto addSteps = [&](Val column, Val end, ArrayRef<Val> sums) {
    return b.forRange(
        column, end, amx.stepColumns, sums, [&](Val at, ArrayRef<Val> carried) {
          return emitAmxStep(patch, at, SmallVector<Val>(carried));
        });
  };
  SmallVector<Val> sums = emitAmxZeros(patch);
  Val none = b.index(0), all = b.index(shape.columns);
  if (panel.isFew && shape.layout == LayoutKind::Int4)
    sums = b.forRange(none, all, amx.chunkColumns, sums,
                      [&](Val column, ArrayRef<Val> carried) {
                        Val end = b.min(column + amx.chunkColumns, all);
                        emitAmxUnpacked(panel, column, end);
                        return addSteps(column, end, carried);
                      });
  else
    sums = addSteps(none, all, sums);
  emitAmxStore(patch, sums, rowSums.at(amx.totals));
}

/// Leaves the scaled sums of all groups in the place of totals.
void LinearEmitter::emitAmxGroups(const AmxPatch &patch) {
  // Zero bits are zero as int32 and as f32.
  emitAmxStore(patch, emitAmxZeros(patch), rowSums.at(amx.totals));
  if (patch.panel.isFew)
    emitAmxPassesOfFew(patch);
  else
    emitAmxPassesOfMany(patch);
}

/// Leaves the sums of a pass's groups at \p sums. Calls \p between after each
/// step with its number.
void LinearEmitter::emitAmxPass(const AmxPatch &patch, Val column, Ptr sums,
                                function_ref<void(int64_t)> between) {
  int64_t step = 0;
  for (int64_t g = 0; g < amx.passGroups; ++g) {
    SmallVector<Val> group = emitAmxZeros(patch);
    for (int64_t c = 0; c < shape.groupColumns; c += amx.stepColumns) {
      group = emitAmxStep(patch, column + (g * shape.groupColumns + c), group);
      between(step++);
    }
    emitAmxStore(patch, group, sums.at(g * kPatchSize));
  }
}

/// Each pass is scaled at once.
void LinearEmitter::emitAmxPassesOfFew(const AmxPatch &patch) {
  Val all = b.index(shape.columns);
  b.forRange(b.index(0), all, amx.chunkColumns, [&](Val first) {
    Val end = b.min(first + amx.chunkColumns, all);
    if (shape.layout == LayoutKind::Int4)
      emitAmxUnpacked(patch.panel, first, end);
    int64_t columns = amx.passGroups * shape.groupColumns;
    b.forRange(first, end, columns, [&](Val column) {
      Ptr sums = rowSums.at(amx.sums);
      emitAmxPass(patch, column, sums, [](int64_t) {});
      emitAmxScaled(patch,
                    loadAmxPass(patch, column / shape.groupColumns, sums));
    });
  });
}

/// A pass is scaled while the matrix unit works on the next one: the rows of
/// the one go between the steps of the other.
void LinearEmitter::emitAmxPassesOfMany(const AmxPatch &patch) {
  int64_t columns = amx.passGroups * shape.groupColumns;
  int64_t passBytes = amx.passGroups * kPatchSize;
  int64_t steps = columns / amx.stepColumns;
  int64_t allRows = patch.rowTiles * kTileRows;
  Ptr sums = rowSums.at(amx.sums);
  emitAmxPass(patch, b.index(0), sums, [](int64_t) {});
  auto emitPass = [&](Val column, ArrayRef<Val> before) {
    Val here = b.index(passBytes) - before[0];
    AmxPass last =
        loadAmxPass(patch, column / shape.groupColumns - amx.passGroups,
                    sums.at(before[0]));
    emitAmxPass(patch, column, sums.at(here), [&](int64_t step) {
      for (int64_t row = allRows * step / steps;
           row < allRows * (step + 1) / steps; ++row)
        emitAmxScaledRow(patch, last, row / kTileRows,
                         b.index(row % kTileRows));
    });
    return SmallVector<Val>{here};
  };
  Val last = b.forRange(b.index(columns), b.index(shape.columns), columns,
                        {b.index(0)}, emitPass)[0];
  emitAmxScaled(patch,
                loadAmxPass(patch, b.index(shape.groups - amx.passGroups),
                            sums.at(last)));
}

static Type getTileType(KernelBuilder &b) {
  return LLVM::LLVMX86AMXType::get(b.getContext());
}

SmallVector<Val> LinearEmitter::emitAmxZeros(const AmxPatch &patch) {
  Val height = b.constant(b.i16(), kTileRows);
  Val width = b.constant(b.i16(), kTileBytes);
  SmallVector<Val> zeros;
  for (int64_t i = 0; i < patch.rowTiles * kBlocks; ++i)
    zeros.push_back(b.intrinsic("llvm.x86.tilezero.internal", getTileType(b),
                                {height, width}));
  return zeros;
}

/// Adds the products of a step's columns, from \p column on, to \p sums.
SmallVector<Val> LinearEmitter::emitAmxStep(const AmxPatch &patch, Val column,
                                            SmallVector<Val> sums) {
  Type tile = getTileType(b);
  int64_t stepBytes = amx.stepBytes(shape), lineCount = stepBytes / 4;
  Val height = b.constant(b.i16(), kTileRows);
  Val width = b.constant(b.i16(), kTileBytes);
  Val depth = b.constant(b.i16(), stepBytes);
  Val lines = b.constant(b.i16(), lineCount);
  Val offset = column * amx.columnBytes;
  auto load = [&](Ptr from, Val rowCount, Val bytes, int64_t stride) {
    return b.intrinsic("llvm.x86.tileloadd64.internal", tile,
                       {rowCount, bytes, b.val(from.get()), b.index(stride)});
  };
  StringRef multiply =
      shape.layout == LayoutKind::BFloat16 ? "llvm.x86.tdpbf16ps.internal"
      : shape.layout == LayoutKind::Int4   ? "llvm.x86.tdpbssd.internal"
                                           : "llvm.x86.tdpbsud.internal";
  SmallVector<Val> as, bs;
  for (int64_t r = 0; r < patch.rowTiles; ++r)
    as.push_back(load(patch.x[r].at(offset), height, depth, stepBytes));
  for (int64_t s = 0; s < kBlocks; ++s)
    bs.push_back(
        load(patch.panel.codes[s].at(offset), lines, width, kTileBytes));
  emitAmxFetch(patch, column);
  for (int64_t r = 0; r < patch.rowTiles; ++r)
    for (int64_t s = 0; s < kBlocks; ++s) {
      Val &sum = sums[r * kBlocks + s];
      sum = b.intrinsic(multiply, tile,
                        {height, width, depth, sum, as[r], bs[s]});
    }
  return sums;
}

/// Fetches weights for later: few rows soon need what follows in each block's
/// stream (int4 codes are fetched as they are unpacked), many rows meet the
/// next pair when they are all done with this one.
void LinearEmitter::emitAmxFetch(const AmxPatch &patch, Val column) {
  int64_t lineCount = amx.stepBytes(shape) / 4;
  if (!patch.panel.isFew) {
    int64_t lines = AmxPlan::getFetchedLines(shape, amx);
    Val step = column / amx.stepColumns;
    for (int64_t i = 0; i < lines; ++i)
      patch.next.at(step * (lines * kTileBytes)).at(i * kTileBytes).prefetch();
    return;
  }
  if (shape.layout == LayoutKind::Int4)
    return;
  Val ahead = getAmxAhead(column * amx.columnBytes);
  for (int64_t s = 0; s < kBlocks; ++s) {
    Ptr block = weights.at(patch.panel.blocks[s] * shape.blockBytes());
    for (int64_t i = 0; i < lineCount; ++i)
      block.at(ahead).at(i * kTileBytes).prefetch();
  }
}

void LinearEmitter::emitAmxStore(const AmxPatch &patch, ArrayRef<Val> tiles,
                                 Ptr to) {
  Val height = b.constant(b.i16(), kTileRows);
  Val width = b.constant(b.i16(), kTileBytes);
  for (auto [i, tile] : llvm::enumerate(tiles))
    b.intrinsic("llvm.x86.tilestored64.internal",
                {height, width, b.val(to.at(i * kTileSize).get()),
                 b.index(kTileBytes), tile});
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

/// The scales and zero points of the groups of a pass, whose sums are at
/// \p sums.
LinearEmitter::AmxPass LinearEmitter::loadAmxPass(const AmxPatch &patch,
                                                  Val firstGroup, Ptr sums) {
  AmxPass pass{firstGroup, sums, {}, {}};
  for (int64_t g = 0; g < amx.passGroups; ++g)
    for (int64_t s = 0; s < kBlocks; ++s) {
      Val block = patch.panel.blocks[s];
      bool hasZero = shape.zeroPoints && shape.layout == LayoutKind::Int8;
      pass.scales.push_back(loadScale(block, firstGroup + g, 0));
      pass.zeros.push_back(hasZero ? loadZeroPoint(block, firstGroup + g, 0)
                                   : Val());
    }
  return pass;
}

/// Adds the sums of a pass's groups, scaled, to the totals of a row of a tile
/// of rows, in the order of groups.
void LinearEmitter::emitAmxScaledRow(const AmxPatch &patch, const AmxPass &pass,
                                     int64_t rowTile, Val row) {
  VectorType ints = b.vec(lanes, b.i32()), floats = b.vec(lanes, b.f32());
  for (int64_t s = 0; s < kBlocks; ++s) {
    Val place = row * kTileBytes + (rowTile * kBlocks + s) * kTileSize;
    Ptr at = rowSums.at(amx.totals).at(place);
    Val total = at.load(floats, kTileBytes);
    for (int64_t g = 0; g < amx.passGroups; ++g) {
      Val sum = pass.sums.at(place + g * kPatchSize).load(ints, kTileBytes);
      sum = getAmxSum(sum, patch.firstRow + rowTile * kTileRows + row,
                      pass.firstGroup + g, pass.zeros[g * kBlocks + s]);
      total = b.fma(pass.scales[g * kBlocks + s], sum, total);
    }
    at.store(total, kTileBytes);
  }
}

/// The same of all rows that there are.
void LinearEmitter::emitAmxScaled(const AmxPatch &patch, const AmxPass &pass) {
  for (int64_t r = 0; r < patch.rowTiles; ++r) {
    Val count = b.min(patch.lastRow - patch.firstRow - r * kTileRows,
                      b.index(kTileRows));
    b.forRange(b.index(0), count, kScaledRows, [&](Val first) {
      for (int64_t i = 0; i < kScaledRows; ++i)
        emitAmxScaledRow(patch, pass, r, first + i);
    });
  }
}

/// Stores the rows that there are:
/// result = inputScales * total + outliers + bias + residual.
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
  b.forRange(patch.firstRow, patch.lastRow, 1, [&](Val row) {
    Val local = row - patch.firstRow;
    Val tile = local / kTileRows;
    Ptr totals =
        rowSums.at(amx.totals)
            .at(local * kTileBytes + tile * ((kBlocks - 1) * kTileSize));
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
      if (outliers) {
        Val block = patch.panel.blocks[s];
        Ptr words = weights.at(block * shape.blockBytes());
        y = b.fma(scale[s], sumOutliers(words, block, row, 1)[0], y);
      }
      if (bias)
        y = y + biases[s];
      Val offset = (row * shape.features + feature[s]) * 4;
      storeResult(y, offset, mask[s]);
    }
  });
}
