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

void mlir::qlm::buildRaisePipeline(OpPassManager &pm) {
  // Types first, for the others look at them; rotary embeddings and attention
  // give nodes that the mask and the decoder are recognised by.
  pm.addPass(createInferNodes());
  pm.addPass(createRaiseNorm());
  pm.addPass(createRaiseActivation());
  pm.addPass(createRaiseRotary());
  pm.addPass(createRaiseAttention());
  pm.addPass(createRaiseCausalMask());
  pm.addPass(createRaiseDecoder());
}

void mlir::qlm::registerOptimizePasses() {
  registerQlmOptimizePasses();
  PassPipelineRegistration<>("qlm-raise-pipeline",
                             "Raises an ONNX graph's nodes to a decoder",
                             buildRaisePipeline);
  PassPipelineRegistration<OptimizeOptions>(
      "qlm-optimize-pipeline",
      "Fuses attention, gated MLPs and residuals, and merges linears",
      buildOptimizePipeline);
}
