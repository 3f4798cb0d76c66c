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

/// Calls \p name of \p arguments, pointers or i64, which \p body writes on
/// its first use in a module: written out, loops over tiles are most of what
/// there is to compile.
void TileUnit::call(StringRef name, ArrayRef<Val> arguments,
                    function_ref<void(ArrayRef<Val>)> body) {
  auto module = function->getParentOfType<ModuleOp>();
  auto callee = module.lookupSymbol<func::FuncOp>(name);
  SmallVector<Value> values;
  SmallVector<Type> types;
  for (Val argument : arguments) {
    values.push_back(argument.get());
    types.push_back(argument.type());
  }
  if (!callee) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPoint(function);
    callee =
        func::FuncOp::create(b, b.getLoc(), name, b.getFunctionType(types, {}));
    callee.setPrivate();
    Block *block = callee.addEntryBlock();
    b.setInsertionPointToStart(block);
    SmallVector<Val> inside;
    for (Value argument : block->getArguments())
      inside.push_back(b.val(argument));
    body(inside);
    func::ReturnOp::create(b, b.getLoc());
  }
  func::CallOp::create(b, b.getLoc(), callee, values);
}

/// 16 rows from one place to another, each so many bytes apart.
void TileUnit::copyRows(Val to, Val toStride, Val from, Val fromStride) {
  call("tile_copy", {to, toStride, from, fromStride}, [&](ArrayRef<Val> args) {
    Ptr target(args[0].get(), &b), source(args[2].get(), &b);
    b.forRange(b.index(0), b.index(kTileRows), 1, [&](Val row) {
      target.at(row * args[1])
          .store(source.at(row * args[3]).load(getRow(b, b.i32())));
    });
  });
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
  copyRows(b.val(tile.get()), b.index(kTileBytes), b.val(from.get()),
           b.index(stride));
  return b.val(tile.get());
}

void TileUnit::store(Val tile, Ptr to, int64_t stride) {
  if (!inMemory) {
    b.intrinsic("llvm.x86.tilestored64.internal",
                {height(b), width(b), b.val(to.get()), b.index(stride), tile});
    return;
  }
  copyRows(b.val(to.get()), b.index(stride), tile, b.index(kTileBytes));
}

Val TileUnit::multiply(Val sums, Val left, Val right) {
  if (!inMemory)
    return b.intrinsic("llvm.x86.tdpbf16ps.internal", getTileType(b),
                       {height(b), width(b), width(b), sums, left, right});
  call("tile_multiply", {sums, left, right},
       [&](ArrayRef<Val> args) { emitProducts(args); });
  return sums;
}

/// Adds to a tile in memory the products of two others.
void TileUnit::emitProducts(ArrayRef<Val> tiles) {
  Ptr total(tiles[0].get(), &b), as(tiles[1].get(), &b), bs(tiles[2].get(), &b);
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
}
