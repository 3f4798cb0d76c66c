//===- RaiseNorm.cpp - Recognises spelled-out normalizations --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Matching.h"
#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_RAISENORM
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

namespace {
/// `x / sqrt(mean(x^2) + epsilon)` along the last dimension.
struct Normalized {
  Value input;
  double epsilon = 0;
};
} // namespace

/// `x` of a node that squares it, or null.
static Value getSquared(NodeOp op) {
  if (op.is("Pow") && isScalar(op.input(1), 2))
    return skipNoise(op.getInputs()[0]);
  if (op.is("Mul") &&
      skipNoise(op.getInputs()[0]) == skipNoise(op.getInputs()[1]))
    return skipNoise(op.getInputs()[0]);
  return {};
}

/// Reads `sqrt(mean(x^2) + epsilon)`.
static std::optional<Normalized> matchRoot(Value value) {
  NodeOp root = find(value, "Sqrt");
  NodeOp sum = root ? find(root.getInputs()[0], "Add") : NodeOp();
  auto scaled = sum ? findScalar(sum) : std::nullopt;
  NodeOp mean = scaled ? find(scaled->value, "ReduceMean") : NodeOp();
  if (!mean || !reducesLast(mean))
    return std::nullopt;
  auto square = skipNoise(mean.getInputs()[0]).getDefiningOp<NodeOp>();
  Value input = square ? getSquared(square) : Value();
  if (!input || !(scaled->number > 0))
    return std::nullopt;
  return Normalized{input, scaled->number};
}

/// Reads the reciprocal of matchRoot's.
static std::optional<Normalized> matchReciprocalRoot(Value value) {
  if (NodeOp op = find(value, "Reciprocal"))
    return matchRoot(op.getInputs()[0]);
  if (NodeOp op = find(value, "Div"); op && isScalar(op.getInputs()[0], 1))
    return matchRoot(op.getInputs()[1]);
  return std::nullopt;
}

static std::optional<Normalized> matchNormalized(Value value) {
  if (NodeOp op = find(value, "Div")) {
    auto root = matchRoot(op.getInputs()[1]);
    if (root && root->input == skipNoise(op.getInputs()[0]))
      return root;
  }
  if (NodeOp op = find(value, "Mul"))
    for (unsigned i = 0; i < 2; ++i) {
      auto root = matchReciprocalRoot(op.getInputs()[i]);
      if (root && root->input == skipNoise(op.getInputs()[1 - i]))
        return root;
    }
  return std::nullopt;
}

/// `x` of `x - mean(x)`, or null.
static Value getCentred(Value value) {
  NodeOp difference = find(value, "Sub");
  NodeOp mean =
      difference ? find(difference.getInputs()[1], "ReduceMean") : NodeOp();
  if (!mean || !reducesLast(mean))
    return {};
  Value input = skipNoise(difference.getInputs()[0]);
  return skipNoise(mean.getInputs()[0]) == input ? input : Value();
}

static SmallVector<NamedAttribute> normAttributes(Builder &b, double epsilon) {
  return {b.getNamedAttr("axis", b.getI64IntegerAttr(-1)),
          b.getNamedAttr("epsilon",
                         b.getF32FloatAttr(static_cast<float>(epsilon)))};
}

namespace {
/// weight * (x / sqrt(mean(x^2) + epsilon)), or with x - mean(x) for x.
struct RaiseProduct : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("Mul"))
      return failure();
    for (unsigned i = 0; i < 2; ++i) {
      Value weight = op.getInputs()[i];
      if (!isWeightVector(weight))
        continue;
      auto norm = matchNormalized(op.getInputs()[1 - i]);
      if (!norm)
        return rewriter.notifyMatchFailure(
            op, "what the weight scales is not normalized");
      Value centred = getCentred(norm->input);
      NodeOp raised = createNode(
          rewriter, op, centred ? "LayerNormalization" : "RMSNormalization",
          {centred ? centred : norm->input, skipNoise(weight)},
          normAttributes(rewriter, norm->epsilon), op.getResult(0).getType());
      rewriter.replaceOp(op, raised);
      return success();
    }
    return rewriter.notifyMatchFailure(op, "no factor is a vector of weights");
  }
};

/// LayerNormalization(x, weight) + bias.
struct RaiseBias : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("Add"))
      return failure();
    auto pair = findEither(op, "LayerNormalization");
    if (!pair || !isWeightVector(pair->other) ||
        pair->node.getInputs().size() != 2)
      return rewriter.notifyMatchFailure(op, "no bias of a normalization");
    NodeOp norm = pair->node;
    NodeOp raised = createNode(
        rewriter, op, "LayerNormalization",
        {norm.getInputs()[0], norm.getInputs()[1], skipNoise(pair->other)},
        normAttributes(rewriter, norm.number("epsilon", 1e-5)),
        op.getResult(0).getType());
    rewriter.replaceOp(op, raised);
    return success();
  }
};

/// The normalizations of ONNX Runtime.
struct RaiseContributed : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    StringRef kind = op.getKind();
    (void)kind.consume_front("com.microsoft.");
    bool skips = kind == "SkipSimplifiedLayerNormalization";
    if (!skips && kind != "SimplifiedLayerNormalization")
      return failure();
    unsigned count = op.getInputs().size();
    if (count < (skips ? 3u : 2u))
      return rewriter.notifyMatchFailure(op, "inputs are missing");
    if (!skips && op.integer("axis", -1) != -1)
      return rewriter.notifyMatchFailure(op, "the axis is not the last");
    for (auto [i, result] : llvm::enumerate(op.getResults()))
      if (i != 0 && i != 3 && !result.use_empty())
        return rewriter.notifyMatchFailure(op, "statistics are used");
    Value sum = op.getInputs()[0];
    if (skips) {
      sum = createNode(rewriter, op, "Add",
                       {op.getInputs()[0], op.getInputs()[1]})
                .getResult(0);
      if (Value bias = op.input(3))
        sum = createNode(rewriter, op, "Add", {sum, bias}).getResult(0);
    }
    NodeOp norm = createNode(
        rewriter, op, "RMSNormalization", {sum, op.getInputs()[skips ? 2 : 1]},
        normAttributes(rewriter, op.number("epsilon", 1e-5)));
    if (op.getNumResults() > 3)
      rewriter.replaceAllUsesWith(op.getResult(3), sum);
    rewriter.replaceAllUsesWith(op.getResult(0), norm.getResult(0));
    rewriter.eraseOp(op);
    return success();
  }
};

struct RaiseNorm : qlm::impl::RaiseNormBase<RaiseNorm> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<RaiseProduct, RaiseBias, RaiseContributed>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
