//===- StaticQuantize.cpp - Emits qlm.static_quantize ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32 [rows, features], scale f32 [1],
//          codes i8 [rows, features], scales f32 [rows].
// Formula: codes = clamp(round(input / scale), -127, 127), scales = scale.
// Tiles:   one a row. One pass, since no row has to be looked at first.
// Tested:  test/python/test_definitions_quantized.py, against the definition.
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "RowFormulas.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

FailureOr<KernelInfo>
mlir::qlm::cpu::emitStaticQuantize(StaticQuantizeOp op,
                                   const KernelRequest &request) {
  int64_t features = op.getInput().getType().getDimSize(1);
  int64_t lanes = request.target.lanes();

  KernelFrame frame(request.function, /*count=*/4);
  KernelBuilder &b = frame.builder();
  Val scale = frame.buffer(1).readOnly().load(b.f32());
  Val divisor = b.broadcast(scale, lanes);
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val row) {
    Ptr input = frame.buffer(0).readOnly().element(b.f32(), row * features);
    Ptr codes = frame.buffer(2).element(b.i8(), row * features);
    frame.buffer(3).element(b.f32(), row).store(scale);
    forChunks(b, features, lanes, [&](const Chunk &chunk) {
      Val rounded = b.roundEven(chunk.load(b, input, b.f32()) / divisor);
      Val low = constantLike(rounded, -127.0);
      Val high = constantLike(rounded, 127.0);
      Val code = b.toInteger(b.max(b.min(rounded, high), low), b.i32());
      chunk.store(b, codes, b.truncate(code, b.i8()));
    });
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  info.flopsPerRow = 2 * features;
  return info;
}
