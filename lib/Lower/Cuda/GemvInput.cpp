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
/// Pieces of 16 bytes of x that a thread loads before it stores one.
static constexpr int64_t kPiecesTogether = 8;

/// The operands of lane \p quarter of four, in the input block (of 64 bytes)
/// of number \p number: block of columns * maxRows + row. Eight neighbouring
/// input blocks that store a word each, as a warp does, use all banks: the
/// quarters of every other pair change places.
Ptr GemvEmitter::inputPair(Val number, Val quarter) {
  Val place = quarter ^ ((number >> 1) & 3);
  return shared.at(plan.input).at(number * kInputBlock + place * kPairBytes);
}

/// Stores 16 bytes of a row, \p piece of them, in the order of the right
/// operand: word i belongs to lane i of the row's four.
void GemvEmitter::storeInput(Val token, Val piece, Val words) {
  Val inputBlock = piece / 4 * plan.maxRows + token;
  for (int64_t i = 0; i < 4; ++i)
    inputPair(inputBlock, number(i)).at(piece % 4 * 4).store(words.lane(i));
}

/// Calls \p body for the 16-byte pieces of a padded row that are \p place's.
void GemvEmitter::forPieces(Val place, int64_t threads,
                            function_ref<void(Val piece)> body) {
  int64_t pieces = shape.paddedColumns() * shape.inputBytes() / 16;
  b.forRange(place, number(pieces), threads, body);
}

/// A step's row for a token of the kernel: rows that the step lacks repeat one
/// that it has; nobody stores what they give.
Val GemvEmitter::sourceRow(Val token) {
  return b.extendUnsigned(b.max(b.min(token, rows - 1), number(0)), b.i64());
}

/// Four threads load an input block, so that neighbouring ones differ in rows
/// first. A thread's pieces are all on their way before the first one is
/// stored.
void GemvEmitter::emitPlainInput() {
  constexpr int64_t kThreads = GemvPlan::kWarps * kWarp;
  int64_t pieceColumns = 16 / shape.inputBytes();
  int64_t pieces = shape.paddedColumns() / pieceColumns * plan.maxRows;
  struct Piece {
    Val token, number, words;
  };
  // The thread's piece of number i.
  auto locate = [&](Val i) {
    Val inputBlock = (thread + i * kThreads) / 4;
    return Piece{inputBlock % plan.maxRows,
                 inputBlock / plan.maxRows * 4 + thread % 4, Val()};
  };
  auto load = [&](const Piece &piece, bool isInside) {
    Ptr row = buffers.input.at(sourceRow(piece.token) *
                               (shape.columns * shape.inputBytes()));
    return isInside ? row.at(piece.number * 16).load(b.vec(4, b.i32()), 16)
                    : loadPiece(b, row, piece.number * pieceColumns,
                                shape.columns, shape.inputBytes());
  };
  // Rows that are not aligned are loaded element by element.
  if (shape.columns % pieceColumns != 0) {
    Val own = number(llvm::divideCeil(pieces, kThreads));
    return b.forRange(number(0), own, 1, [&](Val i) {
      Piece piece = locate(i);
      b.ifThen(thread + i * kThreads < pieces, [&] {
        storeInput(piece.token, piece.number, load(piece, /*isInside=*/false));
      });
    });
  }
  int64_t turns = llvm::divideCeil(pieces, kThreads);
  // Pieces of input blocks without padding.
  int64_t whole = shape.columns / (4 * pieceColumns) * 4 * plan.maxRows;
  for (int64_t first = 0; first < turns; first += kPiecesTogether) {
    int64_t last = std::min(first + kPiecesTogether, turns);
    SmallVector<Piece> held;
    for (int64_t i = first; i < last; ++i) {
      held.push_back(locate(number(i)));
      held.back().words = load(held.back(), (i + 1) * kThreads <= whole);
    }
    for (int64_t i = first; i < last; ++i) {
      const Piece &piece = held[i - first];
      auto store = [&] { storeInput(piece.token, piece.number, piece.words); };
      if ((i + 1) * kThreads <= pieces)
        store();
      else
        b.ifThen(thread + i * kThreads < pieces, store);
    }
  }
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
  storeInput(token, piece, words);
}

/// A thread keeps its part of the row in registers, if that is short; the
/// norm's weights are there before the kernel waits for x.
void GemvEmitter::emitNormalizedInput() {
  int64_t threads = GemvPlan::kWarps * kWarp / plan.maxRows;
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
  int64_t warps = GemvPlan::kWarps / plan.maxRows;
  Ptr squares = shared.at(plan.barriers + 16 * plan.slots);
  sum = frame.warpSum(sum);
  b.ifThen(lane == 0, [&] { squares.at(warp * 4).store(sum); });
  frame.barrier(kConsumers, GemvPlan::kWarps * kWarp);
  Val total = b.zero(b.f32());
  for (int64_t i = 0; i < warps; ++i)
    total = total + squares.at((token * warps + i) * 4).load(b.f32());
  Val mean = total * (1.0 / static_cast<double>(shape.columns));
  return b.constant(b.f32(), 1.0) / b.sqrt(mean + shape.epsilon);
}
