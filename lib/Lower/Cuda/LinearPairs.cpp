//===- LinearPairs.cpp - What becomes of two sums of a linear -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LinearPairs.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Of a row: its page (i32) and the slot in it (i32).
static constexpr int64_t kRowBytes = 8;
/// Cosine and sine.
static constexpr int64_t kAngleBytes = 8;

/// What is left of \p value (f32) after a round trip through memory.
static Val rounded(KernelBuilder &b, Val value, Type between) {
  return b.toF32(b.fromF32(value, between));
}

//===----------------------------------------------------------------------===//
// swiglu
//===----------------------------------------------------------------------===//

GatedPairs::GatedPairs(SwigluOp op, Ptr result)
    : between(getElement(op.getInput())), to(getElement(op.getResult())),
      features(getFeatures(op.getResult())), result(result) {}

void GatedPairs::store(GpuKernelFrame &frame, const Place &place, Val row,
                       Val pair, Val first, Val second) {
  KernelBuilder &b = frame.builder();
  Val value =
      emitGate(frame, rounded(b, first, between), rounded(b, second, between));
  RowSplit::row(frame, result, to, row, features)
      .element(to, place.first + pair)
      .store(b.fromF32(value, to));
}

//===----------------------------------------------------------------------===//
// rope_append
//===----------------------------------------------------------------------===//

bool RotatedPairs::serves(RopeAppendOp op) { return !op.getCodes(); }

RotatedPairs::RotatedPairs(RopeAppendOp op, ArrayRef<Ptr> buffers)
    : heads(op.getHeads()), kvHeads(op.getKvHeads()), half(op.getHeadDim() / 2),
      pages(CachePages::get(op, op.getHeadDim())),
      between(getElement(op.getQkv())), query(getElement(op.getQuery())),
      table(buffers[0]), cache(buffers[1]), positions(buffers[2]),
      sequences(buffers[3]), tables(buffers[4]), result(buffers[5]) {}

int64_t RotatedPairs::sharedBytes(int64_t pairs, int64_t rows) const {
  return rows * (kRowBytes + pairs * kAngleBytes);
}

Ptr RotatedPairs::angleAt(KernelBuilder &b, const Place &place, Val row,
                          Val pair) const {
  return place.shared.at(place.maxRows * kRowBytes)
      .at((row * place.most + pair) * kAngleBytes);
}

void RotatedPairs::prepare(GpuKernelFrame &frame, const Place &place) {
  KernelBuilder &b = frame.builder();
  VectorType angle = b.vec(2, b.f32());
  auto positionOf = [&](Val row) {
    return positions.element(b.i32(), row).load(b.i32());
  };
  b.ifThen(place.thread < place.rows, [&] {
    Val row = place.thread, position = positionOf(row);
    Val sequence = sequences.element(b.i32(), row).load(b.i32());
    Val entry =
        sequence * frame.maxPagesPerSequence() + position / pages.pageTokens;
    Ptr own = place.shared.at(row * kRowBytes);
    own.store(tables.element(b.i32(), entry).load(b.i32()));
    own.at(4).store(position % pages.pageTokens);
  });
  b.forRange(place.thread, place.rows * place.most, place.threads, [&](Val i) {
    Val row = i / place.most, pair = i % place.most;
    b.ifThen(pair < place.count, [&] {
      Ptr angles = table.readOnly().at(frame.wide(positionOf(row)) *
                                       (half * kAngleBytes));
      Val k = (place.first + pair) % half;
      angleAt(b, place, row, pair)
          .store(angles.element(angle, k).load(angle, kAngleBytes),
                 kAngleBytes);
    });
  });
}

void RotatedPairs::store(GpuKernelFrame &frame, const Place &place, Val row,
                         Val pair, Val first, Val second) {
  KernelBuilder &b = frame.builder();
  Val head = (place.first + pair) / half, k = (place.first + pair) % half;
  Val low = rounded(b, first, between), high = rounded(b, second, between);
  Val angle = angleAt(b, place, row, pair).load(b.vec(2, b.f32()), kAngleBytes);
  Val cosine = angle.lane(0), sine = angle.lane(1);
  Val lowTurned = low * cosine - high * sine;
  Val highTurned = high * cosine + low * sine;
  b.ifThen(head < heads, [&] {
    Ptr place = RowSplit::row(frame, result, query, row, heads * half * 2)
                    .element(query, head * (half * 2) + k);
    place.store(b.fromF32(lowTurned, query));
    place.at(half * query.getIntOrFloatBitWidth() / 8)
        .store(b.fromF32(highTurned, query));
  });
  b.ifThen(head >= heads, [&] {
    Ptr own = place.shared.at(row * kRowBytes);
    Val number = own.load(b.i32()), slot = own.at(4).load(b.i32());
    Ptr page = cache.at(frame.wide(number) * pages.pageBytes());
    auto append = [&](int64_t kind, Val cacheHead, Val low, Val high) {
      Ptr part = pages.head(frame, page, kind, cacheHead);
      auto at = [&](Val feature) {
        return part.at(frame.wide(pages.offset(kind, slot, feature)));
      };
      at(k).store(b.fromF32(low, pages.element));
      at(k + half).store(b.fromF32(high, pages.element));
    };
    b.ifElse(
        head < heads + kvHeads,
        [&] { append(/*kind=*/0, head - heads, lowTurned, highTurned); },
        [&] { append(/*kind=*/1, head - (heads + kvHeads), low, high); });
  });
}
