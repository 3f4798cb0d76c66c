//===- FuseAttention.cpp - Recognises spelled-out attention ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_FUSEATTENTION
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
/// What stands between the scores' product and the softmax.
struct Scores {
  MatmulOp product;
  float scale = 1.0f;
  bool causal = false;
  IntegerAttr window; ///< of the mask, or null
};

/// Heads of queries, keys or values, and the matrix they were split from.
struct Heads {
  SplitHeadsOp split;
  Value source;
  float scale = 1.0f;
};

struct FuseAttentionPattern : OpRewritePattern<MergeHeadsOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(MergeHeadsOp merge,
                                PatternRewriter &rewriter) const override;

private:
  FailureOr<Scores> matchScores(MergeHeadsOp merge, SoftmaxOp softmax,
                                PatternRewriter &rewriter) const;
  FailureOr<Heads> matchHeads(MergeHeadsOp merge, Value heads, bool scalable,
                              PatternRewriter &rewriter) const;
};
} // namespace

/// Walks from the softmax up to the product of queries and keys, through any
/// order of scales and one mask.
FailureOr<Scores>
FuseAttentionPattern::matchScores(MergeHeadsOp merge, SoftmaxOp softmax,
                                  PatternRewriter &rewriter) const {
  Scores scores;
  bool positive = true;
  Value value = softmax.getInput();
  while (true) {
    Operation *op = value.getDefiningOp();
    if (!op || !op->hasOneUse())
      return rewriter.notifyMatchFailure(merge, "the scores have other users");
    if (auto scale = dyn_cast<ScaleOp>(op)) {
      float factor = scale.getFactor().convertToFloat();
      scores.scale *= factor;
      positive &= factor > 0;
      value = scale.getInput();
    } else if (auto mask = dyn_cast<CausalMaskOp>(op)) {
      if (scores.causal)
        return rewriter.notifyMatchFailure(merge, "the scores have two masks");
      // -inf times a factor that isn't positive is no mask.
      if (!positive)
        return rewriter.notifyMatchFailure(
            merge, "a masked score is scaled by a factor that is not positive");
      scores.causal = true;
      scores.window = mask.getWindowAttr();
      value = mask.getInput();
    } else if (auto product = dyn_cast<MatmulOp>(op)) {
      if (!product.getTransposeRhs())
        return rewriter.notifyMatchFailure(
            merge, "the scores' product doesn't transpose the keys");
      scores.product = product;
      return scores;
    } else {
      return rewriter.notifyMatchFailure(
          merge, "the scores are not a product, scaled and masked");
    }
  }
}

/// Walks up from heads to the matrix they were split from; takes scales on the
/// way if \p scalable.
FailureOr<Heads>
FuseAttentionPattern::matchHeads(MergeHeadsOp merge, Value heads, bool scalable,
                                 PatternRewriter &rewriter) const {
  Heads result;
  auto skipScales = [&](Value value) {
    while (auto scale = scalable ? value.getDefiningOp<ScaleOp>() : ScaleOp()) {
      result.scale *= scale.getFactor().convertToFloat();
      value = scale.getInput();
    }
    return value;
  };
  result.split = skipScales(heads).getDefiningOp<SplitHeadsOp>();
  if (!result.split)
    return rewriter.notifyMatchFailure(
        merge, "queries, keys or values are not made by split_heads");
  result.source = skipScales(result.split.getInput());
  return result;
}

LogicalResult
FuseAttentionPattern::matchAndRewrite(MergeHeadsOp merge,
                                      PatternRewriter &rewriter) const {
  auto mixed = merge.getInput().getDefiningOp<MatmulOp>();
  if (!mixed || mixed.getTransposeRhs())
    return rewriter.notifyMatchFailure(
        merge, "the heads are not a product of probabilities and values");
  auto softmax = mixed.getLhs().getDefiningOp<SoftmaxOp>();
  if (!softmax)
    return rewriter.notifyMatchFailure(merge,
                                       "the probabilities are no softmax");
  if (!softmax->hasOneUse())
    return rewriter.notifyMatchFailure(merge,
                                       "the probabilities have other users");
  FailureOr<Scores> scores = matchScores(merge, softmax, rewriter);
  if (failed(scores))
    return failure();
  FailureOr<Heads> query = matchHeads(merge, scores->product.getLhs(),
                                      /*scalable=*/true, rewriter);
  FailureOr<Heads> key = matchHeads(merge, scores->product.getRhs(),
                                    /*scalable=*/true, rewriter);
  FailureOr<Heads> value =
      matchHeads(merge, mixed.getRhs(), /*scalable=*/false, rewriter);
  if (failed(query) || failed(key) || failed(value))
    return failure();

  if (query->split.getRepeat() != 1)
    return rewriter.notifyMatchFailure(merge, "the queries are repeated");
  if (key->split.getRepeat() != value->split.getRepeat() ||
      key->source.getType() != value->source.getType())
    return rewriter.notifyMatchFailure(merge,
                                       "keys and values have different heads");
  if (query->source.getType() != merge.getType())
    return rewriter.notifyMatchFailure(
        merge, "queries and result have different types");
  int64_t heads = cast<RankedTensorType>(query->split.getType()).getDimSize(0);
  if (ShapedType::isDynamic(heads) || heads % key->split.getRepeat() != 0)
    return rewriter.notifyMatchFailure(
        merge, "the repeats don't divide a known number of heads");

  float scale = scores->scale * query->scale * key->scale;
  rewriter.replaceOpWithNewOp<AttentionOp>(
      merge, merge.getType(), query->source, key->source, value->source,
      rewriter.getI64IntegerAttr(heads),
      rewriter.getI64IntegerAttr(heads / key->split.getRepeat()),
      rewriter.getF32FloatAttr(scale),
      scores->causal ? rewriter.getUnitAttr() : UnitAttr(), scores->window);
  return success();
}

namespace {
struct FuseAttention : qlm::impl::FuseAttentionBase<FuseAttention> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseAttentionPattern>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
