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

Val mlir::qlm::cpu::emitGatedChunk(KernelBuilder &b, const Chunk &chunk,
                                   Ptr gate, Ptr up) {
  Val g = chunk.load(b, gate, b.f32());
  Val u = chunk.load(b, up, b.f32());
  return (g / (b.exp(-g) + 1.0)) * u;
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
                chunk.store(b, result, emitGatedChunk(b, chunk, gate, up));
              });
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(blocks);
  info.flopsPerRow = 4 * features;
  return info;
}
