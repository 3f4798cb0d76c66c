//===- RaiseActivation.cpp - Recognises spelled-out SiLU and GELU ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Matching.h"
#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Optimize/Passes.h"

#include <cmath>

namespace mlir::qlm {
#define GEN_PASS_DEF_RAISEACTIVATION
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

/// The factors of a tree of products of at most three: `a * b * c`.
static SmallVector<Value> getFactors(NodeOp op) {
  SmallVector<Value> factors;
  for (Value input : op.getInputs()) {
    NodeOp inner = find(input, "Mul");
    if (inner && factors.size() < 2 && inner->hasOneUse())
      llvm::append_range(factors, inner.getInputs());
    else
      factors.push_back(input);
  }
  return factors;
}

/// `y` of `1 + kind(y)`, or null.
static Value matchOnePlus(Value value, StringRef kind) {
  NodeOp sum = find(value, "Add");
  auto scaled = sum ? findScalar(sum) : std::nullopt;
  if (!scaled || scaled->number != 1)
    return {};
  NodeOp function = find(scaled->value, kind);
  return function ? skipNoise(function.getInputs()[0]) : Value();
}

/// Whether \p value is x / sqrt(2).
static bool isErfArgument(Value value, Value x) {
  if (NodeOp op = find(value, "Div"))
    return skipNoise(op.getInputs()[0]) == x &&
           isScalar(op.getInputs()[1], M_SQRT2);
  NodeOp op = find(value, "Mul");
  auto scaled = op ? findScalar(op) : std::nullopt;
  return scaled && skipNoise(scaled->value) == x &&
         std::fabs(scaled->number - M_SQRT1_2) < 1e-3;
}

/// Whether \p value is x^3.
static bool isCube(Value value, Value x) {
  if (NodeOp op = find(value, "Pow"))
    return skipNoise(op.getInputs()[0]) == x && isScalar(op.getInputs()[1], 3);
  NodeOp op = find(value, "Mul");
  if (!op)
    return false;
  SmallVector<Value> factors = getFactors(op);
  return factors.size() == 3 &&
         llvm::all_of(factors, [&](Value f) { return skipNoise(f) == x; });
}

/// Whether \p value is sqrt(2 / pi) * (x + 0.044715 * x^3).
static bool isTanhArgument(Value value, Value x) {
  NodeOp op = find(value, "Mul");
  auto outer = op ? findScalar(op) : std::nullopt;
  if (!outer || std::fabs(outer->number - std::sqrt(2 / M_PI)) > 1e-3)
    return false;
  NodeOp sum = find(outer->value, "Add");
  if (!sum)
    return false;
  for (unsigned i = 0; i < 2; ++i) {
    NodeOp product = find(sum.getInputs()[i], "Mul");
    auto inner = product ? findScalar(product) : std::nullopt;
    if (inner && std::fabs(inner->number - 0.044715) < 1e-4 &&
        skipNoise(sum.getInputs()[1 - i]) == x && isCube(inner->value, x))
      return true;
  }
  return false;
}

namespace {
/// x * sigmoid(x).
struct RaiseSwish : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("Mul"))
      return failure();
    auto pair = findEither(op, "Sigmoid");
    if (!pair || skipNoise(pair->node.getInputs()[0]) != skipNoise(pair->other))
      return rewriter.notifyMatchFailure(op, "no product with its sigmoid");
    rewriter.replaceOp(op, createNode(rewriter, op, "Swish",
                                      {skipNoise(pair->other)}, {},
                                      op.getResult(0).getType()));
    return success();
  }
};

/// 0.5 * x * (1 + erf(x / sqrt(2))), or with GELU's tanh.
struct RaiseGelu : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("Mul"))
      return failure();
    SmallVector<Value> factors = getFactors(op);
    if (factors.size() != 3)
      return rewriter.notifyMatchFailure(op, "no product of three");
    for (unsigned half = 0; half < 3; ++half)
      for (unsigned first : {1u, 2u}) {
        Value x = skipNoise(factors[(half + first) % 3]);
        Value other = factors[(half + 3 - first) % 3];
        Value erf = matchOnePlus(other, "Erf");
        Value tanh = matchOnePlus(other, "Tanh");
        bool isErf = erf && isErfArgument(erf, x);
        if (!isScalar(factors[half], 0.5) ||
            !(isErf || (tanh && isTanhArgument(tanh, x))))
          continue;
        rewriter.replaceOp(
            op, createNode(rewriter, op, "Gelu", {x},
                           {rewriter.getNamedAttr(
                               "approximate", rewriter.getStringAttr(
                                                  isErf ? "none" : "tanh"))},
                           op.getResult(0).getType()));
        return success();
      }
    return rewriter.notifyMatchFailure(op, "no half of x (1 + erf or tanh)");
  }
};

struct RaiseActivation : qlm::impl::RaiseActivationBase<RaiseActivation> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<RaiseSwish, RaiseGelu>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
