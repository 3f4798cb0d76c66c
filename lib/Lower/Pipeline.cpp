//===- Pipeline.cpp - The Lower stage's passes in order -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Passes.h"

#include "qlm/Lower/FuseGate.h"
#include "qlm/Package/Format.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace mlir::qlm;

/// What follows the KV plan on a GPU.
static void addCudaPasses(OpPassManager &pm, const LowerOptions &options) {
  NarrowActivationsOptions narrow;
  narrow.type = options.activationType;
  pm.addPass(createNarrowActivations(narrow));
  pm.addPass(createFuseLaunches());
  PlanMemoryOptions memory;
  memory.alignment = ::qlm::format::kDeviceAlignment;
  pm.addPass(createPlanMemory(memory));
  EmitCudaKernelsOptions kernels;
  kernels.chips = options.chips;
  kernels.batchInvariant = options.batchInvariant;
  pm.addPass(createEmitCudaKernels(kernels));
  pm.addPass(createLowerKernelsToNVVM());
}

void mlir::qlm::buildLowerPipeline(OpPassManager &pm,
                                   const LowerOptions &options) {
  PlanKvCacheOptions kv;
  kv.pageTokens = options.pageTokens;
  kv.kvType = options.kvType;
  kv.maxBatch = options.maxBatch;
  kv.maxContext = options.maxContext;
  kv.maxStepTokens = options.maxStepTokens;
  kv.keysByToken = options.target == "cuda";
  pm.addPass(createPlanKvCache(kv));
  if (options.target != "cuda")
    pm.addPass(createFuseGate());
  pm.addPass(createFuseQuantize());
  if (options.target == "cuda")
    return addCudaPasses(pm, options);
  pm.addPass(createPlanMemory());
  EmitCpuKernelsOptions kernels;
  kernels.targetCpu = options.targetCpu;
  pm.addPass(createEmitCpuKernels(kernels));
  pm.addPass(createLowerKernelsToLLVM());
}

void mlir::qlm::registerLowerPipelines() {
  registerFuseGate();
  PassPipelineRegistration<LowerOptions>(
      "qlm-lower-pipeline",
      "Plans cache and memory and emits kernels for a processor",
      buildLowerPipeline);
}
