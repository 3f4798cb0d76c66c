//===- FuseSwiglu.cpp - Merges SiLU and product of a gated MLP ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_FUSESWIGLU
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct FuseSwigluPattern : OpRewritePattern<MulOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(MulOp product,
                                PatternRewriter &rewriter) const override {
    Value up = product.getRhs();
    auto silu = product.getLhs().getDefiningOp<SiluOp>();
    if (!silu) {
      up = product.getLhs();
      silu = product.getRhs().getDefiningOp<SiluOp>();
    }
    if (!silu)
      return rewriter.notifyMatchFailure(product, "no factor is a SiLU");
    if (!silu->hasOneUse())
      return rewriter.notifyMatchFailure(product, "the SiLU has other users");
    auto split = silu.getInput().getDefiningOp<SplitOp>();
    if (!split || split != up.getDefiningOp<SplitOp>())
      return rewriter.notifyMatchFailure(
          product, "gate and up are not parts of one linear");
    // Equal halves, since the factors of a product have one type.
    if (split.getNumResults() != 2 || silu.getInput() != split.getResult(0) ||
        up != split.getResult(1))
      return rewriter.notifyMatchFailure(
          product, "gate and up are not the first and the second half");
    rewriter.replaceOpWithNewOp<SwigluOp>(product, product.getType(),
                                          split.getInput());
    return success();
  }
};

struct FuseSwiglu : qlm::impl::FuseSwigluBase<FuseSwiglu> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseSwigluPattern>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
