//===- Embedding.cpp - Emits qlm.embedding --------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: tokens i32 [tokens], table f32/f16/bf16 [vocabulary, features],
//          result f32 [tokens, features].
// Tiles:   one a token.
//
//===----------------------------------------------------------------------===//

#include "Chunks.h"
#include "Emitters.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

FailureOr<KernelInfo>
mlir::qlm::cpu::emitEmbedding(EmbeddingOp op, const KernelRequest &request) {
  auto table = cast<RankedTensorType>(op.getTable().getType());
  Type element = table.getElementType();
  int64_t features = table.getDimSize(1);
  int64_t rowBytes = features * table.getElementTypeBitWidth() / 8;

  KernelFrame frame(request.function, /*count=*/3);
  KernelBuilder &b = frame.builder();
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val token) {
    Val id = b.extendSigned(
        frame.buffer(0).element(b.i32(), token).load(b.i32()), b.i64());
    Ptr row = frame.buffer(1).readOnly().at(id * rowBytes);
    Ptr result = frame.buffer(2).element(b.f32(), token * features);
    forChunks(b, features, request.target.lanes(), [&](const Chunk &chunk) {
      chunk.store(b, result, chunk.load(b, row, element));
    });
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  info.bytes = rowBytes;
  return info;
}
