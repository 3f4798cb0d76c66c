//===- GemvInput.cpp - x of a GEMV in shared memory -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GemvEmitter.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Pieces of 8 elements of a row that a thread normalizes in registers.
static constexpr int64_t kHeldPieces = 4;
/// Rounds whose x is on its way before a warp multiplies by it.
static constexpr int64_t kRoundsAhead = 4;

/// Piece \p piece of four, 16 bytes, of the input block (of 64 bytes) of
/// number \p number: block of columns * maxRows + row. The same piece of eight
/// neighbouring input blocks, as a warp loads it, lies in all banks: the pieces
/// of every other pair change places.
Ptr GemvEmitter::inputPiece(Val number, Val piece) {
  Val place = piece ^ ((number >> 1) & 3);
  return shared.at(plan.input).at(number * kInputBlock + place * kPieceBytes);
}

/// Where piece \p piece of a row goes.
Ptr GemvEmitter::inputPlace(Val token, Val piece) {
  return inputPiece(piece / 4 * plan.maxRows + token, piece % 4);
}

/// A step's row for a token of the kernel: rows that the step lacks repeat one
/// that it has; nobody stores what they give.
Val GemvEmitter::sourceRow(Val token) {
  return b.extendUnsigned(b.max(b.min(token, rows - 1), number(0)), b.i64());
}

/// Whether rows of x are aligned to what asynchronous copies move.
bool GemvEmitter::copiesInput() const {
  return !shape.norm && shape.columns * shape.inputBytes() % kPieceBytes == 0;
}

/// Starts the copies of the warp's columns in a round: nobody else reads them.
/// Four lanes copy an input block.
void GemvEmitter::copyInput(Val round) {
  int64_t pieceColumns = kPieceBytes / shape.inputBytes();
  int64_t blocks = plan.warpColumns(shape) * shape.inputBytes() / kInputBlock;
  int64_t pieces = blocks * 4 * plan.maxRows;
  int64_t rowPieces = shape.paddedColumns() / pieceColumns;
  int64_t together = plan.teams * kWarp;
  for (int64_t i = 0; i < pieces; i += together) {
    Val own = (team ? lane + team * kWarp : lane) + i;
    Val inputBlock = own / 4;
    Val token = inputBlock % plan.maxRows;
    Val block = (round * GemvPlan::kColumnWarps + column) * blocks;
    Val piece = (block + inputBlock / plan.maxRows) * 4 + lane % 4;
    auto copy = [&] {
      Ptr row = buffers.input.at(sourceRow(token) *
                                 (shape.columns * shape.inputBytes()));
      Ptr to = inputPlace(token, piece);
      if (shape.columns == shape.paddedColumns())
        return copyAsync16(to, row.at(piece * kPieceBytes));
      Val inside = piece < shape.columns / pieceColumns;
      copyAsync16(to, row.at(b.select(inside, piece * kPieceBytes, number(0))),
                  b.select(inside, number(kPieceBytes), number(0)));
    };
    Val exists;
    if (!allHaveColumns())
      exists = piece < rowPieces;
    if (i + together > pieces)
      exists = exists ? exists & (own < pieces) : own < pieces;
    if (exists)
      b.ifThen(exists, copy);
    else
      copy();
  }
}

/// Starts the copies of the first rounds.
void GemvEmitter::beginInput() {
  for (int64_t round = 0; round < roundsAhead(); ++round) {
    copyInput(number(round));
    commitCopies(b);
  }
}

int64_t GemvEmitter::roundsAhead() const {
  return std::min(kRoundsAhead, plan.rounds);
}

/// Waits for the copies of a round, and starts those of a later one. Each round
/// commits a group, so that as many are under way in all.
void GemvEmitter::awaitInput(Val round) {
  if (plan.rounds > roundsAhead()) {
    Val later = round + roundsAhead();
    b.ifThen(later < plan.rounds, [&] { copyInput(later); });
  }
  commitCopies(b);
  waitCopies(b, roundsAhead());
  if (team)
    namedBarrier(b, column + kFirstPair, plan.teams * kWarp);
  else
    frame.syncWarp();
}

/// Rows that are not aligned are loaded element by element, by all threads.
void GemvEmitter::emitUnalignedInput() {
  int64_t pieceColumns = kPieceBytes / shape.inputBytes();
  int64_t pieces = shape.paddedColumns() / pieceColumns * plan.maxRows;
  b.forRange(thread, number(pieces), plan.consumers(), [&](Val i) {
    Val token = i % plan.maxRows, piece = i / plan.maxRows;
    Ptr row = buffers.input.at(sourceRow(token) *
                               (shape.columns * shape.inputBytes()));
    inputPlace(token, piece)
        .store(loadPiece(b, row, piece * pieceColumns, shape.columns,
                         shape.inputBytes()),
               kPieceBytes);
  });
}

/// Eight f32 of a row of floats; zero past the columns, unless \p isInside.
SmallVector<Val> GemvEmitter::loadEight(Ptr from, Val piece, bool isInside) {
  SmallVector<Val> eight;
  for (int64_t half = 0; half < 2; ++half) {
    VectorType floats = b.vec(4, b.f32());
    Val column = piece * 8 + half * 4;
    Val four = isInside ? from.at(column * 4).load(floats, 16)
                        : b.bitcast(loadPiece(b, from, column, shape.columns,
                                              /*elementBytes=*/4),
                                    floats);
    for (int64_t i = 0; i < 4; ++i)
      eight.push_back(four.lane(i));
  }
  return eight;
}

/// Rounds x * factor * w and stores it as piece \p piece of \p token.
void GemvEmitter::storeNormalized(Val token, Val piece, ArrayRef<Val> x,
                                  ArrayRef<Val> w, Val factor) {
  Type half = shape.input == InputFormat::BF16 ? b.bf16() : b.f16();
  Val words = b.zero(b.vec(4, b.i32()));
  for (int64_t i = 0; i < 4; ++i) {
    Val pair = b.zero(b.vec(2, b.f32()));
    for (int64_t j = 0; j < 2; ++j)
      pair = b.insert(pair, x[2 * i + j] * factor * w[2 * i + j], j);
    words = b.insert(words, b.bitcast(b.fromF32(pair, half), b.i32()), i);
  }
  inputPlace(token, piece).store(words, kPieceBytes);
}

/// A thread keeps its part of the row in registers, if that is short; the
/// norm's weights are there before the kernel waits for x.
void GemvEmitter::emitNormalizedInput() {
  int64_t threads = plan.consumers() / plan.maxRows;
  Val token = thread / threads, place = thread % threads;
  // Rows that the step lacks repeat one that it has; nobody stores them.
  Val source = b.max(b.min(token, rows - 1), number(0));
  Ptr row =
      buffers.input.at(b.extendUnsigned(source, b.i64()) * (shape.columns * 4));
  int64_t pieces = shape.paddedColumns() / 8;
  int64_t held = llvm::divideCeil(pieces, threads);
  bool isHeld = held <= kHeldPieces;
  auto loadHeld = [&](Ptr from, int64_t i) {
    bool isInside =
        shape.columns % 4 == 0 && (i + 1) * threads * 8 <= shape.columns;
    return loadEight(from, place + i * threads, isInside);
  };
  SmallVector<SmallVector<Val>> x, w;
  for (int64_t i = 0; isHeld && i < held; ++i)
    w.push_back(loadHeld(buffers.normWeight, i));
  frame.waitForPrevious();
  for (int64_t i = 0; isHeld && i < held; ++i)
    x.push_back(loadHeld(row, i));

  auto addSquares = [&](Val sum, ArrayRef<Val> values) {
    for (Val value : values)
      sum = b.fma(value, value, sum);
    return sum;
  };
  Val sum = b.zero(b.f32());
  for (ArrayRef<Val> piece : x)
    sum = addSquares(sum, piece);
  if (!isHeld)
    sum = b.forRange(place, number(pieces), threads, {sum},
                     [&](Val piece, ArrayRef<Val> carried) {
                       return SmallVector<Val>{
                           addSquares(carried[0], loadEight(row, piece))};
                     })[0];
  Val factor = normFactor(token, sum);
  for (int64_t i = 0; isHeld && i < held; ++i) {
    Val piece = place + i * threads;
    auto store = [&] { storeNormalized(token, piece, x[i], w[i], factor); };
    if ((i + 1) * threads <= pieces)
      store();
    else
      b.ifThen(piece < pieces, store);
  }
  if (!isHeld)
    b.forRange(place, number(pieces), threads, [&](Val piece) {
      storeNormalized(token, piece, loadEight(row, piece),
                      loadEight(buffers.normWeight, piece), factor);
    });
}

/// 1 / sqrt(mean of squares + epsilon) of a token, from the threads' sums.
Val GemvEmitter::normFactor(Val token, Val sum) {
  int64_t warps = plan.warps() / plan.maxRows;
  Ptr squares = shared.at(plan.barriers + 16 * plan.slots);
  sum = frame.warpSum(sum);
  b.ifThen(lane == 0, [&] { squares.at(warp * 4).store(sum); });
  frame.barrier(kConsumers, plan.consumers());
  Val total = b.zero(b.f32());
  for (int64_t i = 0; i < warps; ++i)
    total = total + squares.at((token * warps + i) * 4).load(b.f32());
  Val mean = total * (1.0 / static_cast<double>(shape.columns));
  return b.val(inlinePtx(b, b.f32(), "rsqrt.approx.ftz.f32 $0, $1;", "=f,f",
                         {mean + shape.epsilon}, /*effects=*/false));
}
