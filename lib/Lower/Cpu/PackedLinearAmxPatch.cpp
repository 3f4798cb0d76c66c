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

#include "RowFormulas.h"

#include "llvm/Support/MathExtras.h"

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

/// Fetches a line into the second level of cache. The first one has few buffers
/// for lines on their way, and operands need them all: a line from memory would
/// hold one for a dozen of those.
static void fetchLine(KernelBuilder &b, Ptr line) {
  constexpr int32_t kReads = 0, kSecondLevel = 2, kData = 1;
  LLVM::Prefetch::create(b, b.getLoc(), line.get(), kReads, kSecondLevel,
                         kData);
}

/// \p rowTiles tiles of the row block, from \p rowTile on. Totals of
/// neighbours lie apart.
LinearEmitter::AmxPatch LinearEmitter::getAmxPatch(const AmxPanel &panel,
                                                   int64_t rowTiles,
                                                   Val rowTile) {
  AmxPatch patch{panel, rowTiles, {}, {}, {}, {}, {}};
  patch.firstRow = panel.firstRow + rowTile * kTileRows;
  patch.lastRow = b.min(patch.firstRow + rowTiles * kTileRows, rows);
  Val firstTile = amx.keepsRows ? panel.firstRow / kTileRows : b.index(0);
  for (int64_t r = 0; r < rowTiles; ++r)
    patch.x[r] = getAmxArranged(firstTile + rowTile + r);
  patch.next = getAmxNext(panel, rowTile);
  patch.totals =
      rowSums.at(amx.totals).at(rowTile / AmxPlan::kRowTiles % 2 * kPatchSize);
  return patch;
}

/// Multiplies a patch and stores its results.
void LinearEmitter::emitAmxPatch(const AmxPatch &patch,
                                 const AmxFeatures &features) {
  if (shape.groups > 1)
    return emitAmxGroups(patch, features);
  emitAmxOneGroup(patch);
  emitAmxResult(patch, features);
}

/// Multiplies all patches of a pair, of which there are several. With one group
/// a patch's results are stored while the matrix unit works on the next patch:
/// 64 lines at once, each a miss, would keep its operands waiting.
void LinearEmitter::emitAmxPatches(const AmxPanel &panel) {
  constexpr int64_t kRowTiles = AmxPlan::kRowTiles;
  Val paired = panel.rowTiles / kRowTiles * kRowTiles;
  Val last = panel.rowTiles - 1;
  AmxFeatures features = loadAmxFeatures(panel);
  // Lists of outliers are loops of their own.
  if (shape.groups > 1 || outliers) {
    b.forRange(b.index(0), paired, kRowTiles, [&](Val rowTile) {
      emitAmxPatch(getAmxPatch(panel, kRowTiles, rowTile), features);
    });
    b.ifThen(paired < panel.rowTiles,
             [&] { emitAmxPatch(getAmxPatch(panel, 1, last), features); });
    return;
  }
  auto emitNext = [&](int64_t rowTiles, Val rowTile) {
    emitAmxBeside(getAmxPatch(panel, rowTiles, rowTile),
                  getAmxPatch(panel, kRowTiles, rowTile - kRowTiles), features);
  };
  emitAmxOneGroup(getAmxPatch(panel, kRowTiles, b.index(0)));
  b.forRange(b.index(kRowTiles), paired, kRowTiles,
             [&](Val rowTile) { emitNext(kRowTiles, rowTile); });
  b.ifElse(
      paired < panel.rowTiles,
      [&] {
        emitNext(1, last);
        emitAmxResult(getAmxPatch(panel, 1, last), features);
      },
      [&] {
        emitAmxResult(getAmxPatch(panel, kRowTiles, paired - kRowTiles),
                      features);
      });
}

/// What a patch fetches of the next pair: the neighbours of this one.
Ptr LinearEmitter::getAmxNext(const AmxPanel &panel, Val rowTile) {
  int64_t blockBytes = shape.blockBytes();
  int64_t share = AmxPlan::getFetchedLines(shape, amx) * kTileBytes *
                  (shape.columns / amx.stepColumns);
  Val offset = rowTile / AmxPlan::kRowTiles * share;
  Ptr first = weights.at(panel.blocks[0] * blockBytes);
  if (!shape.gated)
    return first.at(offset + kBlocks * blockBytes);
  // The second half of the patches fetches the block of up.
  int64_t jump = (shape.blockDistance(1) - 1) * blockBytes;
  offset = offset + b.select(offset >= blockBytes, b.index(jump), b.index(0));
  return first.at(offset + blockBytes);
}

SmallVector<Val> LinearEmitter::emitAmxSteps(const AmxPatch &patch, Val column,
                                             Val end, ArrayRef<Val> sums) {
  return b.forRange(
      column, end, amx.stepColumns, sums, [&](Val at, ArrayRef<Val> carried) {
        return emitAmxStep(patch, at, at, SmallVector<Val>(carried));
      });
}

/// The steps from \p column on, and the tail.
SmallVector<Val> LinearEmitter::emitAmxRest(const AmxPatch &patch, Val column,
                                            ArrayRef<Val> sums) {
  Val whole = b.index(amx.wholeColumns(shape));
  SmallVector<Val> all = emitAmxSteps(patch, column, whole, sums);
  if (!AmxPlan::hasTail(shape))
    return all;
  return emitAmxStep(patch, whole, b.index(amx.tailColumn(shape)), all);
}

/// Leaves the int32 or f32 sums of all columns in the place of totals.
void LinearEmitter::emitAmxOneGroup(const AmxPatch &patch) {
  const AmxPanel &panel = patch.panel;
  SmallVector<Val> sums = emitAmxZeros(patch);
  Val none = b.index(0), all = b.index(shape.columns);
  if (panel.isFew && shape.layout == LayoutKind::Int4)
    sums = b.forRange(none, all, amx.chunkColumns, sums,
                      [&](Val column, ArrayRef<Val> carried) {
                        Val end = b.min(column + amx.chunkColumns, all);
                        emitAmxUnpacked(panel, column, end);
                        return emitAmxSteps(patch, column, end, carried);
                      });
  else
    sums = emitAmxRest(patch, none, sums);
  emitAmxStore(patch, sums, patch.totals);
}

/// The same, and the results of the patch before, all of whose rows there are,
/// some rows after each of the first steps.
void LinearEmitter::emitAmxBeside(const AmxPatch &patch, const AmxPatch &before,
                                  const AmxFeatures &features) {
  constexpr int64_t kPatchRows = AmxPlan::kRowTiles * kTileRows;
  int64_t steps = shape.columns / amx.stepColumns, rowsAtOnce = 1;
  while (steps * rowsAtOnce < kPatchRows)
    rowsAtOnce *= 2;
  Val busy = b.index(kPatchRows / rowsAtOnce * amx.stepColumns);
  SmallVector<Val> sums =
      b.forRange(b.index(0), busy, amx.stepColumns, emitAmxZeros(patch),
                 [&](Val at, ArrayRef<Val> carried) {
                   auto after =
                       emitAmxStep(patch, at, at, SmallVector<Val>(carried));
                   Val row = at / amx.stepColumns * rowsAtOnce;
                   for (int64_t i = 0; i < rowsAtOnce; ++i)
                     emitAmxResultRow(before, features, row + i,
                                      getAmxTotals(before, features, row + i));
                   return after;
                 });
  sums = emitAmxRest(patch, busy, sums);
  emitAmxStore(patch, sums, patch.totals);
}

/// Whether patches follow each other in one loop: little code, and all weights
/// stay in the second level. A few features are less code one by one.
bool LinearEmitter::flowsAmx() const {
  return amx.onePatch && shape.groups == 1 && !outliers && !shape.gated &&
         shape.blocks > kBlocks;
}

/// Multiplies all pairs of the call by the rows of the row block, as a flow of
/// patches each of which makes the results of the one before:
///
///   pair p    rows 0 .. 31 | rows 32 .. 63 | 64 .. 79     matrix unit
///   results   (p - 1) last | p: 0 .. 31    | 32 .. 63     vectors
///
/// What waits for its results is carried from patch to patch: its first block
/// and row tile, its rows, and which half of the totals it has.
void LinearEmitter::emitAmxFlow(const AmxPanel &rowBlock) {
  Val first = frame.lo() * tiling.tileBlocks, none = b.index(0);
  Val end = b.min(frame.hi() * tiling.tileBlocks, b.index(shape.blocks));
  Val paired = rowBlock.rowTiles / AmxPlan::kRowTiles * AmxPlan::kRowTiles;
  auto emitPair = [&](Val block, ArrayRef<Val> before) {
    AmxPanel panel = getAmxPanel(rowBlock, block);
    SmallVector<Val> waiting = b.forRange(
        none, paired, AmxPlan::kRowTiles, before,
        [&](Val rowTile, ArrayRef<Val> carried) {
          return emitAmxNextPatch(panel, AmxPlan::kRowTiles, rowTile, carried);
        });
    using Values = function_ref<SmallVector<Val>()>;
    auto emitOdd = [&] { return emitAmxNextPatch(panel, 1, paired, waiting); };
    auto keep = [&] { return waiting; };
    return b.ifElse(paired < rowBlock.rowTiles, Values(emitOdd), Values(keep));
  };
  SmallVector<Val> last =
      b.forRange(first, end, kBlocks, {first, none, none, none}, emitPair);
  AmxPanel panel = getAmxPanel(rowBlock, last[0]);
  emitAmxResult(getAmxWaiting(panel, last), loadAmxFeatures(panel));
}

LinearEmitter::AmxPatch LinearEmitter::getAmxWaiting(const AmxPanel &panel,
                                                     ArrayRef<Val> waiting) {
  AmxPatch patch = getAmxPatch(panel, AmxPlan::kRowTiles, waiting[1]);
  patch.lastRow = patch.firstRow + waiting[2];
  patch.totals = rowSums.at(amx.totals).at(waiting[3] * kPatchSize);
  return patch;
}

/// Multiplies a patch and stores the results of the one that waits; gives what
/// waits then.
SmallVector<Val> LinearEmitter::emitAmxNextPatch(const AmxPanel &panel,
                                                 int64_t rowTiles, Val rowTile,
                                                 ArrayRef<Val> waiting) {
  AmxPanel earlier = getAmxPanel(panel, waiting[0]);
  AmxPatch before = getAmxWaiting(earlier, waiting);
  AmxFeatures features = loadAmxFeatures(earlier);
  Val half = 1 - waiting[3];
  AmxPatch patch = getAmxPatch(panel, rowTiles, rowTile);
  patch.totals = rowSums.at(amx.totals).at(half * kPatchSize);
  Val whole = b.index(amx.wholeColumns(shape)), count = waiting[2];
  int64_t rowsAtOnce =
      llvm::divideCeil(AmxPlan::kRowTiles * kTileRows,
                       amx.wholeColumns(shape) / amx.stepColumns);
  SmallVector<Val> sums = b.forRange(
      b.index(0), whole, amx.stepColumns, emitAmxZeros(patch),
      [&](Val at, ArrayRef<Val> carried) {
        auto after = emitAmxStep(patch, at, at, SmallVector<Val>(carried));
        Val row = at / amx.stepColumns * rowsAtOnce;
        b.forRange(row, b.min(row + rowsAtOnce, count), 1, [&](Val local) {
          emitAmxResultRow(before, features, local,
                           getAmxTotals(before, features, local));
        });
        return after;
      });
  sums = emitAmxRest(patch, whole, sums);
  emitAmxStore(patch, sums, patch.totals);
  return {panel.blocks[0], rowTile, patch.lastRow - patch.firstRow, half};
}

/// Adds up the scaled sums of all groups, a pass after another, and stores the
/// results. Each pass is scaled at once: the processor goes on to the next one
/// meanwhile, whose sums lie elsewhere. Few rows unpack the next pass's codes
/// before they need this one's, so that these have reached the cache.
void LinearEmitter::emitAmxGroups(const AmxPatch &patch,
                                  const AmxFeatures &features) {
  bool unpacks = patch.panel.isFew && shape.layout == LayoutKind::Int4;
  int64_t passes = shape.groups / amx.passGroups;
  int64_t columns = amx.passGroups * shape.groupColumns;
  int64_t passBytes = amx.passGroups * kPatchSize;
  auto emitPass = [&](Val number, bool isFirst, bool isLast) {
    Val column = number * columns, next = column + columns;
    if (unpacks && !isLast)
      emitAmxUnpacked(patch.panel, next, next + columns);
    Ptr sums = rowSums.at(amx.sums).at(number % 2 * passBytes);
    emitAmxPass(patch, column, sums);
    AmxPass pass = loadAmxPass(patch, number * amx.passGroups, sums);
    pass.isFirst = isFirst;
    if (isLast)
      emitAmxLast(patch, pass, features);
    else
      emitAmxScaled(patch, pass);
  };
  if (unpacks)
    emitAmxUnpacked(patch.panel, b.index(0), b.index(columns));
  emitPass(b.index(0), /*isFirst=*/true, /*isLast=*/passes == 1);
  if (passes > 2)
    b.forRange(b.index(1), b.index(passes - 1), 1, [&](Val number) {
      emitPass(number, /*isFirst=*/false, /*isLast=*/false);
    });
  if (passes > 1)
    emitPass(b.index(passes - 1), /*isFirst=*/false, /*isLast=*/true);
}

/// Leaves the sums of a pass's groups at \p sums.
void LinearEmitter::emitAmxPass(const AmxPatch &patch, Val column, Ptr sums) {
  for (int64_t g = 0; g < amx.passGroups; ++g) {
    SmallVector<Val> group = emitAmxZeros(patch);
    for (int64_t c = 0; c < shape.groupColumns; c += amx.stepColumns) {
      Val at = column + (g * shape.groupColumns + c);
      group = emitAmxStep(patch, at, at, group);
    }
    emitAmxStore(patch, group, sums.at(g * kPatchSize));
  }
}

static Type getTileType(KernelBuilder &b) {
  return LLVM::LLVMX86AMXType::get(b.getContext());
}

SmallVector<Val> LinearEmitter::emitAmxZeros(const AmxPatch &patch) {
  Val height = b.constant(b.i16(), kTileRows);
  Val width = b.constant(b.i16(), kTileBytes);
  SmallVector<Val> zeros;
  for (int64_t i = 0; i < patch.rowTiles * amx.blocks; ++i)
    zeros.push_back(b.intrinsic("llvm.x86.tilezero.internal", getTileType(b),
                                {height, width}));
  return zeros;
}

/// Adds the products of a step's columns to \p sums: the rows' from \p column
/// on, as they are arranged, with the weights' from \p weightColumn on.
SmallVector<Val> LinearEmitter::emitAmxStep(const AmxPatch &patch, Val column,
                                            Val weightColumn,
                                            SmallVector<Val> sums) {
  Type tile = getTileType(b);
  int64_t stepBytes = amx.stepBytes(shape), lineCount = stepBytes / 4;
  Val height = b.constant(b.i16(), kTileRows);
  Val width = b.constant(b.i16(), kTileBytes);
  Val depth = b.constant(b.i16(), stepBytes);
  Val lines = b.constant(b.i16(), lineCount);
  Val offset = column * amx.columnBytes;
  Val weightOffset = weightColumn * amx.columnBytes;
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
  for (int64_t s = 0; s < amx.blocks; ++s)
    bs.push_back(
        load(patch.panel.codes[s].at(weightOffset), lines, width, kTileBytes));
  emitAmxFetch(patch, column);
  for (int64_t r = 0; r < patch.rowTiles; ++r)
    for (int64_t s = 0; s < amx.blocks; ++s) {
      Val &sum = sums[r * amx.blocks + s];
      sum = b.intrinsic(multiply, tile,
                        {height, width, depth, sum, as[r], bs[s]});
    }
  return sums;
}

/// Fetches weights for later: few rows soon need what follows in each block's
/// stream (int4 codes are fetched as they are unpacked), many rows meet the
/// next pair when they are all done with this one.
void LinearEmitter::emitAmxFetch(const AmxPatch &patch, Val column) {
  // Little code is for weights that stay in the second level.
  if (amx.onePatch)
    return;
  int64_t lineCount = amx.stepBytes(shape) / 4;
  if (!patch.panel.isFew) {
    int64_t lines = AmxPlan::getFetchedLines(shape, amx);
    Val step = column / amx.stepColumns;
    Ptr first = patch.next.at(step * (lines * kTileBytes));
    for (int64_t i = 0; i < lines; ++i)
      fetchLine(b, first.at(i * kTileBytes));
    return;
  }
  if (shape.layout == LayoutKind::Int4)
    return;
  Val ahead = getAmxAhead(column * amx.columnBytes);
  for (int64_t s = 0; s < amx.blocks; ++s) {
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
    for (int64_t s = 0; s < amx.blocks; ++s) {
      Val block = patch.panel.blocks[s];
      bool hasZero = shape.zeroPoints && shape.layout == LayoutKind::Int8;
      pass.scales.push_back(loadScale(block, firstGroup + g, 0));
      pass.zeros.push_back(hasZero ? loadZeroPoint(block, firstGroup + g, 0)
                                   : Val());
    }
  return pass;
}

/// Where block 0 of a row of a patch lies among totals and sums.
Val LinearEmitter::getAmxPlace(Val local) {
  Val tile = local / kTileRows;
  return local * kTileBytes + tile * ((amx.blocks - 1) * kTileSize);
}

/// The totals of a row of a patch so far and the sums of a pass's groups,
/// scaled, in the order of groups.
SmallVector<Val> LinearEmitter::getAmxScaled(const AmxPatch &patch,
                                             const AmxPass &pass, Val local) {
  VectorType ints = b.vec(lanes, b.i32()), floats = b.vec(lanes, b.f32());
  SmallVector<Val> totals;
  for (int64_t s = 0; s < amx.blocks; ++s) {
    Val place = getAmxPlace(local) + s * kTileSize;
    Val total = pass.isFirst ? b.zero(floats)
                             : patch.totals.at(place).load(floats, kTileBytes);
    for (int64_t g = 0; g < amx.passGroups; ++g) {
      Val sum = pass.sums.at(place + g * kPatchSize).load(ints, kTileBytes);
      sum = getAmxSum(sum, patch.firstRow + local, pass.firstGroup + g,
                      pass.zeros[g * amx.blocks + s]);
      total = b.fma(pass.scales[g * amx.blocks + s], sum, total);
    }
    totals.push_back(total);
  }
  return totals;
}

/// Leaves them in the place of totals, for all rows that there are, rounded up.
void LinearEmitter::emitAmxScaled(const AmxPatch &patch, const AmxPass &pass) {
  Val count = patch.lastRow - patch.firstRow;
  b.forRange(b.index(0), count, kScaledRows, [&](Val first) {
    for (int64_t i = 0; i < kScaledRows; ++i) {
      Val place = getAmxPlace(first + i);
      for (auto [s, total] :
           llvm::enumerate(getAmxScaled(patch, pass, first + i)))
        patch.totals.at(place + static_cast<int64_t>(s) * kTileSize)
            .store(total, kTileBytes);
    }
  });
}

/// Stores the results: the last groups are done.
void LinearEmitter::emitAmxLast(const AmxPatch &patch, const AmxPass &pass,
                                const AmxFeatures &features) {
  b.forRange(b.index(0), patch.lastRow - patch.firstRow, 1, [&](Val local) {
    emitAmxResultRow(patch, features, local, getAmxScaled(patch, pass, local));
  });
}

LinearEmitter::AmxFeatures
LinearEmitter::loadAmxFeatures(const AmxPanel &panel) {
  AmxFeatures f;
  for (int64_t s = 0; s < amx.blocks; ++s) {
    Val block = panel.blocks[s];
    f.feature[s] = (panel.blocks[0] + shape.blockDistance(s)) * lanes;
    if (shape.features % (amx.blocks * lanes) != 0)
      f.mask[s] = b.firstLanes(lanes, shape.features - f.feature[s]);
    if (shape.quantized && shape.groups == 1)
      f.scale[s] = loadScale(block, b.index(0), 0);
    if (f.scale[s] && shape.zeroPoints && shape.layout == LayoutKind::Int8)
      f.zero[s] = loadZeroPoint(block, b.index(0), 0);
    if (bias)
      f.bias[s] =
          bias.at(block * (lanes * 4)).load(b.vec(lanes, b.f32()), lanes * 4);
  }
  return f;
}

/// The totals of a row of a patch with one group.
SmallVector<Val> LinearEmitter::getAmxTotals(const AmxPatch &patch,
                                             const AmxFeatures &features,
                                             Val local) {
  VectorType ints = b.vec(lanes, b.i32()), floats = b.vec(lanes, b.f32());
  SmallVector<Val> totals;
  for (int64_t s = 0; s < amx.blocks; ++s) {
    Ptr place = patch.totals.at(getAmxPlace(local) + s * kTileSize);
    if (Val scale = features.scale[s]) {
      Val sum = getAmxSum(place.load(ints, kTileBytes), patch.firstRow + local,
                          b.index(0), features.zero[s]);
      totals.push_back(b.fma(scale, sum, b.zero(floats)));
    } else {
      totals.push_back(place.load(floats, kTileBytes));
    }
  }
  return totals;
}

/// Stores result = inputScales * total + outliers + bias + residual, or the
/// gate of two such, of a row of the patch.
void LinearEmitter::emitAmxResultRow(const AmxPatch &patch,
                                     const AmxFeatures &features, Val local,
                                     SmallVector<Val> totals) {
  Val row = patch.firstRow + local;
  Val rowScale;
  if (inputScales)
    rowScale = b.broadcast(inputScales.at(row * 4).load(b.f32()), lanes);
  for (int64_t s = 0; s < amx.blocks; ++s) {
    if (rowScale)
      totals[s] = totals[s] * rowScale;
    if (outliers) {
      Val block = patch.panel.blocks[s];
      Ptr words = weights.at(block * shape.blockBytes());
      totals[s] = b.fma(features.scale[s], sumOutliers(words, block, row, 1)[0],
                        totals[s]);
    }
    if (bias)
      totals[s] = totals[s] + features.bias[s];
  }
  bool streams = !patch.panel.isFew && streamsResults();
  if (shape.gated)
    return storeResult(emitGated(b, totals[0], totals[1], target), row,
                       features.feature[0], /*mask=*/{}, streams);
  for (int64_t s = 0; s < amx.blocks; ++s)
    storeResult(totals[s], row, features.feature[s], features.mask[s], streams);
}

/// The same of the rows that there are.
void LinearEmitter::emitAmxResult(const AmxPatch &patch,
                                  const AmxFeatures &features) {
  b.forRange(b.index(0), patch.lastRow - patch.firstRow, 1, [&](Val local) {
    emitAmxResultRow(patch, features, local,
                     getAmxTotals(patch, features, local));
  });
}
