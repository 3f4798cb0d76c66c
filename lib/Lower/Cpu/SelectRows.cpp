//===- SelectRows.cpp - Emits qlm.select_rows -----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32 [tokens, features], rows i32 [logitRows],
//          result f32 [logitRows, features].
// Tiles:   one a wanted row.
//
//===----------------------------------------------------------------------===//

#include "Chunks.h"
#include "Emitters.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

FailureOr<KernelInfo>
mlir::qlm::cpu::emitSelectRows(SelectRowsOp op, const KernelRequest &request) {
  int64_t features = op.getInput().getType().getDimSize(1);

  KernelFrame frame(request.function, /*count=*/3);
  KernelBuilder &b = frame.builder();
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val wanted) {
    Val row = b.extendSigned(
        frame.buffer(1).element(b.i32(), wanted).load(b.i32()), b.i64());
    Ptr input = frame.buffer(0).readOnly().element(b.f32(), row * features);
    Ptr result = frame.buffer(2).element(b.f32(), wanted * features);
    forChunks(b, features, request.target.lanes(), [&](const Chunk &chunk) {
      chunk.store(b, result, chunk.load(b, input, b.f32()));
    });
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  return info;
}
