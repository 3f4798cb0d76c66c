//===- Pipeline.cpp - The Lower stage's passes in order -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Passes.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace mlir::qlm;

void mlir::qlm::buildLowerPipeline(OpPassManager &pm,
                                   const LowerOptions &options) {
  PlanKvCacheOptions kv;
  kv.pageTokens = options.pageTokens;
  kv.kvType = options.kvType;
  kv.maxBatch = options.maxBatch;
  kv.maxContext = options.maxContext;
  kv.maxStepTokens = options.maxStepTokens;
  pm.addPass(createPlanKvCache(kv));
  pm.addPass(createFuseQuantize());
  pm.addPass(createPlanMemory());
  EmitCpuKernelsOptions kernels;
  kernels.targetCpu = options.targetCpu;
  pm.addPass(createEmitCpuKernels(kernels));
  pm.addPass(createLowerKernelsToLLVM());
}

void mlir::qlm::registerLowerPipelines() {
  PassPipelineRegistration<LowerOptions>(
      "qlm-lower-pipeline",
      "Plans cache and memory and emits kernels for a processor",
      buildLowerPipeline);
}
