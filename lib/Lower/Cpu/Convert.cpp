//===- Convert.cpp - Emits qlm.convert of activations ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32, f16 or bf16 [rows, features], result the same shape.
// Tiles:   one a row.
//
// Tested by test/Lower/Cpu/RowKernelsTest.cpp.
//
//===----------------------------------------------------------------------===//

#include "Chunks.h"
#include "Emitters.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

FailureOr<KernelInfo>
mlir::qlm::cpu::emitConvert(ConvertOp op, const KernelRequest &request) {
  auto type = cast<RankedTensorType>(op.getType());
  if (type.getRank() != 2)
    return op.emitOpError("has a kernel for matrices only, got rank ")
           << type.getRank();
  int64_t features = type.getDimSize(1);
  Type from = op.getInput().getType().getElementType();
  Type to = type.getElementType();

  KernelFrame frame(request.function, /*count=*/2);
  KernelBuilder &b = frame.builder();
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val row) {
    Ptr input = frame.buffer(0).readOnly().element(from, row * features);
    Ptr result = frame.buffer(1).element(to, row * features);
    forChunks(b, features, request.target.lanes(), [&](const Chunk &chunk) {
      chunk.store(b, result, b.fromF32(chunk.load(b, input, from), to));
    });
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  info.flopsPerRow = features;
  return info;
}
