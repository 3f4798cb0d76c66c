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
// A block normalizes one row: squares are summed, then the row is read again
// (from the first-level cache) and scaled.
//
//===----------------------------------------------------------------------===//

#include "Rows.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

namespace {
/// A norm's operands in a kernel whose first two buffers are they.
class BlockNorm {
public:
  BlockNorm(GpuKernelFrame &frame, const RowSplit &split, Value input,
            Value weight, Val row, double epsilon)
      : frame(frame), split(split), inputType(getElement(input)),
        weightType(getElement(weight)),
        input(RowSplit::row(frame, frame.buffer(0), inputType, row,
                            split.getFeatures())) {
    factor = frame.builder().broadcast(
        emitNormFactor(
            frame, split, [&](Val first) { return load(first); }, epsilon),
        split.getLanes());
  }

  /// The normalized vector at \p first.
  Val get(Val first) const {
    Val w = split.load(frame, frame.buffer(1).readOnly(), weightType, first);
    return w * (load(first) * factor);
  }

private:
  Val load(Val first) const {
    return split.load(frame, input, inputType, first);
  }

  GpuKernelFrame &frame;
  const RowSplit &split;
  Type inputType, weightType;
  Ptr input;
  Val factor;
};
} // namespace

FailureOr<CudaKernel> mlir::qlm::cuda::emitRmsNorm(RmsNormOp op,
                                                   const CudaRequest &request) {
  RowSplit split(getFeatures(op.getInput()));
  GpuKernelFrame frame(request.createKernel(split.threads(512)));
  Type element = getElement(op.getResult());
  forBlockRow(frame, request.rows, [&](Val row) {
    BlockNorm norm(frame, split, op.getInput(), op.getWeight(), row,
                   op.getEpsilon().convertToFloat());
    Ptr result = RowSplit::row(frame, frame.buffer(2), element, row,
                               split.getFeatures());
    split.forEach(frame, [&](Val first) {
      split.store(frame, result, element, first, norm.get(first));
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
  forBlockRow(frame, request.rows, [&](Val row) {
    Val source = row;
    if (op.getRows())
      source = frame.buffer(2).element(b.i32(), row).load(b.i32());
    BlockNorm norm(frame, split, op.getInput(), op.getWeight(), source,
                   op.getEpsilon().convertToFloat());
    emitRowCodes(
        frame, split, op.getScheme(), op.getThreshold(),
        [&](Val first) { return norm.get(first); },
        RowPlaces::get(frame, codes, row, split.getFeatures(),
                       op.getThreshold()));
  });
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(1);
  kernel.blockThreads = frame.threads();
  return kernel;
}
