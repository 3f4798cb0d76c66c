//===- Norms.cpp - Emits qlm.rms_norm and qlm.rms_norm_quantize -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// rms_norm:          input f32 [rows, features], weight [features],
//                    result [rows, features].
// rms_norm_quantize: input f32, weight, rows i32 [logitRows] if any,
//                    codes i8 [rows, features], scales f32 [rows].
// A block normalizes one row. Of rows of up to 4 vectors a thread the row and
// the weights stay in registers; of longer ones they are read again (from the
// first-level cache).
//
//===----------------------------------------------------------------------===//

#include "Rows.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// The norm of row \p row; input and weights are the kernel's first two
/// buffers.
static HeldRow emitNorm(GpuKernelFrame &frame, const RowSplit &split,
                        const HeldRow &weights, Value input, Val row,
                        double epsilon) {
  Type type = getElement(input);
  Ptr from =
      RowSplit::row(frame, frame.buffer(0), type, row, split.getFeatures());
  HeldRow x(frame, split, [&frame, split, from, type](Val first) {
    return split.load(frame, from, type, first);
  });
  Val factor = frame.builder().broadcast(
      emitNormFactor(frame, split, x, epsilon), split.getLanes());
  return weights.zip(x, [factor](Val w, Val x) { return w * (x * factor); });
}

/// The norm's weights: on their way before the kernel waits for others.
static HeldRow loadWeights(GpuKernelFrame &frame, const RowSplit &split,
                           Value weight) {
  Type type = getElement(weight);
  return HeldRow(frame, split, [&frame, split, type](Val first) {
    return split.load(frame, frame.buffer(1).readOnly(), type, first);
  });
}

FailureOr<CudaKernel> mlir::qlm::cuda::emitRmsNorm(RmsNormOp op,
                                                   const CudaRequest &request) {
  RowSplit split(getFeatures(op.getInput()));
  GpuKernelFrame frame(request.createKernel(split.threads(512)));
  Type element = getElement(op.getResult());
  HeldRow weights = loadWeights(frame, split, op.getWeight());
  forBlockRow(frame, request.rows, [&](Val row) {
    HeldRow norm = emitNorm(frame, split, weights, op.getInput(), row,
                            op.getEpsilon().convertToFloat());
    Ptr result = RowSplit::row(frame, frame.buffer(2), element, row,
                               split.getFeatures());
    norm.forEach([&](Val first, Val value) {
      split.store(frame, result, element, first, value);
    });
  });
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(1);
  kernel.blockThreads = frame.threads();
  return kernel;
}

FailureOr<CudaKernel>
mlir::qlm::cuda::emitRmsNormQuantize(RmsNormQuantizeOp op,
                                     const CudaRequest &request) {
  RowSplit split(getFeatures(op.getInput()));
  GpuKernelFrame frame(request.createKernel(split.threads(512)));
  KernelBuilder &b = frame.builder();
  int64_t codes = op.getRows() ? 3 : 2;
  HeldRow weights = loadWeights(frame, split, op.getWeight());
  forBlockRow(frame, request.rows, [&](Val row) {
    Val source = row;
    if (op.getRows())
      source = frame.buffer(2).element(b.i32(), row).load(b.i32());
    HeldRow norm = emitNorm(frame, split, weights, op.getInput(), source,
                            op.getEpsilon().convertToFloat());
    emitRowCodes(frame, split, op.getScheme(), op.getThreshold(), norm,
                 RowPlaces::get(frame, codes, row, split.getFeatures(),
                                op.getThreshold()));
  });
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(1);
  kernel.blockThreads = frame.threads();
  return kernel;
}
