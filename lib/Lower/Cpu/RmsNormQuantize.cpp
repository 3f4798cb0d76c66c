//===- RmsNormQuantize.cpp - Emits qlm.rms_norm_quantize ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32 [tokens, features], weight f32/f16/bf16 [features],
//          rows i32 [logitRows] if the operation has them,
//          codes i8 [rows, features], scales f32 [rows], with a threshold
//          outliers f32 [rows, 1 + 2 * features].
// Tiles:   one a row: the sum of squares never depends on other rows.
//
// Three times over the row, which stays in the first-level cache: squares,
// magnitude, codes. Normalizing twice (two products an element) costs less
// than storing the normalized row and loading it again.
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "RowFormulas.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

FailureOr<KernelInfo>
mlir::qlm::cpu::emitRmsNormQuantize(RmsNormQuantizeOp op,
                                    const KernelRequest &request) {
  auto weightType = cast<RankedTensorType>(op.getWeight().getType());
  int64_t features = weightType.getDimSize(0);
  int64_t lanes = request.target.lanes();
  double epsilon = op.getEpsilon().convertToDouble();
  int64_t codes = op.getRows() ? 3 : 2;

  KernelFrame frame(request.function, /*count=*/codes + op->getNumResults());
  KernelBuilder &b = frame.builder();
  Ptr weight = frame.buffer(1).readOnly();
  RowRounding rounding(b, op.getScheme(), op.getThreshold(), features, lanes);
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val row) {
    Val source = row;
    if (op.getRows())
      source = b.extendSigned(
          frame.buffer(2).element(b.i32(), row).load(b.i32()), b.i64());
    Ptr input = frame.buffer(0).readOnly().element(b.f32(), source * features);
    RowNorm norm(b, input, weight, weightType, epsilon, lanes);
    auto values = [&](const Chunk &chunk) { return norm.getChunk(chunk); };
    rounding.store(rounding.getMagnitude(values), values,
                   rounding.getPlaces(frame, codes, row));
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  info.bytes = features * weightType.getElementTypeBitWidth() / 8;
  info.flopsPerRow = 6 * features;
  return info;
}
