//===- FuseGate.cpp - Gates in the linear of gate and up ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/FuseGate.h"

#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Dialect/GatedLinear.h"
#include "qlm/Package/Format.h"

#include "mlir/Pass/Pass.h"

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct FuseGatePattern : OpRewritePattern<SwigluOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(SwigluOp swiglu,
                                PatternRewriter &rewriter) const override {
    auto linear = swiglu.getInput().getDefiningOp<PackedLinearOp>();
    if (!linear || isGated(linear))
      return rewriter.notifyMatchFailure(swiglu, "the input is no linear");
    if (!linear->hasOneUse())
      return rewriter.notifyMatchFailure(swiglu, "the linear has other users");
    auto type = cast<RankedTensorType>(linear.getType());
    if (linear.getResidual() || !type.getElementType().isF32() ||
        !cast<RankedTensorType>(swiglu.getType()).getElementType().isF32())
      return rewriter.notifyMatchFailure(
          swiglu, "the linear has a residual or a narrow result");
    if (linear.getOutFeatures() % (2 * ::qlm::format::kRowBlock) != 0)
      return rewriter.notifyMatchFailure(
          swiglu, "gate and up are no whole numbers of blocks");
    rewriter.modifyOpInPlace(linear, [&] {
      linear->setAttr(kGatedAttr, rewriter.getUnitAttr());
      linear.getResult().setType(cast<RankedTensorType>(swiglu.getType()));
    });
    rewriter.replaceOp(swiglu, linear);
    return success();
  }
};

struct FuseConvertPattern : OpRewritePattern<ConvertOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(ConvertOp convert,
                                PatternRewriter &rewriter) const override {
    auto linear = convert.getInput().getDefiningOp<PackedLinearOp>();
    auto type = cast<RankedTensorType>(convert.getType());
    if (!linear || !isGated(linear) || !linear->hasOneUse() ||
        !cast<RankedTensorType>(linear.getType()).getElementType().isF32() ||
        !type.getElementType().isBF16())
      return rewriter.notifyMatchFailure(
          convert, "no gated linear's only user, or not to bf16");
    rewriter.modifyOpInPlace(linear, [&] { linear.getResult().setType(type); });
    rewriter.replaceOp(convert, linear);
    return success();
  }
};

struct FuseGatePass : PassWrapper<FuseGatePass, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(FuseGatePass)

  StringRef getArgument() const override { return "qlm-fuse-gate"; }
  StringRef getDescription() const override {
    return "Gates in the linear that computes gate and up";
  }
  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<QlmDialect>();
  }
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseGatePattern, FuseConvertPattern>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace

std::unique_ptr<Pass> mlir::qlm::createFuseGate() {
  return std::make_unique<FuseGatePass>();
}

void mlir::qlm::registerFuseGate() {
  registerPass([] { return createFuseGate(); });
}
