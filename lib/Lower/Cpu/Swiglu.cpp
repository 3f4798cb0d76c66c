//===- Swiglu.cpp - Emits qlm.swiglu --------------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32 [rows, 2 * features] (gate, then up),
//          result f32 [rows, features].
// Tiles:   a row's features in blocks of kBlock, so that one row feeds all
//          threads.
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "RowFormulas.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

/// Features of a tile: a few hundred nanoseconds of work.
static constexpr int64_t kBlock = 1024;

// Cephes expf (Moshier), as in KernelBuilder::exp: x = n ln 2 + r with |r| <=
// ln 2 / 2, ln 2 split in two so that n * ln2High is exact. vscalefps knows
// over- and underflow; far from there n would lose bits. Comparisons with NaN
// fail, and keep it.
Val mlir::qlm::cpu::emitExp(KernelBuilder &b, Val x, const Target &target) {
  constexpr int64_t kScaledLanes = 16;
  if (!target.avx512 || x.lanes() != kScaledLanes)
    return b.exp(x);
  constexpr double kFar = 1000.0;
  constexpr double kLog2E = 1.44269504088896341;
  constexpr double kLn2High = 0.693359375;
  constexpr double kLn2Low = -2.12194440e-4;
  constexpr double kPolynomial[] = {1.9875691500E-4, 1.3981999507E-3,
                                    8.3334519073E-3, 4.1665795894E-2,
                                    1.6666665459E-1, 5.0000001201E-1};
  constexpr int64_t kAllLanes = -1, kCurrentRounding = 4;
  Val bounded = b.select(x > kFar, constantLike(x, kFar), x);
  bounded = b.select(bounded < -kFar, constantLike(x, -kFar), bounded);
  Val n = b.roundEven(bounded * kLog2E);
  Val r = b.fma(n, constantLike(x, -kLn2High), bounded);
  r = b.fma(n, constantLike(x, -kLn2Low), r);
  Val p = constantLike(x, kPolynomial[0]);
  for (double coefficient : ArrayRef<double>(kPolynomial).drop_front())
    p = b.fma(p, r, constantLike(x, coefficient));
  Val y = b.fma(p, r * r, r) + 1.0;
  return b.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", x.type(),
                     {y, n, y, b.constant(b.i16(), kAllLanes),
                      b.constant(b.i32(), kCurrentRounding)});
}

Val mlir::qlm::cpu::emitGated(KernelBuilder &b, Val gate, Val up,
                              const Target &target) {
  return (gate / (emitExp(b, -gate, target) + 1.0)) * up;
}

Val mlir::qlm::cpu::emitGatedChunk(KernelBuilder &b, const Chunk &chunk,
                                   Ptr gate, Ptr up, const Target &target) {
  return emitGated(b, chunk.load(b, gate, b.f32()), chunk.load(b, up, b.f32()),
                   target);
}

FailureOr<KernelInfo> mlir::qlm::cpu::emitSwiglu(SwigluOp op,
                                                 const KernelRequest &request) {
  int64_t features = op.getType().getDimSize(1);
  int64_t blocks = llvm::divideCeil(features, kBlock);

  KernelFrame frame(request.function, /*count=*/2);
  KernelBuilder &b = frame.builder();
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val tile) {
    Val row = tile / blocks;
    Val first = (tile % blocks) * kBlock;
    Val last = b.min(first + kBlock, b.index(features));
    Ptr gate =
        frame.buffer(0).readOnly().element(b.f32(), row * (2 * features));
    Ptr up = gate.at(features * 4);
    Ptr result = frame.buffer(1).element(b.f32(), row * features);
    forChunks(b, first, last, features, request.target.lanes(),
              [&](const Chunk &chunk) {
                chunk.store(b, result,
                            emitGatedChunk(b, chunk, gate, up, request.target));
              });
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(blocks);
  info.flopsPerRow = 4 * features;
  return info;
}
