//===- OptimizeContract.cpp - What holds after Optimize -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Contract.h"

using namespace mlir;
using namespace mlir::qlm;

static constexpr Stage kStage = Stage::Optimize;

/// Operations of the unfused spellings, and who should have removed them.
static LogicalResult checkFused(Operation *op) {
  if (isa<SplitHeadsOp, MergeHeadsOp, MatmulOp, ScaleOp, CausalMaskOp,
          SoftmaxOp>(op))
    return breakContract(op, kStage,
                         "attention must be one operation, got " +
                             op->getName().getStringRef(),
                         "qlm-fuse-attention");
  if (isa<SiluOp, MulOp>(op))
    return breakContract(op, kStage,
                         "a gated MLP must be one operation, got " +
                             op->getName().getStringRef(),
                         "qlm-fuse-swiglu");
  if (isa<AddOp>(op))
    return breakContract(op, kStage,
                         "residuals must be added by linears, got qlm.add",
                         "qlm-fuse-residual");
  return success();
}

/// A linear whose weight joins projections, as qlm-merge-linears makes them.
static bool isMergedLinear(Value value) {
  auto linear = value.getDefiningOp<LinearOp>();
  return linear && linear.getWeight().getDefiningOp<tensor::ConcatOp>();
}

/// rope(split #0), rope(split #1) and split #2 of one merged linear.
static LogicalResult checkAttention(AttentionOp attention) {
  auto query = attention.getQuery().getDefiningOp<RopeOp>();
  auto key = attention.getKey().getDefiningOp<RopeOp>();
  auto split = attention.getValue().getDefiningOp<SplitOp>();
  if (!query || !key)
    return breakContract(attention, kStage,
                         "queries and keys must be made by qlm.rope", "import");
  bool merged = split && split.getParts().size() == 3 &&
                query.getInput() == split.getParts()[0] &&
                key.getInput() == split.getParts()[1] &&
                attention.getValue() == split.getParts()[2] &&
                isMergedLinear(split.getInput());
  if (!merged)
    return breakContract(attention, kStage,
                         "queries, keys and values must be split from one "
                         "linear",
                         "qlm-merge-linears");
  return success();
}

// After Import, and
// - attention, gated MLPs and residuals are one operation each;
// - queries, keys and values are split from one linear, gate and up projection
//   are one linear;
// - every layer has one attention;
// - nothing computes shapes.
LogicalResult mlir::qlm::verifyAfterOptimize(ModuleOp module) {
  if (failed(checkStage(module, kStage)) ||
      failed(checkForward(module, kStage)))
    return failure();
  int64_t attentions = 0;
  WalkResult result = module.walk([&](Operation *op) -> WalkResult {
    if (failed(checkFused(op)))
      return failure();
    if (auto attention = dyn_cast<AttentionOp>(op)) {
      ++attentions;
      return checkAttention(attention);
    }
    if (auto swiglu = dyn_cast<SwigluOp>(op))
      if (!isMergedLinear(swiglu.getInput()))
        return breakContract(op, kStage,
                             "gate and up projection must be one linear",
                             "qlm-merge-linears");
    if (isa<tensor::TensorDialect>(op->getDialect()) &&
        !isa<tensor::ConcatOp>(op))
      return breakContract(op, kStage, "nothing may compute shapes, got ")
             << op->getName();
    return WalkResult::advance();
  });
  if (result.wasInterrupted())
    return failure();
  int64_t layers = module->getAttrOfType<DictionaryAttr>(kModelAttr)
                       .getAs<IntegerAttr>("layers")
                       .getInt();
  if (attentions != layers)
    return breakContract(module, kStage, "each layer must have an attention, ")
           << "got " << attentions << " in " << layers << " layers";
  return success();
}
