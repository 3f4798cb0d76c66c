//===- FuseResidual.cpp - Adds residuals inside of linears ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_FUSERESIDUAL
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct FuseResidualPattern : OpRewritePattern<AddOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(AddOp add,
                                PatternRewriter &rewriter) const override {
    // A sum of two linears becomes the residual of the second.
    for (auto [residual, output] : {std::pair(add.getLhs(), add.getRhs()),
                                    std::pair(add.getRhs(), add.getLhs())}) {
      auto linear = output.getDefiningOp<LinearOp>();
      if (!linear || linear.getResidual() || !linear->hasOneUse() ||
          linear->getBlock() != add->getBlock())
        continue;
      // At the addition, where the residual is available, under the label of
      // the linear.
      auto fused = LinearOp::create(rewriter, linear.getLoc(), add.getType(),
                                    linear.getInput(), linear.getWeight(),
                                    linear.getBias(), residual);
      rewriter.replaceOp(add, fused);
      return success();
    }
    return rewriter.notifyMatchFailure(
        add, "no operand is a linear with one user and without a residual");
  }
};

struct FuseResidual : qlm::impl::FuseResidualBase<FuseResidual> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseResidualPattern>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      return signalPassFailure();
    getOperation()->setAttr(kStageAttr,
                            StringAttr::get(&getContext(), "optimize"));
  }
};
} // namespace
