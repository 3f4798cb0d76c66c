//===- PackedLinearAmx.cpp - Packed linears of many rows on AMX -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// AMX's registers are matrices of 16 rows of 64 bytes. One instruction
// multiplies 16 rows and 64 bytes of activations (64 int8 or 32 bf16 columns)
// by as many columns of one block of weights, which 16 lines of the layouts
// i8x16x4 and bf16x16x2 are as they stand:
//
//                             weights: 16 features x 4 bytes a line
//                                  b0            b1
//                             +------------+------------+
//   x: 16 rows   a0  +------+ | sums 0, 0  | sums 0, 1  |
//      64 bytes  a1  +------+ | sums 1, 0  | sums 1, 1  |
//
// So 32 rows by two blocks, a patch, take all eight registers, and each operand
// is used twice. Its step of 64 bytes takes 64 cycles and reads four operands,
// 64 lines: 32 cycles from the first-level cache, some 72 from the second. So
// the second level is fast enough, if all operands lie there one line after
// the other. Hence the order of work:
//
//   arrange rows in tiles               as registers read them
//   for each `rowBlock` rows            three quarters of the second level
//     for each tile, each pair of blocks
//       unpack int4 codes               once for all rows
//       for each 32 rows: a patch       all columns; PackedLinearAmxPatch.cpp
//
// A thread arranges rows in its first call of a launch and keeps them for the
// others, unless they are too many: then each call arranges each row block.
//
// Meanwhile each patch fetches its share of the next pair from memory. Rows of
// one patch alone meet each pair once: they unpack `chunkColumns` at a time,
// which stay in the first level, and fetch weights a fixed distance ahead.
//
// Columns that end within a step have a last step of their last 64 columns:
// rows are zero there where the step before has been.
//
// int8: the int32 sums of a group are exact, as VNNI's are, and what follows
// them is the same in the same order, so results have the same bits and fewer
// than `minRows` rows may go the vectors' way. bf16: all rows come here, since
// no vector instruction adds in AMX's order.
//
//===----------------------------------------------------------------------===//

#include "PackedLinear.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

static constexpr int64_t kBlocks = AmxPlan::kBlocks;
static constexpr int64_t kTileRows = AmxPlan::kTileRows;
static constexpr int64_t kTileBytes = AmxPlan::kTileBytes;
static constexpr int64_t kPatchRows = AmxPlan::kRowTiles * kTileRows;
/// Of a step's lanes.
static constexpr unsigned kAllLanes = 0xF;

//===----------------------------------------------------------------------===//
// Plan
//===----------------------------------------------------------------------===//

/// What the rows of a block may take of a core's second-level cache (2 MiB
/// where there is AMX), and what they may take with the pair of blocks that is
/// multiplied and the one that is fetched; results pass through the rest.
static constexpr int64_t kRowBlockBytes = 1536 << 10;
static constexpr int64_t kOperandBytes = 1792 << 10;
/// Fewest rows of int8 activations that are multiplied here. Eight rows of
/// vectors use a weight once it is loaded; each further patch of vectors costs
/// more than registers that are half empty, with int4 a little later.
static constexpr int64_t kLeastRows = 9, kLeastRowsOfInt4 = 12;
/// What all rows may take, arranged, to be kept between a thread's calls.
static constexpr int64_t kKeptBytes = 8 << 20;
/// What unpacked codes of few rows may take of the first level (48 KiB).
static constexpr int64_t kChunkBytes = 24 << 10;
/// Most patches among which the fetching of the next pair is divided; with more
/// it runs ahead of the next pair.
static constexpr int64_t kFetchingPatches = 16;
/// Groups and columns of a pass at most: its sums wait in the first level, and
/// the processor overlooks a few hundred instructions.
static constexpr int64_t kMostPassGroups = 4;
static constexpr int64_t kPassColumns = 128;

bool AmxPlan::isFor(const LinearShape &shape, const Target &target) {
  if (shape.byteActivations)
    return target.amxInt8 &&
           (hasTail(shape) || shape.groupColumns % (kTileBytes / 2) == 0);
  return target.amxBf16 && shape.shortActivations &&
         shape.columns % (kTileBytes / 4) == 0;
}

/// \p count in equal parts, each a multiple of \p unit and at most \p most
/// where that is possible.
static int64_t getPart(int64_t count, int64_t unit, int64_t most) {
  int64_t largest = std::max(unit, most / unit * unit);
  int64_t parts = llvm::divideCeil(count, largest);
  return llvm::alignTo(llvm::divideCeil(count, parts), unit);
}

int64_t AmxPlan::getFetchedLines(const LinearShape &shape,
                                 const AmxPlan &plan) {
  int64_t steps = shape.columns / plan.stepColumns;
  int64_t pairLines = kBlocks * shape.blockBytes() / kTileBytes;
  int64_t patches = std::min(plan.rowBlock / kPatchRows, kFetchingPatches);
  return llvm::divideCeil(pairLines, patches * steps);
}

AmxPlan AmxPlan::get(const LinearShape &shape, const LinearTuning &tuning,
                     int64_t maxRows) {
  AmxPlan plan;
  // Only int8 products are exact, and the same in vectors.
  plan.minRows = !shape.byteActivations             ? 1
                 : tuning.amxRows                   ? tuning.amxRows
                 : shape.layout == LayoutKind::Int4 ? kLeastRowsOfInt4
                                                    : kLeastRows;
  plan.blocks = std::min(kBlocks, shape.blocks);
  plan.onePatch = tuning.onePatch && shape.layout != LayoutKind::Int4;
  plan.stepColumns = kTileBytes / shape.inputBytes;
  if (!hasTail(shape) && shape.groupColumns % plan.stepColumns != 0)
    plan.stepColumns /= 2;
  plan.columnBytes = kTileRows * shape.inputBytes;
  // Totals are read and written once a pass.
  while (shape.groups % (2 * plan.passGroups) == 0 &&
         2 * plan.passGroups <= kMostPassGroups &&
         2 * plan.passGroups * shape.groupColumns <= kPassColumns)
    plan.passGroups *= 2;
  int64_t unit = shape.groups > 1 ? plan.passGroups * shape.groupColumns
                                  : plan.stepColumns;
  int64_t mostColumns = tuning.chunkColumns
                            ? tuning.chunkColumns
                            : kChunkBytes / (kBlocks * plan.columnBytes);
  plan.chunkColumns = getPart(shape.columns, unit, mostColumns);
  int64_t rowBytes = plan.arrangedColumns(shape) * shape.inputBytes;
  int64_t pairBytes = kBlocks * shape.columns * plan.columnBytes;
  int64_t blockBytes =
      std::clamp<int64_t>(kOperandBytes - 2 * pairBytes, 0, kRowBlockBytes);
  plan.rowBlock = getPart(llvm::alignTo(maxRows, kPatchRows), kPatchRows,
                          blockBytes / rowBytes);

  int64_t patchBytes = kPatchRows * kBlocks * kTileBytes;
  int64_t next = 0;
  auto take = [&](int64_t bytes) {
    return std::exchange(next, next + llvm::alignTo(bytes, kTileBytes));
  };
  if (shape.byteActivations)
    take(llvm::alignTo(maxRows, kTileRows) * shape.groups * 4);
  int64_t allBytes = llvm::alignTo(maxRows, kPatchRows) * rowBytes;
  plan.keepsRows = allBytes <= kKeptBytes;
  plan.arranged = take(plan.keepsRows ? allBytes : plan.rowBlock * rowBytes);
  plan.totals = take(2 * patchBytes);
  plan.sums = take(shape.groups > 1 ? 2 * plan.passGroups * patchBytes : 0);
  plan.codes = take(shape.layout == LayoutKind::Int4
                        ? kBlocks * shape.columns * plan.columnBytes
                        : 0);
  plan.end = next;
  return plan;
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

void LinearEmitter::emitAmxRowBlocks() {
  if (amx.keepsRows)
    emitOnce([&] { emitAmxArranged(b.index(0), rows); });
  b.forRange(b.index(0), rows, amx.rowBlock, [&](Val firstRow) {
    Val lastRow = b.min(firstRow + amx.rowBlock, rows);
    if (!amx.keepsRows)
      emitAmxArranged(firstRow, lastRow);
    AmxPanel panel;
    panel.firstRow = firstRow;
    panel.rowTiles = (lastRow - firstRow + (kTileRows - 1)) / kTileRows;
    if (flowsAmx())
      return emitAmxFlow(panel);
    b.forRange(frame.lo(), frame.hi(), 1,
               [&](Val tile) { emitAmxTile(tile, panel); });
  });
  // Other threads read what was stored past the caches.
  if (streamsResults())
    LLVM::FenceOp::create(b, b.getLoc(), LLVM::AtomicOrdering::seq_cst);
}

/// Copies rows to where registers read them: 16 rows of a step after another,
/// [row tiles, steps, 16, step bytes]. Registers have rows past the last one
/// too; what those hold doesn't matter, since no sum crosses rows.
void LinearEmitter::emitAmxArranged(Val firstRow, Val lastRow) {
  Val base = amx.keepsRows ? b.index(0) : firstRow;
  b.forRange(firstRow, lastRow, 1, [&](Val row) {
    Val local = row - base;
    emitAmxArrangedRow(row, getAmxArranged(local / kTileRows)
                                .at(local % kTileRows * amx.stepBytes(shape)));
  });
}

Ptr LinearEmitter::getAmxArranged(Val rowTile) {
  int64_t tileBytes = kTileRows * amx.arrangedColumns(shape) * shape.inputBytes;
  return rowSums.at(rowTile * tileBytes + amx.arranged);
}

/// What gives a step's bytes of a row, from a byte of the row on.
LinearHooks::CodesFn LinearEmitter::getAmxBytes(Val row) {
  int64_t stepBytes = amx.stepBytes(shape);
  if (!hooks || !hooks->beginRow) {
    Ptr from = input.at(row * (shape.columns * shape.inputBytes));
    return [from, part = b.vec(stepBytes, b.i8())](Val byte, unsigned) {
      return from.at(byte).load(part, 1);
    };
  }
  LinearHooks::CodesFn codes = hooks->beginRow(frame, row, inputScales);
  if (stepBytes == kTileBytes)
    return codes;
  return [this, codes, stepBytes](Val byte, unsigned wanted) {
    unsigned few = (1u << (stepBytes / lanes)) - 1;
    return b.slice(codes(byte, wanted & few), 0, stepBytes);
  };
}

/// Copies a row, and sums up its int8 activations of each group where the
/// weights' codes have an offset.
void LinearEmitter::emitAmxArrangedRow(Val row, Ptr to) {
  int64_t rowBytes = shape.columns * shape.inputBytes;
  int64_t wholeBytes = amx.wholeColumns(shape) * shape.inputBytes;
  int64_t stepBytes = amx.stepBytes(shape), tail = amx.tailColumn(shape);
  bool sums = shape.layout == LayoutKind::Int8;
  Val none = b.zero(b.vec(lanes, b.i32()));
  LinearHooks::CodesFn getBytes = getAmxBytes(row);
  auto add = [&](Val sum, Val bytes) {
    return sums ? addBytes(sum, bytes) : sum;
  };
  auto copySteps = [&](Val first, Val end) {
    return b.forRange(first, end, stepBytes, {none},
                      [&](Val byte, ArrayRef<Val> before) -> SmallVector<Val> {
                        Val bytes = getBytes(byte, kAllLanes);
                        to.at(byte * kTileRows).store(bytes, stepBytes);
                        return {add(before[0], bytes)};
                      })[0];
  };
  auto keep = [&](Val sum, Val group) {
    if (!sums)
      return;
    Val total = b.reduceSum(sum);
    if (!shape.zeroPoints)
      total = total * -shape.offset;
    rowSums.at((row * shape.groups + group) * 4).store(total);
  };
  if (shape.groups > 1) {
    int64_t groupBytes = shape.groupColumns * shape.inputBytes;
    return b.forRange(b.index(0), b.index(shape.groups), 1, [&](Val group) {
      Val first = group * groupBytes;
      keep(copySteps(first, first + groupBytes), group);
    });
  }
  Val sum = copySteps(b.index(0), b.index(wholeBytes));
  if (AmxPlan::hasTail(shape)) {
    SmallVector<int64_t> isNew;
    unsigned wanted = 0;
    for (int64_t i = 0; i < stepBytes; ++i) {
      bool isIn = tail + i >= wholeBytes && tail + i < rowBytes;
      isNew.push_back(isIn ? -1 : 0);
      wanted |= (isIn ? 1u : 0u) << (i / lanes);
    }
    Val bytes = getBytes(b.index(tail), wanted) & b.table(b.i8(), isNew);
    to.at(wholeBytes * kTileRows).store(bytes, stepBytes);
    sum = add(sum, bytes);
  }
  keep(sum, b.index(0));
}

void LinearEmitter::emitAmxTile(Val tile, const AmxPanel &rowBlock) {
  Val first = tile * tiling.tileBlocks;
  Val end = b.min(first + tiling.tileBlocks, b.index(shape.resultBlocks()));
  b.forRange(first, end, kBlocks / shape.blocksPerResult(),
             [&](Val block) { emitAmxPair(getAmxPanel(rowBlock, block)); });
}

/// The pair that begins with \p block, for the rows of \p panel.
LinearEmitter::AmxPanel LinearEmitter::getAmxPanel(AmxPanel panel, Val block) {
  panel.blocks[0] = block;
  panel.blocks[1] = block + shape.blockDistance(1);
  // A second block that is missing is the first one again, not stored.
  if (shape.blocks % kBlocks)
    panel.blocks[1] = b.min(panel.blocks[1], b.index(shape.blocks - 1));
  for (int64_t s = 0; s < amx.blocks; ++s)
    panel.codes[s] =
        shape.layout == LayoutKind::Int4
            ? rowSums.at(amx.codes + s * shape.columns * amx.columnBytes)
            : weights.at(panel.blocks[s] * shape.blockBytes());
  return panel;
}

/// Multiplies two blocks by the rows of the row block.
void LinearEmitter::emitAmxPair(AmxPanel panel) {
  constexpr int64_t kRowTiles = AmxPlan::kRowTiles;
  auto emitFew = [&] {
    panel.isFew = true;
    AmxFeatures features = loadAmxFeatures(panel);
    auto emitOne = [&](int64_t rowTiles) {
      emitAmxPatch(getAmxPatch(panel, rowTiles, b.index(0)), features);
    };
    b.ifElse(
        panel.rowTiles == 1, [&] { emitOne(1); }, [&] { emitOne(kRowTiles); });
  };
  auto emitMany = [&] {
    panel.isFew = false;
    if (shape.layout == LayoutKind::Int4)
      emitAmxUnpacked(panel, b.index(0), b.index(shape.columns));
    emitAmxPatches(panel);
  };
  if (!amx.onePatch)
    return b.ifElse(panel.rowTiles <= kRowTiles, emitFew, emitMany);
  AmxFeatures features = loadAmxFeatures(panel);
  // A tile of rows that aren't there is multiplied too; there is memory for it.
  b.forRange(b.index(0), panel.rowTiles, kRowTiles, [&](Val rowTile) {
    emitAmxPatch(getAmxPatch(panel, kRowTiles, rowTile), features);
  });
}

/// What a block's stream needs after \p offset, as an offset from the block.
/// Past its end the stream goes on in the next pair's block.
Val LinearEmitter::getAmxAhead(Val offset) {
  Val later = offset + tiling.prefetchBytes;
  // A gated pair's next block of each kind is the neighbour.
  if (shape.gated)
    return later;
  Val jump = b.select(later >= shape.blockBytes(),
                      b.index((kBlocks - 1) * shape.blockBytes()), b.index(0));
  return later + jump;
}

/// Columns whose codes have one zero point and are unpacked in one loop.
int64_t LinearEmitter::getCodeColumns() const {
  return std::min(shape.groupColumns, amx.chunkColumns);
}

/// Unpacks the codes of both blocks in columns [\p column, \p end).
void LinearEmitter::emitAmxUnpacked(const AmxPanel &panel, Val column,
                                    Val end) {
  for (int64_t s = 0; s < amx.blocks; ++s)
    b.forRange(column, end, getCodeColumns(), [&](Val first) {
      Val last = b.min(first + getCodeColumns(), end);
      emitAmxCodes(panel, s, first, last, panel.codes[s].at(first * kTileRows));
    });
}

/// Unpacks int4 codes of a block, less their zero points, to signed bytes.
void LinearEmitter::emitAmxCodes(const AmxPanel &panel, int64_t s, Val column,
                                 Val end, Ptr to) {
  constexpr int64_t kWordColumns = 8;
  VectorType line = b.vec(16, b.i32()), bytes = b.vec(kTileBytes, b.i8());
  Val zeros;
  if (shape.zeroPoints) {
    constexpr int64_t kEachByte = 0x01010101;
    Val group = shape.groups > 1 ? column / shape.groupColumns : b.index(0);
    zeros =
        b.bitcast(loadZeroPoint(panel.blocks[s], group, 0) * kEachByte, bytes);
  } else if (shape.offset) {
    zeros = b.constant(bytes, shape.offset);
  }
  Ptr block = weights.at(panel.blocks[s] * shape.blockBytes());
  b.forRange(column, end, kWordColumns, [&](Val at) {
    Val offset = at * (kTileBytes / kWordColumns);
    Val word = block.at(offset).load(line, kTileBytes);
    // Many rows have fetched them while they met the pair before.
    if (panel.isFew)
      block.at(getAmxAhead(offset)).prefetch();
    SmallVector<Val> halves = unpackBytes(word);
    for (int64_t half = 0; half < 2; ++half)
      to.at((at - column) * kTileRows + half * kTileBytes)
          .store(zeros ? halves[half] - zeros : halves[half], kTileBytes);
  });
}
