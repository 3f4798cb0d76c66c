//===- MergeLinears.cpp - Joins projections of one input ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "MergeLocations.h"
#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_MERGELINEARS
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

/// Whether \p value is available at \p op, or is a parameter program that can
/// be moved there. \p value is used in the block of \p op.
static bool isAvailable(Value value, Operation *op) {
  Operation *definition = value.getDefiningOp();
  return !definition || definition->getBlock() != op->getBlock() ||
         definition->isBeforeInBlock(op) || isParameterOp(definition);
}

/// Moves the parameter program of \p value up so that it is available at
/// \p op.
static void makeAvailable(Value value, Operation *op,
                          PatternRewriter &rewriter) {
  Operation *definition = value.getDefiningOp();
  if (!definition || definition->getBlock() != op->getBlock() ||
      definition->isBeforeInBlock(op))
    return;
  for (Value operand : definition->getOperands())
    makeAvailable(operand, op, rewriter);
  rewriter.moveOpBefore(definition, op);
}

static Type getElementType(Value value) {
  return value ? getElementTypeOrSelf(value.getType()) : Type();
}

/// Succeeds if \p linears can be joined; the checks are those of the pass's
/// description.
static LogicalResult checkMergeable(Operation *anchor,
                                    ArrayRef<LinearOp> linears,
                                    PatternRewriter &rewriter) {
  LinearOp first = linears.front();
  llvm::SmallDenseSet<Operation *> seen;
  for (LinearOp linear : linears) {
    if (!seen.insert(linear).second)
      return rewriter.notifyMatchFailure(anchor, "a projection is used twice");
    if (linear->getBlock() != first->getBlock())
      return rewriter.notifyMatchFailure(
          anchor, "the projections are in different blocks");
    if (linear.getInput() != first.getInput())
      return rewriter.notifyMatchFailure(
          anchor, "the projections have different inputs");
    if (linear.getResidual())
      return rewriter.notifyMatchFailure(anchor,
                                         "a projection adds a residual");
    if (getElementType(linear.getWeight()) != getElementType(first.getWeight()))
      return rewriter.notifyMatchFailure(
          anchor, "the weights have different element types");
    if (getElementType(linear.getBias()) != getElementType(first.getBias()))
      return rewriter.notifyMatchFailure(
          anchor, "the biases are not all absent or of one element type");
  }
  return success();
}

/// Replaces \p linears by one and a split. \p name is the last part of the
/// new label.
static LogicalResult mergeLinears(Operation *anchor, ArrayRef<LinearOp> linears,
                                  StringRef name, PatternRewriter &rewriter) {
  if (failed(checkMergeable(anchor, linears, rewriter)))
    return failure();
  LinearOp first = linears.front();
  for (LinearOp linear : linears)
    if (linear->isBeforeInBlock(first))
      first = linear;

  SmallVector<Value> weights, biases;
  SmallVector<Location> locations;
  SmallVector<Type> types;
  int64_t features = 0;
  for (LinearOp linear : linears) {
    weights.push_back(linear.getWeight());
    if (linear.getBias())
      biases.push_back(linear.getBias());
    locations.push_back(linear.getLoc());
    types.push_back(linear.getType());
    features += cast<RankedTensorType>(linear.getType()).getDimSize(1);
  }
  for (Value operand : llvm::concat<Value>(weights, biases))
    if (!isAvailable(operand, first))
      return rewriter.notifyMatchFailure(
          anchor, "a weight is computed after the first projection");
  for (Value operand : llvm::concat<Value>(weights, biases))
    makeAvailable(operand, first, rewriter);

  rewriter.setInsertionPoint(first);
  Location location = mergeLocations(locations, name);
  Value weight =
      tensor::ConcatOp::create(rewriter, location, /*dim=*/0, weights);
  Value bias;
  if (!biases.empty())
    bias = tensor::ConcatOp::create(rewriter, location, /*dim=*/0, biases);
  auto oldType = cast<RankedTensorType>(first.getType());
  auto type = RankedTensorType::get({oldType.getDimSize(0), features},
                                    oldType.getElementType());
  Value merged =
      LinearOp::create(rewriter, location, type, first.getInput(), weight, bias,
                       /*residual=*/Value());
  auto split = SplitOp::create(rewriter, location, types, merged);
  for (auto [linear, part] : llvm::zip_equal(linears, split.getParts()))
    rewriter.replaceOp(linear, part);
  return success();
}

namespace {
/// q, k and v of an attention, the first two through a rotation or not.
struct MergeAttentionProjections : OpRewritePattern<AttentionOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(AttentionOp attention,
                                PatternRewriter &rewriter) const override {
    SmallVector<LinearOp> linears;
    for (Value operand : attention.getOperands()) {
      if (auto rope = operand.getDefiningOp<RopeOp>())
        operand = rope.getInput();
      linears.push_back(operand.getDefiningOp<LinearOp>());
      if (!linears.back())
        return rewriter.notifyMatchFailure(
            attention, "query, key or value is not made by a linear");
    }
    return mergeLinears(attention, linears, "qkv", rewriter);
  }
};

/// The gate and the up projection of `silu(gate) * up`, the gate first.
struct MergeGateAndUp : OpRewritePattern<MulOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(MulOp product,
                                PatternRewriter &rewriter) const override {
    for (auto [gated, other] :
         {std::pair(product.getLhs(), product.getRhs()),
          std::pair(product.getRhs(), product.getLhs())}) {
      auto silu = gated.getDefiningOp<SiluOp>();
      auto gate = silu ? silu.getInput().getDefiningOp<LinearOp>() : LinearOp();
      auto up = other.getDefiningOp<LinearOp>();
      if (gate && up)
        return mergeLinears(product, {gate, up}, "gate_up", rewriter);
    }
    return rewriter.notifyMatchFailure(
        product, "not the SiLU of a linear times a linear");
  }
};

struct MergeLinears : qlm::impl::MergeLinearsBase<MergeLinears> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<MergeAttentionProjections, MergeGateAndUp>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
