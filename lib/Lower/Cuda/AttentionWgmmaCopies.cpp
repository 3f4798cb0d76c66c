//===- AttentionWgmmaCopies.cpp - What wgmma attention reads --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The first warpgroup of a block. Its loaders go from tile to tile as far ahead
// as slots are empty: they take the next tile's number, copy its rows'
// positions and sequences, which all others then read from shared memory, and
// its queries. One more thread follows them and copies pages as they are.
//
//===----------------------------------------------------------------------===//

#include "AttentionWgmma.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Named barrier of the loaders.
static constexpr int64_t kLoadBarrier = 7;
static constexpr int64_t kMaxCopyRows = WgmmaPlan::kMaxCopyRows;

//===----------------------------------------------------------------------===//
// Loaders
//===----------------------------------------------------------------------===//

void WgmmaEmitter::load() {
  using Values = function_ref<SmallVector<Val>()>;
  headsAtOnce = findHeadsAtOnce();
  Val isOpen = b.constant(b.i1(), int64_t(1));
  b.whileTrue(
      {number(0), firstTurn(), isOpen},
      [](ArrayRef<Val> carried) { return carried.back(); },
      [&](ArrayRef<Val> carried) {
        Val place = carried[0], tileNumber = announceTile(place, carried[1]);
        Val isTile = tileNumber != kNoTile;
        auto loadTile = [&] {
          ptx.waitForPrevious();
          tile.select(tileNumber);
          return SmallVector<Val>{loadQueries(place)};
        };
        auto pass = [&] { return SmallVector<Val>{tiles}; };
        Val next = b.ifElse(isTile, Values(loadTile), Values(pass))[0];
        return SmallVector<Val>{place + 1, next, isTile};
      });
}

/// All heads, or fewer where the keys and values of all would not stay in L2
/// from one row of tiles to the next.
Val WgmmaEmitter::findHeadsAtOnce() {
  if (plan.headsAtOnce == shape.heads)
    return number(shape.heads);
  Val position = tile.loadIndex(buffers.positions, buffers.tokens - 1);
  return b.select(position < plan.longContext, number(shape.heads),
                  number(plan.headsAtOnce));
}

Val WgmmaEmitter::tileOf(Val turn) {
  if (plan.headsAtOnce == shape.heads)
    return turn;
  Val some = tiles / shape.heads * headsAtOnce;
  Val inSome = turn % some;
  return inSome / headsAtOnce * shape.heads + turn / some * headsAtOnce +
         inSome % headsAtOnce;
}

/// Gives all warps the number of the tile whose turn the first loader has, and
/// the positions and sequences of its rows.
Val WgmmaEmitter::announceTile(Val place, Val turn) {
  Val member = thread - (kGroupThreads - kLoaders);
  Ptr lists = rowsOf(place);
  Ptr numberAt = lists.at(plan.blockRows() * 8);
  ptx.waitBarrier(barrier(place, SlotEmpty), slotParity(place) ^ 1);
  b.ifThen(member == 0, [&] {
    numberAt.store(b.select(turn < tiles, tileOf(turn), number(kNoTile)));
  });
  ptx.barrier(kLoadBarrier, kLoaders);
  Val tileNumber = numberAt.load(b.i32());
  b.ifThen(tileNumber != kNoTile, [&] {
    tile.select(tileNumber);
    b.forRange(member, number(plan.blockRows()), kLoaders, [&](Val row) {
      Val inside = b.min(tile.firstRow + row, tile.endRow - 1);
      Val position = tile.loadIndex(buffers.positions, inside);
      Val sequence = tile.loadIndex(buffers.tokenSequences, inside);
      lists.element(b.i32(), row).store(position);
      lists.element(b.i32(), row + plan.blockRows()).store(sequence);
    });
  });
  ptx.arrive(barrier(place, RowsFull));
  return tileNumber;
}

/// Brings the tile's queries as halves in swizzled planes; the first loader
/// takes the next turn meanwhile and gets it.
Val WgmmaEmitter::loadQueries(Val place) {
  int64_t bytes = shape.query.getIntOrFloatBitWidth() / 8;
  bool isCopied = shape.half() == HalfType::BF16 ? shape.query.isBF16()
                                                 : shape.query.isF16();
  // Features that a loader takes at once: its registers are few.
  int64_t piece = isCopied ? 8 : 4, rowPieces = shape.headDim / piece;
  Val member = thread - (kGroupThreads - kLoaders);
  Ptr target = queriesOf(place);
  AttentionShape layout = shape;
  layout.pageTokens = kGroupRows;
  auto loadPiece = [&](Val index) {
    Val row = index / rowPieces, first = index % rowPieces * piece;
    Val inside = b.min(tile.firstRow + row, tile.endRow - 1);
    Val feature = (inside * shape.heads + tile.head) * shape.headDim + first;
    Ptr source = buffers.query.at(b.extendSigned(feature, b.i64()) * bytes);
    Ptr to = target.at(row / kGroupRows * groupBytes())
                 .at(layout.chunkOffset(row % kGroupRows, first / 8))
                 .at(first % 8 * 2);
    if (isCopied)
      ptx.copyAsync(ptx.address(to), source);
    else
      to.store(convertPiece(source), 8);
  };
  // Not unrolled: these warps have few registers.
  b.forRange(member, number(plan.blockRows() * rowPieces), kLoaders, loadPiece);
  using Values = function_ref<SmallVector<Val>()>;
  auto count = [&] {
    return SmallVector<Val>{ptx.countUp(buffers.workspace, tiles - 1) +
                            ptx.blocks()};
  };
  auto none = [&] { return SmallVector<Val>{tiles}; };
  Val next = b.ifElse((member == 0) & (tiles > ptx.blocks()), Values(count),
                      Values(none))[0];
  if (isCopied) {
    ptx.commitCopies();
    ptx.waitForCopies(0);
  }
  ptx.fenceProxy();
  ptx.arrive(barrier(place, QueriesFull));
  return next;
}

/// Four features of another type, as halves.
Val WgmmaEmitter::convertPiece(Ptr source) {
  SmallVector<Val> numbers;
  if (shape.query.isF32()) {
    Val loaded = source.load(b.vec(4, b.f32()), 16);
    for (int64_t i = 0; i < 4; ++i)
      numbers.push_back(loaded.lane(i));
  } else {
    HalfType type = shape.query.isBF16() ? HalfType::BF16 : HalfType::F16;
    Val loaded = source.load(b.vec(2, b.i32()), 8);
    for (int64_t i = 0; i < 2; ++i) {
      auto [low, high] = ptx.unpack(loaded.lane(i), type);
      numbers.append({low, high});
    }
  }
  Val words = b.zero(b.vec(2, b.i32()));
  for (int64_t w = 0; w < 2; ++w)
    words = b.insert(
        words, ptx.pack(numbers[2 * w], numbers[2 * w + 1], shape.half()), w);
  return words;
}

//===----------------------------------------------------------------------===//
// Pages
//===----------------------------------------------------------------------===//

void WgmmaEmitter::copyPages() {
  forTiles({number(0)}, [&](Val place, Val, ArrayRef<Val> carried) {
    SmallVector<Val> after = tile.forSegments(
        carried, [&](const Segment &segment, ArrayRef<Val> before) {
          // The block tables are the step's, and there before.
          segment.pages.prefetch();
          ptx.waitForPrevious();
          Val first = before[0] - segment.firstBlock;
          b.forRange(segment.firstBlock, segment.lastBlock, 1, [&](Val block) {
            for (int64_t part = 0; part < 2; ++part)
              copyBlock(segment, block, first + block, part);
          });
          return SmallVector<Val>{first + segment.lastBlock};
        });
    ptx.arrive(barrier(place, SlotEmpty));
    return after;
  });
}

/// Copies a block's rows, a plane and a page (at most 64 rows of one) at once;
/// pages that the sequence doesn't have yet are left out.
void WgmmaEmitter::copyBlock(const Segment &segment, Val block, Val count,
                             int64_t part) {
  int64_t copyRows = std::min(shape.pageTokens, kMaxCopyRows);
  Val full = barrier(count, part, 0);
  ptx.waitBarrier(barrier(count, part, 1), parity(count) ^ 1);
  Val first = block * plan.blockKeys;
  Val copies = b.min((segment.lastKey - first) / copyRows + 1,
                     number(plan.blockKeys / copyRows));
  ptx.arriveExpecting(full, copies * (copyRows * shape.rowBytes()));
  Val target = ptx.address(stage(count, part));
  b.forRange(number(0), copies, 1, [&](Val i) {
    Val token = first + i * copyRows;
    Ptr source = tile.pagePart(segment, token, part)
                     .at((token % shape.pageTokens) * kPlaneRowBytes);
    for (int64_t plane = 0; plane < planes(); ++plane)
      ptx.bulkCopy(target +
                       (i * (copyRows * kPlaneRowBytes) + plane * planeBytes()),
                   source.at(plane * shape.pageTokens * kPlaneRowBytes),
                   number(copyRows * kPlaneRowBytes), full);
  });
}
