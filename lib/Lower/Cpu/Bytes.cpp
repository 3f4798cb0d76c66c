//===- Bytes.cpp - From floats to codes of a byte -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Bytes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

Val mlir::qlm::cpu::roundToInts(KernelBuilder &b, Val x) {
  std::string lanes = std::to_string(x.lanes());
  return b.intrinsic("llvm.lrint.v" + lanes + "i32.v" + lanes + "f32",
                     b.vec(x.lanes(), b.i32()), {x});
}

/// Bytes of a whole range, narrowed to [\p lo, \p hi].
static Val narrow(KernelBuilder &b, Val bytes, int64_t lo, int64_t hi) {
  Location loc = b.getLoc();
  Val least = constantLike(bytes, lo), most = constantLike(bytes, hi);
  if (lo >= 0) {
    if (hi < 255)
      bytes = b.val(arith::MinUIOp::create(b, loc, bytes.get(), most.get()));
    if (lo > 0)
      bytes = b.val(arith::MaxUIOp::create(b, loc, bytes.get(), least.get()));
    return bytes;
  }
  if (hi < 127)
    bytes = b.min(bytes, most);
  return lo > -128 ? b.max(bytes, least) : bytes;
}

Val mlir::qlm::cpu::clampToBytes(KernelBuilder &b, Val ints, int64_t lo,
                                 int64_t hi) {
  // LLVM knows these as one instruction.
  Val least = constantLike(ints, int64_t(lo >= 0 ? 0 : -128)),
      most = constantLike(ints, int64_t(lo >= 0 ? 255 : 127));
  Val bytes = b.truncate(b.max(b.min(ints, most), least), b.i8());
  return narrow(b, bytes, lo, hi);
}

Val mlir::qlm::cpu::packBytes(KernelBuilder &b, ArrayRef<Val> ints, int64_t lo,
                              int64_t hi) {
  int64_t lanes = ints[0].lanes();
  bool isWide = lanes == 16;
  auto toShorts = [&](Val first, Val second) {
    return b.intrinsic(isWide ? "llvm.x86.avx512.packssdw.512"
                              : "llvm.x86.avx2.packssdw",
                       b.vec(2 * lanes, b.i16()), {first, second});
  };
  StringRef toBytes = isWide    ? lo >= 0 ? "llvm.x86.avx512.packuswb.512"
                                          : "llvm.x86.avx512.packsswb.512"
                      : lo >= 0 ? "llvm.x86.avx2.packuswb"
                                : "llvm.x86.avx2.packsswb";
  VectorType type = b.vec(4 * lanes, b.i8()), words = b.vec(lanes, b.i32());
  Val bytes = b.intrinsic(
      toBytes, type, {toShorts(ints[0], ints[1]), toShorts(ints[2], ints[3])});
  // Each 16 bytes have 4 of every vector.
  int64_t sixteens = lanes / 4;
  SmallVector<int64_t> order;
  for (int64_t i = 0; i < lanes; ++i)
    order.push_back(i % sixteens * 4 + i / sixteens);
  Val inOrder = b.bitcast(bytes, words);
  inOrder = b.shuffle(inOrder, inOrder, order);
  return narrow(b, b.bitcast(inOrder, type), lo, hi);
}
