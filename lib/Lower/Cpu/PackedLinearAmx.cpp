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
// is used twice. Its step of 64 bytes takes 64 cycles and reads four operands;
// the processor keeps up only where those of the weights come from the
// first-level cache and those of the activations from the second. Hence the
// order of work in a tile:
//
//   for each `rowBlock` rows               totals stay in the second level
//     for each `chunkColumns` columns      activations of a chunk stay there
//       for each pair of blocks            its chunk stays in the first level
//         unpack int4 codes                once for all rows
//         for each 32 rows: a patch        PackedLinearAmxPatch.cpp
//
// Few rows (one patch) go through all chunks of a pair before the next pair,
// so that weights stream from memory in their order.
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

//===----------------------------------------------------------------------===//
// Plan
//===----------------------------------------------------------------------===//

/// What a tile's work may take of a core's caches (of 48 KiB and 2 MiB where
/// there is AMX). The rest is left to what streams through.
static constexpr int64_t kFirstLevelBytes = 24 << 10;
static constexpr int64_t kSecondLevelBytes = 1 << 20;
/// Groups and columns of a pass at most: their sums share the first level.
static constexpr int64_t kMostPassGroups = 4;
static constexpr int64_t kPassColumns = 256;

bool AmxPlan::isFor(const LinearShape &shape, const Target &target) {
  if (shape.byteActivations)
    return target.amxInt8 && shape.groupColumns % (kTileBytes / 2) == 0;
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

AmxPlan AmxPlan::get(const LinearShape &shape, const LinearTuning &tuning,
                     int64_t tileBlocks, int64_t maxRows) {
  AmxPlan plan;
  // Only int8 products are exact, and the same in vectors.
  plan.minRows = !shape.byteActivations ? 1
                 : tuning.amxRows       ? tuning.amxRows
                                        : kTileRows;
  plan.stepColumns = kTileBytes / shape.inputBytes;
  if (shape.groupColumns % plan.stepColumns != 0)
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
                            : kFirstLevelBytes / (kBlocks * plan.columnBytes);
  plan.chunkColumns = getPart(shape.columns, unit, mostColumns);
  int64_t rowBytes =
      plan.chunkColumns * shape.inputBytes + tileBlocks * kTileBytes;
  int64_t allRows = llvm::alignTo(maxRows, kTileRows);
  plan.rowBlock =
      getPart(llvm::alignTo(maxRows, kPatchRows), kPatchRows,
              kSecondLevelBytes / rowBytes / kPatchRows * kPatchRows);

  int64_t pairs = llvm::divideCeil(tileBlocks, kBlocks);
  int64_t patchBytes = kPatchRows * kBlocks * kTileBytes;
  int64_t next = 0;
  auto take = [&](int64_t bytes) {
    return std::exchange(next, next + llvm::alignTo(bytes, kTileBytes));
  };
  if (shape.byteActivations)
    take(allRows * shape.groups * 4);
  plan.tail = take(kTileRows * shape.columns * shape.inputBytes);
  plan.totals = take(pairs * plan.rowBlock * kBlocks * kTileBytes);
  plan.sums = take(shape.groups > 1 ? plan.passGroups * patchBytes : 0);
  plan.codes = take(shape.layout == LayoutKind::Int4
                        ? kBlocks * plan.chunkColumns * plan.columnBytes
                        : 0);
  plan.end = next;
  return plan;
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

/// Copies the rows that fill no register to where 16 may be read.
void LinearEmitter::emitAmxTail() {
  int64_t rowBytes = shape.columns * shape.inputBytes;
  VectorType line = b.vec(kTileBytes, b.i8());
  Val whole = rows / kTileRows * kTileRows;
  b.forRange(whole, rows, 1, [&](Val row) {
    Ptr from = input.at(row * rowBytes);
    Ptr to = rowSums.at((row - whole) * rowBytes + amx.tail);
    int64_t rest = rowBytes % kTileBytes;
    b.forRange(b.index(0), b.index(rowBytes - rest), kTileBytes,
               [&](Val i) { to.at(i).store(from.at(i).load(line, 1), 1); });
    if (rest)
      to.at(rowBytes - rest)
          .storeMasked(from.at(rowBytes - rest).load(line, 1),
                       b.firstLanes(kTileBytes, rest), 1);
  });
}

void LinearEmitter::emitAmxTile(Val tile) {
  Val first = tile * tiling.tileBlocks;
  Val count = b.min(b.index(shape.blocks) - first, b.index(tiling.tileBlocks));
  Val pairs = (count + (kBlocks - 1)) / kBlocks;
  Val rowTiles = (rows + (kTileRows - 1)) / kTileRows;
  Val none = b.index(0), allColumns = b.index(shape.columns);
  int64_t blockTiles = amx.rowBlock / kTileRows;
  AmxPanel panel;
  auto setPair = [&](Val pair) {
    panel.pair = pair;
    panel.blocks[0] = first + pair * kBlocks;
    // A second block that is missing is the first one again, not stored.
    panel.blocks[1] = panel.blocks[0] + 1;
    if (shape.blocks % kBlocks)
      panel.blocks[1] = b.min(panel.blocks[1], b.index(shape.blocks - 1));
  };
  auto setChunk = [&](Val column) {
    panel.column = column;
    panel.end = b.min(column + amx.chunkColumns, allColumns);
  };
  auto emitStream = [&] {
    panel.rowTile = none;
    panel.endTile = rowTiles;
    panel.streams = true;
    b.forRange(none, pairs, 1, [&](Val pair) {
      setPair(pair);
      b.forRange(none, allColumns, amx.chunkColumns, [&](Val column) {
        setChunk(column);
        emitAmxPanel(panel);
      });
    });
  };
  auto emitBlocked = [&] {
    panel.streams = false;
    b.forRange(none, rowTiles, blockTiles, [&](Val rowTile) {
      panel.rowTile = rowTile;
      panel.endTile = b.min(rowTile + blockTiles, rowTiles);
      b.forRange(none, allColumns, amx.chunkColumns, [&](Val column) {
        setChunk(column);
        b.forRange(none, pairs, 1, [&](Val pair) {
          setPair(pair);
          emitAmxPanel(panel);
        });
      });
    });
  };
  b.ifElse(rowTiles <= AmxPlan::kRowTiles, emitStream, emitBlocked);
}

/// Multiplies a chunk of two blocks by the panel's rows.
void LinearEmitter::emitAmxPanel(AmxPanel panel) {
  for (int64_t s = 0; s < kBlocks; ++s) {
    if (shape.layout == LayoutKind::Int4) {
      panel.codes[s] = rowSums.at(amx.codes + s * amx.chunkColumns * kTileRows);
      b.forRange(panel.column, panel.end, getCodeColumns(),
                 [&](Val column) { emitAmxCodes(panel, s, column); });
    } else {
      panel.codes[s] = weights.at(panel.blocks[s] * shape.blockBytes() +
                                  panel.column * amx.columnBytes);
    }
  }
  constexpr int64_t kRowTiles = AmxPlan::kRowTiles;
  Val count = panel.endTile - panel.rowTile;
  Val paired = panel.rowTile + count / kRowTiles * kRowTiles;
  b.forRange(panel.rowTile, paired, kRowTiles,
             [&](Val rowTile) { emitAmxPatch(panel, kRowTiles, rowTile); });
  b.ifThen(paired < panel.endTile, [&] { emitAmxPatch(panel, 1, paired); });
}

/// What a block's stream needs after \p offset, as an offset from the block.
/// Past its end the stream goes on in the next pair's block.
Val LinearEmitter::getAmxAhead(Val offset) {
  Val later = offset + tiling.prefetchBytes;
  Val jump = b.select(later >= shape.blockBytes(),
                      b.index((kBlocks - 1) * shape.blockBytes()), b.index(0));
  return later + jump;
}

/// Columns whose codes have one zero point and are unpacked in one loop.
int64_t LinearEmitter::getCodeColumns() const {
  return std::min(shape.groupColumns, amx.chunkColumns);
}

/// Unpacks int4 codes of a block, less their zero points, to signed bytes.
void LinearEmitter::emitAmxCodes(const AmxPanel &panel, int64_t s, Val column) {
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
  Ptr to = panel.codes[s].at((column - panel.column) * kTileRows);
  Val end = b.min(column + getCodeColumns(), panel.end);
  b.forRange(column, end, kWordColumns, [&](Val at) {
    Val offset = at * (kTileBytes / kWordColumns);
    Val word = block.at(offset).load(line, kTileBytes);
    block.at(getAmxAhead(offset)).prefetch();
    SmallVector<Val> halves = unpackBytes(word);
    for (int64_t half = 0; half < 2; ++half)
      to.at((at - column) * kTileRows + half * kTileBytes)
          .store(zeros ? halves[half] - zeros : halves[half], kTileBytes);
  });
}
