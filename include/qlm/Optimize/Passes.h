//===- Passes.h - Passes and options of the Optimize stage ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Optimize rewrites float IR to float IR: each attention and gated MLP becomes
// one operation however the graph spelled it, and projections of one input
// become one linear. See docs/design/2026-11-23-ir-contracts.md, "After
// Optimize".
//
//===----------------------------------------------------------------------===//

#ifndef QLM_OPTIMIZE_PASSES_H
#define QLM_OPTIMIZE_PASSES_H

#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassOptions.h"
#include "qlm/Dialect/Onnx.h"
#include "qlm/Dialect/Qlm.h"

namespace mlir {
class OpPassManager;
} // namespace mlir

namespace mlir::qlm {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "qlm/Optimize/Passes.h.inc"

/// Options of the Optimize stage.
struct OptimizeOptions : public PassPipelineOptions<OptimizeOptions> {
  Option<bool> mergeLinears{
      *this, "merge-linears",
      llvm::cl::desc("Join q, k, v and gate, up into one linear each; without "
                     "it the gated MLP isn't fused either"),
      llvm::cl::init(true)};
};

/// Adds the passes of the stage, in order.
void buildOptimizePipeline(OpPassManager &pm, const OptimizeOptions &options);

/// Adds the passes that raise an ONNX graph's nodes to a decoder, in order.
void buildRaisePipeline(OpPassManager &pm);

/// Registers the passes, `--qlm-raise-pipeline` and `--qlm-optimize-pipeline`.
void registerOptimizePasses();

} // namespace mlir::qlm

#endif // QLM_OPTIMIZE_PASSES_H
