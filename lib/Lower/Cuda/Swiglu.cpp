//===- Swiglu.cpp - Emits qlm.swiglu and the roundings of rows ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// swiglu:           input [rows, 2 * features] (gate, then up),
//                   result [rows, features]. A block gates kBlock features.
// swiglu_quantize:  the same input, codes i8 [rows, features],
//                   scales f32 [rows]. A block rounds one row.
// dynamic_quantize: input [rows, features], codes, scales. The same.
//
//===----------------------------------------------------------------------===//

#include "Rows.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Features of a block of swiglu: one vector of four a thread.
static constexpr int64_t kBlock = 1024;

FailureOr<CudaKernel> mlir::qlm::cuda::emitSwiglu(SwigluOp op,
                                                  const CudaRequest &request) {
  int64_t features = getFeatures(op.getResult());
  RowSplit split(features);
  Type from = getElement(op.getInput()), to = getElement(op.getResult());
  GpuKernelFrame frame(request.createKernel(kBlock / split.getLanes()));
  KernelBuilder &b = frame.builder();
  Val row = frame.blockY(), count = frame.size(request.rows);
  frame.waitForPrevious();
  frame.launchDependents();
  Val first = frame.block() * kBlock + frame.thread() * split.getLanes();
  b.ifThen(row < count, [&] {
    Ptr gate = RowSplit::row(frame, frame.buffer(0), from, row, 2 * features);
    Ptr up = gate.at(features * from.getIntOrFloatBitWidth() / 8);
    Ptr result = RowSplit::row(frame, frame.buffer(1), to, row, features);
    b.ifThen(first < features, [&] {
      Val gated = emitGate(frame, split.load(frame, gate, from, first),
                           split.load(frame, up, from, first));
      split.store(frame, result, to, first, gated);
    });
  });
  CudaKernel kernel;
  kernel.grid = request.blocksPerStep(llvm::divideCeil(features, kBlock));
  kernel.gridY = request.blocksPerRow(1);
  kernel.blockThreads = frame.threads();
  return kernel;
}

FailureOr<CudaKernel>
mlir::qlm::cuda::emitSwigluQuantize(SwigluQuantizeOp op,
                                    const CudaRequest &request) {
  int64_t features = getFeatures(op.getCodes());
  RowSplit split(features);
  Type from = getElement(op.getInput());
  GpuKernelFrame frame(request.createKernel(split.threads(1024)));
  forBlockRow(frame, request.rows, [&](Val row) {
    Ptr gate = RowSplit::row(frame, frame.buffer(0), from, row, 2 * features);
    Ptr up = gate.at(features * from.getIntOrFloatBitWidth() / 8);
    HeldRow values(frame, split, [&](Val first) {
      return emitGate(frame, split.load(frame, gate, from, first),
                      split.load(frame, up, from, first));
    });
    emitRowCodes(frame, split, op.getScheme(), op.getThreshold(), values,
                 RowPlaces::get(frame, 1, row, features, op.getThreshold()));
  });
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(1);
  kernel.blockThreads = frame.threads();
  return kernel;
}

FailureOr<CudaKernel>
mlir::qlm::cuda::emitDynamicQuantize(DynamicQuantizeOp op,
                                     const CudaRequest &request) {
  int64_t features = getFeatures(op.getInput());
  RowSplit split(features);
  Type from = getElement(op.getInput());
  GpuKernelFrame frame(request.createKernel(split.threads(512)));
  forBlockRow(frame, request.rows, [&](Val row) {
    Ptr input = RowSplit::row(frame, frame.buffer(0), from, row, features);
    HeldRow values(frame, split, [&](Val first) {
      return split.load(frame, input, from, first);
    });
    emitRowCodes(frame, split, op.getScheme(), op.getThreshold(), values,
                 RowPlaces::get(frame, 1, row, features, op.getThreshold()));
  });
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(1);
  kernel.blockThreads = frame.threads();
  return kernel;
}
