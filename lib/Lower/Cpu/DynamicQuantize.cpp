//===- DynamicQuantize.cpp - Emits qlm.dynamic_quantize -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32 [rows, features], codes i8 [rows, features],
//          scales f32 [rows].
// Tiles:   one a row.
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "RowFormulas.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

Val RowRounding::getMagnitude(ChunkFn values) const {
  return b.reduceMax(foldChunks(
      b, features, b.zero(b.vec(lanes, b.f32())),
      [&](Val largest, const Chunk &chunk) {
        Val x = chunk.fill(b, values(chunk), 0.0);
        return b.max(largest, b.abs(x));
      },
      [&](Val largest, Val other) { return b.max(largest, other); }));
}

void RowRounding::store(Val magnitude, ChunkFn values, Ptr codes,
                        Ptr scale) const {
  double bound = scheme.getBoundValue();
  scale.store(magnitude / bound);
  // A row of zeros has codes 0, not 0 * infinity.
  Val inverse = b.select(magnitude == 0.0, b.zero(b.f32()), bound / magnitude);
  Val factor = b.broadcast(inverse, lanes);
  forChunks(b, features, lanes, [&](const Chunk &chunk) {
    Val rounded = b.roundEven(values(chunk) * factor);
    Val low = constantLike(rounded, static_cast<double>(scheme.getLo()));
    Val high = constantLike(rounded, static_cast<double>(scheme.getHi()));
    Val code = b.toInteger(b.max(b.min(rounded, high), low), b.i32());
    chunk.store(b, codes, b.truncate(code, b.i8()));
  });
}

FailureOr<KernelInfo>
mlir::qlm::cpu::emitDynamicQuantize(DynamicQuantizeOp op,
                                    const KernelRequest &request) {
  int64_t features = op.getInput().getType().getDimSize(1);

  KernelFrame frame(request.function, /*count=*/3);
  KernelBuilder &b = frame.builder();
  RowRounding rounding(b, op.getScheme(), features, request.target.lanes());
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val row) {
    Ptr input = frame.buffer(0).readOnly().element(b.f32(), row * features);
    auto values = [&](const Chunk &chunk) {
      return chunk.load(b, input, b.f32());
    };
    rounding.store(rounding.getMagnitude(values), values,
                   frame.buffer(1).element(b.i8(), row * features),
                   frame.buffer(2).element(b.f32(), row));
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  info.flopsPerRow = 2 * features;
  return info;
}
