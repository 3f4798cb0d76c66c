//===- Gathers.cpp - Emits what copies rows: embedding, select, convert ---===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// embedding:   tokens i32 [tokens], table f32/f16/bf16 [vocabulary, features],
//              result [tokens, features].
// select_rows: input [tokens, features], rows i32 [logitRows],
//              result [logitRows, features].
// convert:     input [rows, features], result [rows, features].
// A block copies one row, rounding it to the result's type: result[r, :] =
// source[numbers[r], :], of convert source[r, :].
//
//===----------------------------------------------------------------------===//

#include "Rows.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Copies rows of \p source, a buffer like \p numbers, into the third buffer.
static CudaKernel emitGather(const CudaRequest &request, int64_t numbers,
                             int64_t source, Type from, Type to,
                             int64_t features) {
  RowSplit split(features);
  GpuKernelFrame frame(request.createKernel(split.threads()));
  KernelBuilder &b = frame.builder();
  forBlockRow(frame, request.rows, [&](Val row) {
    Val number = frame.buffer(numbers).element(b.i32(), row).load(b.i32());
    Ptr input =
        RowSplit::row(frame, frame.buffer(source), from, number, features);
    Ptr result = RowSplit::row(frame, frame.buffer(2), to, row, features);
    split.forEach(frame, [&](Val first) {
      split.store(frame, result, to, first,
                  split.load(frame, input, from, first));
    });
  });
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(1);
  kernel.blockThreads = frame.threads();
  return kernel;
}

FailureOr<CudaKernel>
mlir::qlm::cuda::emitEmbedding(EmbeddingOp op, const CudaRequest &request) {
  return emitGather(request, /*numbers=*/0, /*source=*/1,
                    getElement(op.getTable()), getElement(op.getResult()),
                    getFeatures(op.getTable()));
}

FailureOr<CudaKernel>
mlir::qlm::cuda::emitSelectRows(SelectRowsOp op, const CudaRequest &request) {
  return emitGather(request, /*numbers=*/1, /*source=*/0,
                    getElement(op.getInput()), getElement(op.getResult()),
                    getFeatures(op.getInput()));
}

FailureOr<CudaKernel> mlir::qlm::cuda::emitConvert(ConvertOp op,
                                                   const CudaRequest &request) {
  RowSplit split(getFeatures(op.getResult()));
  Type from = getElement(op->getOperand(0)), to = getElement(op.getResult());
  GpuKernelFrame frame(request.createKernel(split.threads()));
  forBlockRow(frame, request.rows, [&](Val row) {
    Ptr input =
        RowSplit::row(frame, frame.buffer(0), from, row, split.getFeatures());
    Ptr result =
        RowSplit::row(frame, frame.buffer(1), to, row, split.getFeatures());
    split.forEach(frame, [&](Val first) {
      split.store(frame, result, to, first,
                  split.load(frame, input, from, first));
    });
  });
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(1);
  kernel.blockThreads = frame.threads();
  return kernel;
}
