//===- Emitters.h - One function for each operation's kernels ---*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A *choice* is a kernel that serves steps of up to some number of rows. The
// chooser of an operation (choose... below; Choose.cpp calls it) lists its
// choices for a chip in the order of preference, the last one without a limit;
// each emits its kernel when it is asked to. Names, sharing and symbols are
// Emit.cpp's.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_EMITTERS_H
#define QLM_LIB_LOWER_CUDA_EMITTERS_H

#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Lower/Kernel/GpuFrame.h"

#include <functional>
#include <string>

namespace mlir::qlm::cuda {

/// What choosers and emitters are given.
struct CudaRequest {
  const Target &target;
  /// The size of the step that counts the operation's rows.
  SizeKind rows;
  const StepLimits &limits;
  const KernelOptions &options;
  MLIRContext *context;

  // Set for emitters only.
  gpu::GPUModuleOp kernels;
  std::string name;
  /// Buffers without the sizes: operands, results, workspace.
  int64_t buffers = 0;
  /// Index of the workspace among the buffers; -1 where there is none.
  int64_t workspace = -1;

  /// Makes the kernel, of \p threads threads a block.
  LLVM::LLVMFuncOp createKernel(int64_t threads) const {
    return kernel::createGpuKernel(kernels, name, buffers, threads);
  }
  /// The largest number of rows the operation can have.
  int64_t maxRows() const {
    return rows == SizeKind::LogitRows ? limits.logitRows : limits.tokens;
  }
  /// `count` blocks for each `block` rows.
  TilesAttr blocksPerRow(int64_t count, int64_t block = 1) const {
    return TilesAttr::get(context, count, rows, block);
  }
  /// `count` blocks for a step of any size.
  TilesAttr blocksPerStep(int64_t count) const {
    return TilesAttr::get(context, count, SizeKind::One, /*block=*/1);
  }
};

/// How an emitted kernel is launched.
struct CudaKernel {
  TilesAttr grid;
  TilesAttr gridY;
  int64_t blockThreads = 0;
  /// Dynamic shared memory.
  int64_t sharedBytes = 0;
  int64_t cluster = 1;
  /// Whether each thread that touches memory has called waitForPrevious, so
  /// that the launch may be a dependent one.
  bool dependent = true;
};

/// One way to run an operation.
struct Choice {
  /// What the kernel's name says besides the operation, e.g. "gemv8".
  std::string suffix;
  std::function<FailureOr<CudaKernel>(const CudaRequest &)> emit;
  /// Most rows of a step that it serves; 0 for any number.
  int64_t maxRows = 0;
  /// Whether it serves only steps in which each sequence has one row.
  bool decodeOnly = false;
  /// Scratch in the workspace, behind its zeros; -1 for no workspace.
  int64_t scratchBytes = -1;
  /// Of a linear: the operations of its group that the kernel runs besides.
  SmallVector<Operation *, 2> folded = {};
};
using Choices = SmallVector<Choice>;

/// The choices of \p op, or none where no kernel serves it.
Choices chooseKernels(Operation *op, const CudaRequest &request);

// Choosers of operations with more than one kernel.
Choices choosePackedLinear(PackedLinearOp op, const CudaRequest &request);
Choices choosePagedAttention(PagedAttentionOp op, const CudaRequest &request);

// Emitters: fail with a diagnostic on `op` when they don't serve it.
FailureOr<CudaKernel> emitEmbedding(EmbeddingOp op, const CudaRequest &request);
FailureOr<CudaKernel> emitRmsNorm(RmsNormOp op, const CudaRequest &request);
FailureOr<CudaKernel> emitRopeAppend(RopeAppendOp op,
                                     const CudaRequest &request);
FailureOr<CudaKernel> emitSwiglu(SwigluOp op, const CudaRequest &request);
FailureOr<CudaKernel> emitDynamicQuantize(DynamicQuantizeOp op,
                                          const CudaRequest &request);
FailureOr<CudaKernel> emitRmsNormQuantize(RmsNormQuantizeOp op,
                                          const CudaRequest &request);
FailureOr<CudaKernel> emitSwigluQuantize(SwigluQuantizeOp op,
                                         const CudaRequest &request);
FailureOr<CudaKernel> emitConvert(ConvertOp op, const CudaRequest &request);
FailureOr<CudaKernel> emitSelectRows(SelectRowsOp op,
                                     const CudaRequest &request);
/// Left out of steps: executors show the rows to an observer, or start it with
/// the observer's buffers.
FailureOr<CudaKernel> emitObserve(ObserveOp op, const CudaRequest &request);
/// Any layout, any shape: one warp for 16 output features, up to 8 rows.
FailureOr<CudaKernel> emitPlainLinear(PackedLinearOp op,
                                      const CudaRequest &request);
/// Any cache: one warp for a token's head.
FailureOr<CudaKernel> emitPlainAttention(PagedAttentionOp op,
                                         const CudaRequest &request);

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_EMITTERS_H
