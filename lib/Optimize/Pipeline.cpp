//===- Pipeline.cpp - The Optimize stage's passes in order ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Optimize/Passes.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

using namespace mlir;
using namespace mlir::qlm;

void mlir::qlm::buildOptimizePipeline(OpPassManager &pm,
                                      const OptimizeOptions &options) {
  // Attention first, for it shows which linears are q, k and v; the gated MLP
  // after the merge, for it wants both halves in one tensor.
  pm.addPass(createFuseAttention());
  if (options.mergeLinears)
    pm.addPass(createMergeLinears());
  pm.addPass(createFuseSwiglu());
  pm.addPass(createFuseResidual());
}

void mlir::qlm::registerOptimizePasses() {
  registerQlmOptimizePasses();
  PassPipelineRegistration<OptimizeOptions>(
      "qlm-optimize-pipeline",
      "Fuses attention, gated MLPs and residuals, and merges linears",
      buildOptimizePipeline);
}
