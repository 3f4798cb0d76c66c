//===- Register.cpp - Passes and pipelines for command lines --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "qlm/Dialect/Passes.h"
#include "qlm/Lower/GraphPasses.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Optimize/Passes.h"
#include "qlm/Package/Passes.h"
#include "qlm/Pipelines/Pipelines.h"
#include "qlm/Quantize/Passes.h"

using namespace mlir;
using namespace mlir::qlm;

namespace {
/// Options of `qlm-pipeline`: those of each stage, as its own pipeline takes
/// them. `--qlm-pipeline='quantize={weights=int4 group-size=64}'`.
struct PipelineOptions : public PassPipelineOptions<PipelineOptions> {
  Option<std::string> optimize{
      *this, "optimize", llvm::cl::desc("Options of qlm-optimize-pipeline")};
  Option<std::string> quantize{
      *this, "quantize", llvm::cl::desc("Options of qlm-quantize-pipeline")};
  Option<std::string> lower{*this, "lower",
                            llvm::cl::desc("Options of qlm-lower-pipeline")};
};
} // namespace

/// Adds one stage and the check of its contract. Options that don't parse have
/// been reported by the parser; the stage then runs with its defaults.
template <typename StageOptions>
static void addStage(OpPassManager &pm, Stage stage, StringRef text,
                     void (*build)(OpPassManager &, const StageOptions &)) {
  std::unique_ptr<StageOptions> options = StageOptions::createFromString(text);
  if (!options)
    options = std::make_unique<StageOptions>();
  build(pm, *options);
  pm.addPass(createVerifyContract({getStageName(stage).str()}));
}

void mlir::qlm::registerQlmPipeline() {
  PassPipelineRegistration<PipelineOptions>(
      "qlm-pipeline",
      "Runs optimize, quantize and lower, checking the contract after each",
      [](OpPassManager &pm, const PipelineOptions &options) {
        addStage<OptimizeOptions>(pm, Stage::Optimize, options.optimize,
                                  buildOptimizePipeline);
        addStage<QuantizeOptions>(pm, Stage::Quantize, options.quantize,
                                  buildQuantizePipeline);
        addStage<LowerOptions>(pm, Stage::Lower, options.lower,
                               buildLowerPipeline);
      });
}

void mlir::qlm::registerAllQlmPasses() {
  registerQlmDialectPasses();
  registerOptimizePasses();
  registerQlmQuantizePasses();
  registerQlmLowerPasses();
  registerQlmLowerGraphPasses();
  registerQlmPackagePasses();
  registerQlmPipelinesPasses();
  registerQuantizePipelines();
  registerLowerPipelines();
  registerQlmPipeline();
}
