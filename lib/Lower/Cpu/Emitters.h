//===- Emitters.h - One function for each operation's kernel ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// `emitKernel` (Emit.cpp) makes an empty kernel and calls the emitter of the
// operation, which writes the body. Emitters differ only in what they write;
// names, sharing and symbols are Emit.cpp's.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_EMITTERS_H
#define QLM_LIB_LOWER_CPU_EMITTERS_H

#include "qlm/Dialect/MethodOps.h"
#include "qlm/Lower/Cpu/Kernels.h"

namespace mlir::qlm::cpu {

struct LinearHooks;

/// What an emitter is given.
struct KernelRequest {
  /// `(buffers: !llvm.ptr, sizes: !llvm.ptr, lo: i64, hi: i64,
  /// scratch: !llvm.ptr)` with an entry block that holds only its
  /// `func.return`; the body goes before that.
  func::FuncOp function;
  const Target &target;
  /// The size of the step that counts the operation's rows.
  SizeKind rows;
  const StepLimits &limits;
  /// What a graph adds to a linear, or null.
  const LinearHooks *hooks = nullptr;

  MLIRContext *getContext() const {
    return func::FuncOp(function)->getContext();
  }
  /// The largest number of rows the operation can have.
  int64_t maxRows() const {
    return rows == SizeKind::LogitRows ? limits.logitRows : limits.tokens;
  }
  /// `count` tiles for each row.
  TilesAttr tilesPerRow(int64_t count) const {
    return TilesAttr::get(getContext(), count, rows, /*block=*/1);
  }
  /// `count` tiles for a step of any size.
  TilesAttr tilesPerStep(int64_t count) const {
    return TilesAttr::get(getContext(), count, SizeKind::One,
                          /*block=*/1);
  }
};

// Each fills every member of the result but the name; fails with a diagnostic
// on `op` when no kernel serves it.
FailureOr<KernelInfo> emitEmbedding(EmbeddingOp op,
                                    const KernelRequest &request);
FailureOr<KernelInfo> emitRmsNorm(RmsNormOp op, const KernelRequest &request);
FailureOr<KernelInfo> emitRopeAppend(RopeAppendOp op,
                                     const KernelRequest &request);
FailureOr<KernelInfo> emitPagedAttention(PagedAttentionOp op,
                                         const KernelRequest &request);
FailureOr<KernelInfo> emitSwiglu(SwigluOp op, const KernelRequest &request);
FailureOr<KernelInfo> emitConvert(ConvertOp op, const KernelRequest &request);
FailureOr<KernelInfo> emitDynamicQuantize(DynamicQuantizeOp op,
                                          const KernelRequest &request);
FailureOr<KernelInfo> emitStaticQuantize(StaticQuantizeOp op,
                                         const KernelRequest &request);
FailureOr<KernelInfo> emitRmsNormQuantize(RmsNormQuantizeOp op,
                                          const KernelRequest &request);
FailureOr<KernelInfo> emitSwigluQuantize(SwigluQuantizeOp op,
                                         const KernelRequest &request);
FailureOr<KernelInfo> emitSelectRows(SelectRowsOp op,
                                     const KernelRequest &request);
FailureOr<KernelInfo> emitObserve(ObserveOp op, const KernelRequest &request);
FailureOr<KernelInfo> emitPackedLinear(PackedLinearOp op,
                                       const KernelRequest &request);

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_EMITTERS_H
