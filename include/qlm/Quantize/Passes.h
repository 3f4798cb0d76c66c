//===- Passes.h - Passes and options of the Quantize stage ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Quantize chooses the stored type of each linear's weight and activations,
// and the order of its bytes. What the IR looks like afterwards:
// docs/design/2026-11-23-ir-contracts.md, "After Quantize".
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_PASSES_H
#define QLM_QUANTIZE_PASSES_H

#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassOptions.h"
#include "qlm/Dialect/Qlm.h"

namespace mlir {
class OpPassManager;
} // namespace mlir

namespace mlir::qlm {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "qlm/Quantize/Passes.h.inc"

/// Options of the Quantize stage. Values are checked when the passes run.
struct QuantizeOptions : public PassPipelineOptions<QuantizeOptions> {
  Option<std::string> target{
      *this, "target",
      llvm::cl::desc("What reads the packed weights: cpu or cuda"),
      llvm::cl::init("cpu")};
  Option<std::string> weights{
      *this, "weights",
      llvm::cl::desc("What the weights of linears become: f32, bf16, f16, "
                     "int8, int4, nf4 or fp8"),
      llvm::cl::init("f32")};
  Option<int64_t> groupSize{
      *this, "group-size",
      llvm::cl::desc("Columns that share a scale, with granularity group (0: "
                     "64 of nf4, else 128)"),
      llvm::cl::init(0)};
  Option<std::string> granularity{
      *this, "granularity",
      llvm::cl::desc("What shares a scale: tensor, channel or group (default: "
                     "channel of int8 and fp8, group of int4 and nf4)"),
      llvm::cl::init("default")};
  Option<bool> doubleQuant{*this, "double-quant",
                           llvm::cl::desc("Quantizes the scales of nf4 too"),
                           llvm::cl::init(false)};
  Option<bool> zeroPoints{
      *this, "zero-points",
      llvm::cl::desc("Gives each scale a zero point (unsigned codes)"),
      llvm::cl::init(false)};
  Option<std::string> method{
      *this, "method",
      llvm::cl::desc("How codes are found: rtn (round to nearest), gptq, awq, "
                     "awq-gptq (gptq with awq's scales) or keep (a "
                     "checkpoint's own)"),
      llvm::cl::init("rtn")};
  Option<double> smooth{
      *this, "smooth",
      llvm::cl::desc("How much of the inputs' ranges goes to the weights, 0 to "
                     "1 (default: scales stay where they are)"),
      llvm::cl::init(-1)};
  Option<std::string> range{
      *this, "range",
      llvm::cl::desc("int8-static: minmax, average, percentile or entropy"),
      llvm::cl::init("minmax")};
  Option<bool> observe{
      *this, "observe",
      llvm::cl::desc("Observes the input of each linear, for calibration"),
      llvm::cl::init(false)};
  Option<std::string> statistics{
      *this, "statistics",
      llvm::cl::desc("The file of statistics that calibrated methods need"),
      llvm::cl::init("")};
  Option<double> damping{
      *this, "damping",
      llvm::cl::desc("gptq: added to the second moments' diagonal, as a part "
                     "of its mean"),
      llvm::cl::init(0.01)};
  Option<int64_t> blockSize{
      *this, "block-size",
      llvm::cl::desc("gptq: columns whose errors are handed on together"),
      llvm::cl::init(128)};
  Option<bool> actOrder{
      *this, "act-order",
      llvm::cl::desc("gptq: columns with the largest second moments first"),
      llvm::cl::init(false)};
  Option<bool> staticGroups{
      *this, "static-groups",
      llvm::cl::desc("gptq: scales from the weight as given"),
      llvm::cl::init(false)};
  Option<bool> searchScales{
      *this, "search-scales",
      llvm::cl::desc("gptq: shrinks the range of each scale where that loses "
                     "less"),
      llvm::cl::init(false)};
  Option<int64_t> refine{
      *this, "refine",
      llvm::cl::desc("gptq: how often codes and scales are gone over once more "
                     "(0 to 100)"),
      llvm::cl::init(0)};
  Option<bool> keepLmHead{
      *this, "keep-lm-head",
      llvm::cl::desc("Leaves the weight of the linear that makes the logits "
                     "as it is"),
      llvm::cl::init(false)};
  Option<std::string> tableType{
      *this, "table-type",
      llvm::cl::desc("Element type of the embedding table: source or f32"),
      llvm::cl::init("source")};
  Option<std::string> activations{
      *this, "activations",
      llvm::cl::desc("What the inputs of linears become: none, bf16, "
                     "int8-dynamic, int8-static or fp8-dynamic"),
      llvm::cl::init("none")};
  Option<double> outlierThreshold{
      *this, "outlier-threshold",
      llvm::cl::desc("int8-dynamic: magnitudes that reach it stay f32 (0: "
                     "none)"),
      llvm::cl::init(0)};
};

/// Adds the passes of the stage, in order; copies what it needs of the
/// options.
void buildQuantizePipeline(OpPassManager &pm, const QuantizeOptions &options);

/// Registers `qlm-quantize-pipeline`.
void registerQuantizePipelines();

} // namespace mlir::qlm

#endif // QLM_QUANTIZE_PASSES_H
