//===- Kernels.h - Kernels that the CUDA target emits -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// An operation of the step has one kernel or several, for different sizes of
// the step. Arguments of a kernel are the operation's operands in order
// (absent optional ones left out), then its results in order (an updated cache
// left out: it is written in place), then the workspace, if some kernel of the
// operation wants one, then the step's sizes. All are addresses of global
// memory, 256-byte aligned.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_CUDA_KERNELS_H
#define QLM_LOWER_CUDA_KERNELS_H

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Lower/Cuda/Target.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::qlm::cuda {

/// Largest sizes of a step, from the plan.
struct StepLimits {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t logitRows = 0;
};

/// What the user may ask of the kernels.
struct KernelOptions {
  /// Whether the order of a sum may not depend on what else is in the step.
  bool batchInvariant = false;
};

/// The workspace of a launch begins with this many bytes of counters, which
/// are zero before each launch and after it; Workspace.h says what lies behind
/// them.
inline constexpr int64_t kCounterBytes = 64 * 1024;

struct CudaKernel;
struct CudaRequest;

/// The function whose launches choose a step's tokens.
inline constexpr llvm::StringLiteral kSampleName = "sample";

/// Emits the kernels of one step for one chip.
class KernelEmitter {
public:
  KernelEmitter(gpu::GPUModuleOp kernels, Target target, StepLimits limits,
                KernelOptions options)
      : kernels(kernels), target(std::move(target)), limits(limits),
        options(options) {}

  /// Bytes of workspace that the kernels of \p op want; 0 for none.
  int64_t getWorkspaceBytes(Operation *op, SizeKind rows) const;
  /// Emits the kernels of \p op, or finds those that an equal operation made
  /// before. \p rows says which size of the step counts the rows of the
  /// operation. With \p workspace kernels have that argument, whether they use
  /// it or not. Fails with a diagnostic on an operation that no kernel serves.
  FailureOr<SmallVector<VariantAttr>> emit(Operation *op, SizeKind rows,
                                           bool workspace);
  /// Emits the kernel that chooses the tokens of a step by its logits, of
  /// \p vocabulary tokens: its buffers are logits, requests,
  /// results and the next step's tokens.
  VariantAttr emitSampling(int64_t vocabulary);

private:
  VariantAttr makeVariant(const CudaRequest &request, const CudaKernel &kernel,
                          int64_t maxRows, bool decodeOnly);

  gpu::GPUModuleOp kernels;
  Target target;
  StepLimits limits;
  KernelOptions options;
  llvm::StringMap<SmallVector<VariantAttr>> made;
};

/// Multiply-adds times two of one row of \p op, and bytes of weights that a
/// launch of it reads.
struct LaunchCost {
  int64_t flopsPerRow = 0;
  int64_t bytes = 0;

  static LaunchCost get(Operation *op);
};

} // namespace mlir::qlm::cuda

#endif // QLM_LOWER_CUDA_KERNELS_H
