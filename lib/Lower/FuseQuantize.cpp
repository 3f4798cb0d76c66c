//===- FuseQuantize.cpp - Merges rounding with what is rounded ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Lower/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_FUSEQUANTIZE
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
// Both patterns keep the label of the first operation: the norm's weight is
// named after it.

struct FuseNormPattern : OpRewritePattern<DynamicQuantizeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(DynamicQuantizeOp quantize,
                                PatternRewriter &rewriter) const override {
    auto norm = quantize.getInput().getDefiningOp<RmsNormOp>();
    if (!norm)
      return rewriter.notifyMatchFailure(quantize, "the input is no norm");
    if (!norm->hasOneUse())
      return rewriter.notifyMatchFailure(quantize, "the norm has other users");
    Value input = norm.getInput(), rows;
    auto select = input.getDefiningOp<SelectRowsOp>();
    if (select && select->hasOneUse()) {
      input = select.getInput();
      rows = select.getRows();
    }
    auto fused = RmsNormQuantizeOp::create(
        rewriter, norm.getLoc(), quantize.getResultTypes(), input,
        norm.getWeight(), rows, norm.getEpsilonAttr(), quantize.getScheme(),
        quantize.getThresholdAttr());
    rewriter.replaceOp(quantize, fused);
    rewriter.eraseOp(norm);
    if (rows)
      rewriter.eraseOp(select);
    return success();
  }
};

struct FuseSwigluPattern : OpRewritePattern<DynamicQuantizeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(DynamicQuantizeOp quantize,
                                PatternRewriter &rewriter) const override {
    auto swiglu = quantize.getInput().getDefiningOp<SwigluOp>();
    if (!swiglu)
      return rewriter.notifyMatchFailure(quantize, "the input is no swiglu");
    if (!swiglu->hasOneUse())
      return rewriter.notifyMatchFailure(quantize,
                                         "the swiglu has other users");
    auto fused = SwigluQuantizeOp::create(
        rewriter, swiglu.getLoc(), quantize.getResultTypes(), swiglu.getInput(),
        quantize.getScheme(), quantize.getThresholdAttr());
    rewriter.replaceOp(quantize, fused);
    rewriter.eraseOp(swiglu);
    return success();
  }
};

struct FuseQuantizePass : mlir::qlm::impl::FuseQuantizeBase<FuseQuantizePass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseNormPattern, FuseSwigluPattern>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
