//===- Pipeline.cpp - The Quantize stage's passes in order ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Passes.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

#include <algorithm>

using namespace mlir;
using namespace mlir::qlm;

void mlir::qlm::buildQuantizePipeline(OpPassManager &pm,
                                      const QuantizeOptions &options) {
  if (options.observe)
    pm.addPass(createInsertObservers());
  MigrateScalesOptions scales;
  bool searches = StringRef(options.method).starts_with("awq");
  scales.migration =
      options.smooth >= 0 ? "smooth" : (searches ? "awq" : "none");
  scales.smoothing = std::max<double>(options.smooth, 0);
  scales.statistics = options.statistics;
  scales.weights = options.weights;
  scales.groupSize = options.groupSize;
  scales.granularity = options.granularity;
  scales.doubleQuant = options.doubleQuant;
  scales.zeroPoints = options.zeroPoints;
  scales.keepLmHead = options.keepLmHead;
  pm.addPass(createMigrateScales(scales));
  QuantizeWeightsOptions weights;
  weights.weights = options.weights;
  weights.groupSize = options.groupSize;
  weights.granularity = options.granularity;
  weights.doubleQuant = options.doubleQuant;
  weights.zeroPoints = options.zeroPoints;
  weights.method =
      options.method == "awq-gptq" ? "gptq" : options.method.getValue();
  weights.statistics = options.statistics;
  weights.damping = options.damping;
  weights.blockSize = options.blockSize;
  weights.actOrder = options.actOrder;
  weights.staticGroups = options.staticGroups;
  weights.searchScales = options.searchScales;
  weights.refine = options.refine;
  weights.keepLmHead = options.keepLmHead;
  weights.tableType = options.tableType;
  pm.addPass(createQuantizeWeights(weights));
  QuantizeActivationsOptions activations;
  activations.activations = options.activations;
  activations.statistics = options.statistics;
  activations.range = options.range;
  activations.outlierThreshold = options.outlierThreshold;
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
