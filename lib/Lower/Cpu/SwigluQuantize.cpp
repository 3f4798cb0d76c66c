//===- SwigluQuantize.cpp - Emits qlm.swiglu_quantize ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32 [tokens, 2 * features] (gate, then up),
//          codes i8 [tokens, features], scales f32 [tokens], with a threshold
//          outliers f32 [tokens, 1 + 2 * features].
// Tiles:   one a row.
// Scratch: the gated row, f32 [features]: the exponential is too dear to
//          compute it again for the codes.
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "RowFormulas.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

FailureOr<KernelInfo>
mlir::qlm::cpu::emitSwigluQuantize(SwigluQuantizeOp op,
                                   const KernelRequest &request) {
  int64_t features =
      cast<RankedTensorType>(op.getCodes().getType()).getDimSize(1);

  KernelFrame frame(request.function, /*count=*/1 + op->getNumResults());
  KernelBuilder &b = frame.builder();
  Ptr gated = frame.scratch();
  RowRounding rounding(b, op.getScheme(), op.getThreshold(), features,
                       request.target.lanes());
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val row) {
    Ptr gate =
        frame.buffer(0).readOnly().element(b.f32(), row * (2 * features));
    Ptr up = gate.at(features * 4);
    Val magnitude = rounding.getMagnitude([&](const Chunk &chunk) {
      Val values = emitGatedChunk(b, chunk, gate, up, request.target);
      chunk.store(b, gated, values);
      return values;
    });
    auto values = [&](const Chunk &chunk) {
      return chunk.load(b, gated, b.f32());
    };
    rounding.store(magnitude, values, rounding.getPlaces(frame, 1, row));
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  // Whole vectors of the widest kind are loaded.
  info.scratchBytes = llvm::alignTo(features * 4, 64);
  info.flopsPerRow = 6 * features;
  return info;
}
