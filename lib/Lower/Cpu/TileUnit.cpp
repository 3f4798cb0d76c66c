//===- TileUnit.cpp - Matrix registers of bf16 ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TileUnit.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

static Type getTileType(KernelBuilder &b) {
  return LLVM::LLVMX86AMXType::get(b.getContext());
}
static Val height(KernelBuilder &b) { return b.constant(b.i16(), kTileRows); }
static Val width(KernelBuilder &b) { return b.constant(b.i16(), kTileBytes); }
/// A row of a tile: 16 f32, or 16 pairs of bf16.
static VectorType getRow(KernelBuilder &b, Type element) {
  return b.vec(kTileColumns, element);
}

Ptr TileUnit::makeTile() {
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(&function.getBody().front());
  Val size = b.index(kTileSize);
  return Ptr(LLVM::AllocaOp::create(b, b.getLoc(), b.ptr(), b.i8(), size.get(),
                                    kTileBytes),
             &b);
}

Val TileUnit::zero() {
  if (!inMemory)
    return b.intrinsic("llvm.x86.tilezero.internal", getTileType(b),
                       {height(b), width(b)});
  Ptr tile = makeTile();
  b.forRange(b.index(0), b.index(kTileSize), kTileBytes,
             [&](Val row) { tile.at(row).store(b.zero(getRow(b, b.i32()))); });
  return b.val(tile.get());
}

Val TileUnit::load(Ptr from, int64_t stride) {
  if (!inMemory)
    return b.intrinsic(
        "llvm.x86.tileloadd64.internal", getTileType(b),
        {height(b), width(b), b.val(from.get()), b.index(stride)});
  Ptr tile = makeTile();
  b.forRange(b.index(0), b.index(kTileRows), 1, [&](Val row) {
    tile.at(row * kTileBytes)
        .store(from.at(row * stride).load(getRow(b, b.i32())));
  });
  return b.val(tile.get());
}

void TileUnit::store(Val tile, Ptr to, int64_t stride) {
  if (!inMemory) {
    b.intrinsic("llvm.x86.tilestored64.internal",
                {height(b), width(b), b.val(to.get()), b.index(stride), tile});
    return;
  }
  Ptr from(tile.get(), &b);
  b.forRange(b.index(0), b.index(kTileRows), 1, [&](Val row) {
    to.at(row * stride)
        .store(from.at(row * kTileBytes).load(getRow(b, b.i32())));
  });
}

Val TileUnit::multiply(Val sums, Val left, Val right) {
  if (!inMemory)
    return b.intrinsic("llvm.x86.tdpbf16ps.internal", getTileType(b),
                       {height(b), width(b), width(b), sums, left, right});
  Ptr total(sums.get(), &b), as(left.get(), &b), bs(right.get(), &b);
  VectorType floats = getRow(b, b.f32()), pairs = getRow(b, b.i32());
  constexpr int64_t kUpperHalf = 0xFFFF0000;
  // bf16 is the upper half of f32.
  auto even = [&](Val pair) { return b.bitcast(pair << 16, floats); };
  auto odd = [&](Val pair) { return b.bitcast(pair & kUpperHalf, floats); };
  b.forRange(b.index(0), b.index(kTileRows), 1, [&](Val row) {
    Ptr place = total.at(row * kTileBytes);
    Ptr aRow = as.at(row * kTileBytes);
    Val sum =
        b.forRange(b.index(0), b.index(kTileRows), 1, {place.load(floats)},
                   [&](Val p, ArrayRef<Val> before) {
                     Val a = b.broadcast(aRow.element(b.i32(), p).load(b.i32()),
                                         kTileColumns);
                     Val pair = bs.at(p * kTileBytes).load(pairs);
                     Val first = b.fma(even(a), even(pair), before[0]);
                     return SmallVector<Val>{b.fma(odd(a), odd(pair), first)};
                   })[0];
    place.store(sum);
  });
  return sums;
}
