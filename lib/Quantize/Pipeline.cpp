//===- Pipeline.cpp - The Quantize stage's passes in order ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Passes.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

using namespace mlir;
using namespace mlir::qlm;

void mlir::qlm::buildQuantizePipeline(OpPassManager &pm,
                                      const QuantizeOptions &options) {
  if (options.observe)
    pm.addPass(createInsertObservers());
  QuantizeWeightsOptions weights;
  weights.weights = options.weights;
  weights.groupSize = options.groupSize;
  weights.granularity = options.granularity;
  weights.doubleQuant = options.doubleQuant;
  weights.zeroPoints = options.zeroPoints;
  weights.method = options.method;
  weights.statistics = options.statistics;
  weights.damping = options.damping;
  weights.blockSize = options.blockSize;
  weights.actOrder = options.actOrder;
  weights.staticGroups = options.staticGroups;
  weights.keepLmHead = options.keepLmHead;
  weights.tableType = options.tableType;
  pm.addPass(createQuantizeWeights(weights));
  QuantizeActivationsOptions activations;
  activations.activations = options.activations;
  pm.addPass(createQuantizeActivations(activations));
  pm.addPass(createFoldScales());
  PackWeightsOptions pack;
  pack.target = options.target;
  pm.addPass(createPackWeights(pack));
}

void mlir::qlm::registerQuantizePipelines() {
  PassPipelineRegistration<QuantizeOptions>(
      "qlm-quantize-pipeline", "Quantizes and packs the weights of linears",
      buildQuantizePipeline);
}
