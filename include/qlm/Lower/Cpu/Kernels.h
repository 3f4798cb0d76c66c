//===- Kernels.h - Kernels that the CPU target emits ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// An emitter builds one kernel, as MLIR, for exactly one operation's shapes,
// scheme and target. Buffers of a kernel are the operation's operands in
// order (absent optional ones left out), then its results in order (an
// updated cache left out: it is written in place). The kernel's signature is
// ::qlm::format::KernelFunction.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_CPU_KERNELS_H
#define QLM_LOWER_CPU_KERNELS_H

#include "qlm/Dialect/Qlm.h"
#include "qlm/Lower/Cpu/Target.h"

namespace mlir::qlm::cpu {

/// Largest sizes of a step, from the plan.
struct StepLimits {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t logitRows = 0;
};

/// What the launch of an emitted kernel must say.
struct KernelInfo {
  /// Name of the function in the kernel module.
  std::string name;
  /// How many tiles a launch has.
  TilesAttr tiles;
  /// Bytes of private scratch of each thread, for the largest step.
  int64_t scratchBytes = 0;
  /// Weight bytes read by a launch.
  int64_t bytes = 0;
  /// Multiply-adds times two of one row (token).
  int64_t flopsPerRow = 0;
};

/// Attribute of a `qlm.packed_linear`: a dictionary of choices that stand in
/// for the cost model's (docs/performance.md), as `quantc --tune` finds them.
/// None of them changes a result's bits.
inline constexpr llvm::StringLiteral kTuningAttr = "qlm.tuning";

/// The choices. Zero leaves one to the cost model.
struct LinearTuning {
  /// `tile_blocks`: blocks of 16 features that a tile has.
  int64_t tileBlocks = 0;
  /// `prefetch_bytes`: how far ahead weights are fetched in each stream.
  int64_t prefetchBytes = 0;
  /// `one_row_strips`: vectors of features that one row computes together.
  int64_t oneRowStrips = 0;
  /// `amx_rows`: fewest rows of int8 activations that AMX multiplies.
  int64_t amxRows = 0;
  /// `result_stores`: 1 lets results of many rows pass the caches, 2 keeps
  /// them there for who reads them next.
  int64_t resultStores = 0;
  static constexpr int64_t kCachedStores = 2;
  /// `chunk_columns`: columns of int4 that few rows unpack for AMX at once.
  int64_t chunkColumns = 0;

  /// `one_patch`: 1 multiplies all numbers of rows by AMX in one way, which
  /// takes a fifth of the code.
  int64_t onePatch = 0;

  /// Reads the attribute of \p op, if it has one; fails with a diagnostic.
  static FailureOr<LinearTuning> get(Operation *op);
};

/// Emits the kernel of \p op into \p kernels (a module), or finds the one that
/// an equal operation made before. \p rows says which size of the step counts
/// the rows of the operation (tokens, or logit_rows after select_rows). Fails
/// with a diagnostic on an operation that no kernel serves.
FailureOr<KernelInfo> emitKernel(ModuleOp kernels, Operation *op,
                                 const Target &target, SizeKind rows,
                                 const StepLimits &limits);

} // namespace mlir::qlm::cpu

#endif // QLM_LOWER_CPU_KERNELS_H
