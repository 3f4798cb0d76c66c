//===- Choose.cpp - Which kernels serve an operation ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;

/// One kernel for all sizes.
template <typename Op>
static Choices
chooseOne(Op op, FailureOr<CudaKernel> (*emit)(Op, const CudaRequest &)) {
  return {{"", [=](const CudaRequest &request) { return emit(op, request); }}};
}

Choices mlir::qlm::cuda::chooseKernels(Operation *op,
                                       const CudaRequest &request) {
  return llvm::TypeSwitch<Operation *, Choices>(op)
      .Case([&](EmbeddingOp op) { return chooseOne(op, emitEmbedding); })
      .Case([&](RmsNormOp op) { return chooseOne(op, emitRmsNorm); })
      .Case([&](RopeAppendOp op) { return chooseOne(op, emitRopeAppend); })
      .Case([&](SwigluOp op) { return chooseOne(op, emitSwiglu); })
      .Case([&](ConvertOp op) { return chooseOne(op, emitConvert); })
      .Case([&](DynamicQuantizeOp op) {
        return chooseOne(op, emitDynamicQuantize);
      })
      .Case([&](RmsNormQuantizeOp op) {
        return chooseOne(op, emitRmsNormQuantize);
      })
      .Case([&](SwigluQuantizeOp op) {
        return chooseOne(op, emitSwigluQuantize);
      })
      .Case([&](SelectRowsOp op) { return chooseOne(op, emitSelectRows); })
      .Case([&](ObserveOp op) { return chooseOne(op, emitObserve); })
      .Case([&](PackedLinearOp op) { return choosePackedLinear(op, request); })
      .Case([&](PagedAttentionOp op) {
        return choosePagedAttention(op, request);
      })
      .Default([](Operation *) { return Choices(); });
}
