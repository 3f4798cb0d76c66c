//===- PackedLinearAmx.cpp - Packed linears of many rows on AMX -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// AMX's registers are matrices of 16 rows of 64 bytes. One instruction
// (tdpbsud) multiplies 16 rows and 64 columns of activations by 64 columns of
// one block of weights, which 16 lines of the layout i8x16x4 are as they stand:
//
//                             weights: 16 features x 4 columns a line
//                                  b0            b1
//                             +------------+------------+
//   x: 16 rows   a0  +------+ | sums 0, 0  | sums 0, 1  |
//      64 columns a1 +------+ | sums 1, 0  | sums 1, 1  |
//
// So 32 rows by two blocks take all eight registers, and each operand is used
// twice. The int4 codes of a pair of blocks are unpacked to that layout once,
// for all rows.
//
// The int32 sums of a group are exact, as VNNI's are, and what follows them is
// the same in the same order: results have the same bits. Therefore the rows
// that fill no register are left to the patches.
//
//===----------------------------------------------------------------------===//

#include "PackedLinear.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

/// Rows and bytes of a row of a register.
static constexpr int64_t kTileRows = 16;
static constexpr int64_t kTileBytes = 64;
static constexpr int64_t kTileSize = kTileRows * kTileBytes;
/// Rows and blocks that share operands.
static constexpr int64_t kMaxRowTiles = 2;
static constexpr int64_t kMaxBlockTiles = 2;
/// Steps of 64 columns that are written out one after the other.
static constexpr int64_t kUnrolledSteps = 4;
/// Rows whose sums are scaled in one round.
static constexpr int64_t kScaledRows = 4;
/// How far ahead packed codes are fetched while others are unpacked.
static constexpr int64_t kUnpackPrefetchBytes = 1024;

bool AmxPlan::isFor(const LinearShape &shape, const Target &target) {
  return target.amxInt8 && shape.byteActivations &&
         shape.groupColumns % kTileBytes == 0;
}

AmxPlan AmxPlan::get(const LinearShape &shape, int64_t tileBlocks,
                     int64_t maxRows) {
  AmxPlan plan;
  plan.blocks = std::min(kMaxBlockTiles, tileBlocks);
  int64_t patchBytes = kMaxRowTiles * plan.blocks * kTileSize;
  plan.sums = llvm::alignTo(maxRows * shape.groups * 4, kTileBytes);
  plan.totals = plan.sums + patchBytes;
  plan.codes = plan.totals + (shape.groups > 1 ? patchBytes : 0);
  bool unpacks = shape.layout == LayoutKind::Int4;
  plan.end = plan.codes +
             (unpacks ? plan.blocks * shape.columns * kTileRows : int64_t(0));
  return plan;
}

/// Computes the rows before the returned one, a multiple of 16, of the tile
/// whose first block is \p first.
Val LinearEmitter::emitAmxRows(Val first) {
  Val pairs = rows / (kMaxRowTiles * kTileRows) * (kMaxRowTiles * kTileRows);
  Val end = rows / kTileRows * kTileRows;
  b.ifThen(end > 0, [&] {
    b.forRange(first, first + tiling.tileBlocks, amx.blocks, [&](Val block) {
      Ptr codes = weights.at(block * shape.blockBytes());
      if (shape.layout == LayoutKind::Int4) {
        emitUnpackedCodes(codes);
        codes = rowSums.at(amx.codes);
      }
      b.forRange(b.index(0), pairs, kMaxRowTiles * kTileRows, [&](Val row) {
        emitAmxPatch(kMaxRowTiles, row, block, codes);
      });
      b.forRange(pairs, end, kTileRows,
                 [&](Val row) { emitAmxPatch(1, row, block, codes); });
    });
  });
  return end;
}

/// Writes the codes of `amx.blocks` blocks at \p packed, two a byte, as bytes.
void LinearEmitter::emitUnpackedCodes(Ptr packed) {
  Ptr codes = rowSums.at(amx.codes);
  int64_t packedBytes = amx.blocks * shape.blockBytes();
  VectorType line = b.vec(16, b.i32());
  b.forRange(b.index(0), b.index(packedBytes), kTileBytes, [&](Val i) {
    Val word = packed.at(i).load(line, kTileBytes);
    packed.at(i + kUnpackPrefetchBytes).prefetch();
    SmallVector<Val> bytes = unpackBytes(word);
    for (int64_t half = 0; half < 2; ++half)
      codes.at(i * 2 + half * kTileBytes).store(bytes[half], kTileBytes);
  });
}

/// Computes \p rowTiles * 16 rows of `amx.blocks` blocks, whose codes are the
/// bytes at \p codes.
void LinearEmitter::emitAmxPatch(int64_t rowTiles, Val firstRow, Val block,
                                 Ptr codes) {
  int64_t patchRows = rowTiles * kTileRows, lineBytes = amx.blocks * kTileBytes;
  VectorType ints = b.vec(lanes, b.i32()), floats = b.vec(lanes, b.f32());
  Ptr sums = rowSums.at(amx.sums), totals = rowSums.at(amx.totals);
  Val zero = b.zero(floats);
  /// Adds what the sums of a group give to the totals of each row.
  auto scaleGroup = [&](Val group, function_ref<Val(Ptr)> loadTotal,
                        function_ref<void(Val, ArrayRef<Val>)> use) {
    SmallVector<Val> blockScales, zeros;
    for (int64_t s = 0; s < amx.blocks; ++s) {
      blockScales.push_back(loadScale(block, group, s));
      if (shape.zeroPoints)
        zeros.push_back(loadZeroPoint(block, group, s));
    }
    b.forRange(b.index(0), b.index(patchRows), kScaledRows, [&](Val first) {
      for (int64_t r = 0; r < kScaledRows; ++r) {
        Val row = first + r;
        Ptr address = rowSums.at(((firstRow + row) * shape.groups + group) * 4);
        Val rowSum = b.broadcast(address.load(b.i32()), lanes);
        SmallVector<Val> after;
        for (int64_t s = 0; s < amx.blocks; ++s) {
          Val place = row * lineBytes + s * kTileBytes;
          Val sum = sums.at(place).load(ints, kTileBytes);
          sum = shape.zeroPoints ? sum - zeros[s] * rowSum : sum + rowSum;
          after.push_back(b.fma(blockScales[s], b.toFloat(sum, b.f32()),
                                loadTotal(totals.at(place))));
        }
        use(row, after);
      }
    });
  };
  auto storeRow = [&](Val row, ArrayRef<Val> after) {
    Place place = {{1, amx.blocks}, input, weights, firstRow + row, block};
    store(place, after, /*masked=*/false);
  };
  auto loadTotal = [&](Ptr place) { return place.load(floats, kTileBytes); };
  auto keepTotals = [&](Val row, ArrayRef<Val> after) {
    for (int64_t s = 0; s < amx.blocks; ++s)
      totals.at(row * lineBytes + s * kTileBytes).store(after[s], kTileBytes);
  };
  auto noTotal = [&](Ptr) { return zero; };

  Val firstGroup = b.index(0), lastGroup = b.index(shape.groups - 1);
  emitAmxSums(rowTiles, firstRow, firstGroup, codes);
  if (shape.groups == 1)
    return scaleGroup(firstGroup, noTotal, storeRow);
  scaleGroup(firstGroup, noTotal, keepTotals);
  b.forRange(b.index(1), lastGroup, 1, [&](Val group) {
    emitAmxSums(rowTiles, firstRow, group, codes);
    scaleGroup(group, loadTotal, keepTotals);
  });
  emitAmxSums(rowTiles, firstRow, lastGroup, codes);
  scaleGroup(lastGroup, loadTotal, storeRow);
}

/// Leaves the sums of a group in scratch, i32 `[rows, blocks, 16]`.
void LinearEmitter::emitAmxSums(int64_t rowTiles, Val firstRow, Val group,
                                Ptr codes) {
  Type tile = LLVM::LLVMX86AMXType::get(b.getContext());
  Val height = b.constant(b.i16(), kTileRows);
  Val width = b.constant(b.i16(), kTileBytes);
  auto load = [&](Ptr from, int64_t stride) {
    return b.intrinsic("llvm.x86.tileloadd64.internal", tile,
                       {height, width, b.val(from.get()), b.index(stride)});
  };
  Val firstColumn = group * shape.groupColumns;
  Ptr x = input.at(firstRow * shape.columns + firstColumn);
  Ptr w = codes.at(firstColumn * kTileRows);
  int64_t blockBytes = shape.columns * kTileRows;

  // One step: 64 columns of all rows and blocks.
  auto addStep = [&](Val column, SmallVector<Val> carried) {
    SmallVector<Val> as, bs;
    for (int64_t r = 0; r < rowTiles; ++r)
      as.push_back(
          load(x.at(column + r * kTileRows * shape.columns), shape.columns));
    for (int64_t s = 0; s < amx.blocks; ++s)
      bs.push_back(load(w.at(column * kTileRows + s * blockBytes), kTileBytes));
    for (int64_t r = 0; r < rowTiles; ++r)
      for (int64_t s = 0; s < amx.blocks; ++s) {
        Val &sum = carried[r * amx.blocks + s];
        sum = b.intrinsic("llvm.x86.tdpbsud.internal", tile,
                          {height, width, width, sum, as[r], bs[s]});
      }
    return carried;
  };
  SmallVector<Val> acc;
  for (int64_t i = 0; i < rowTiles * amx.blocks; ++i)
    acc.push_back(
        b.intrinsic("llvm.x86.tilezero.internal", tile, {height, width}));
  int64_t steps = shape.groupColumns / kTileBytes;
  int64_t rounds = steps > kUnrolledSteps ? steps / kUnrolledSteps : 0;
  constexpr int64_t roundColumns = kUnrolledSteps * kTileBytes;
  if (rounds)
    acc = b.forRange(b.index(0), b.index(rounds * roundColumns), roundColumns,
                     acc, [&](Val column, ArrayRef<Val> carried) {
                       SmallVector<Val> next(carried);
                       for (int64_t i = 0; i < kUnrolledSteps; ++i)
                         next = addStep(column + i * kTileBytes, next);
                       return next;
                     });
  for (int64_t i = rounds * kUnrolledSteps; i < steps; ++i)
    acc = addStep(b.index(i * kTileBytes), acc);

  int64_t lineBytes = amx.blocks * kTileBytes;
  for (int64_t r = 0; r < rowTiles; ++r)
    for (int64_t s = 0; s < amx.blocks; ++s) {
      Ptr to =
          rowSums.at(amx.sums + r * kTileRows * lineBytes + s * kTileBytes);
      b.intrinsic("llvm.x86.tilestored64.internal",
                  {height, width, b.val(to.get()), b.index(lineBytes),
                   acc[r * amx.blocks + s]});
    }
}
