//===- RmsNorm.cpp - Emits qlm.rms_norm -----------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32 [rows, features], weight f32/f16/bf16 [features],
//          result f32 [rows, features].
// Tiles:   one a row: the sum of squares never depends on other rows.
//
// The root and the division are exact (no reciprocal approximation): logits
// must agree with the reference to 1e-5.
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "RowFormulas.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

RowNorm::RowNorm(KernelBuilder &b, Ptr input, Ptr weight,
                 RankedTensorType weightType, double epsilon, int64_t lanes)
    : b(b), input(input), weight(weight),
      weightElement(weightType.getElementType()) {
  int64_t features = weightType.getDimSize(0);
  Val squares = foldChunks(
      b, features, b.zero(b.vec(lanes, b.f32())),
      [&](Val sum, const Chunk &chunk) {
        Val x = chunk.fill(b, chunk.load(b, input, b.f32()), 0.0);
        return b.fma(x, x, sum);
      },
      [](Val sum, Val other) { return sum + other; });
  Val mean = b.reduceSum(squares) / static_cast<double>(features);
  factor = b.broadcast(1.0 / b.sqrt(mean + epsilon), lanes);
}

Val RowNorm::getChunk(const Chunk &chunk) const {
  Val x = chunk.load(b, input, b.f32());
  Val w = chunk.load(b, weight, weightElement);
  return w * (x * factor);
}

FailureOr<KernelInfo>
mlir::qlm::cpu::emitRmsNorm(RmsNormOp op, const KernelRequest &request) {
  auto weightType = cast<RankedTensorType>(op.getWeight().getType());
  int64_t features = weightType.getDimSize(0);
  int64_t lanes = request.target.lanes();
  double epsilon = op.getEpsilon().convertToDouble();

  KernelFrame frame(request.function, /*count=*/3);
  KernelBuilder &b = frame.builder();
  Ptr weight = frame.buffer(1).readOnly();
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val row) {
    Ptr input = frame.buffer(0).readOnly().element(b.f32(), row * features);
    Ptr result = frame.buffer(2).element(b.f32(), row * features);
    RowNorm norm(b, input, weight, weightType, epsilon, lanes);
    forChunks(b, features, lanes, [&](const Chunk &chunk) {
      chunk.store(b, result, norm.getChunk(chunk));
    });
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  info.bytes = features * weightType.getElementTypeBitWidth() / 8;
  info.flopsPerRow = 4 * features;
  return info;
}
