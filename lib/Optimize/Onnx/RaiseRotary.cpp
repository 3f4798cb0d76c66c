//===- RaiseRotary.cpp - Recognises spelled-out rotary embeddings ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Matching.h"
#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_RAISEROTARY
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

namespace {
/// A half of the last dimension of `source`.
struct Half {
  Value source;
  bool isSecond = false;
};
} // namespace

/// The size of the last dimension; dynamic where it isn't known.
static int64_t getLastSize(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getRank() ? type.getShape().back() : ShapedType::kDynamic;
}

static bool isLastAxis(int64_t axis, Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return axis == -1 || (type && axis == type.getRank() - 1);
}

/// Reads a Split into two, or a Slice to the middle or from it.
static std::optional<Half> matchHalf(Value value) {
  value = skipNoise(value);
  auto op = value.getDefiningOp<NodeOp>();
  if (!op || op.getInputs().empty())
    return std::nullopt;
  Half half{skipNoise(op.getInputs()[0])};
  int64_t size = getLastSize(half.source);
  if (ShapedType::isDynamic(size) || getLastSize(value) * 2 != size)
    return std::nullopt;
  if (op.is("Split")) {
    half.isSecond = cast<OpResult>(value).getResultNumber() == 1;
    if (op.getNumResults() == 2 && isLastAxis(op.integer("axis", 0), value))
      return half;
    return std::nullopt;
  }
  auto axes = getIntegers(op.input(3)), first = getIntegers(op.input(1));
  if (!op.is("Slice") || !axes || axes->size() != 1 || !first ||
      !isLastAxis(axes->front(), value) ||
      (op.input(4) && !isScalar(op.input(4), 1)))
    return std::nullopt;
  // Of half the size, with step 1: the start says which half.
  half.isSecond = first->front() == size / 2 || first->front() == -size / 2;
  if (half.isSecond || first->front() == 0)
    return half;
  return std::nullopt;
}

static bool areHalves(const Half &first, const Half &second) {
  return !first.isSecond && second.isSecond && first.source == second.source;
}

/// The source of `Concat(-second half, first half)`, or null.
static Value matchRotatedHalf(Value value) {
  NodeOp concat = find(value, "Concat");
  if (!concat || concat.getInputs().size() != 2 ||
      !isLastAxis(concat.integer("axis", 0), concat.getResult(0)))
    return {};
  NodeOp negated = find(concat.getInputs()[0], "Neg");
  auto second = negated ? matchHalf(negated.getInputs()[0]) : std::nullopt;
  auto first = matchHalf(concat.getInputs()[1]);
  if (!first || !second || !areHalves(*first, *second))
    return {};
  return first->source;
}

/// The cosines or sines `[batch, tokens, headDim / 2]` behind \p value, which
/// has a dimension for the heads and, if \p doubled, both halves; made anew
/// before \p at where they stood behind the doubling. Null when there are none.
static Value getTable(Value value, StringRef function, bool doubled, NodeOp at,
                      PatternRewriter &rewriter) {
  NodeOp unsqueeze = find(value, "Unsqueeze");
  if (!unsqueeze)
    return {};
  SmallVector<int64_t> axes;
  if (auto list = unsqueeze->getAttrOfType<DenseI64ArrayAttr>("axes"))
    axes = SmallVector<int64_t>(list.asArrayRef());
  else if (auto input = getIntegers(unsqueeze.input(1)))
    axes = *input;
  if (axes.size() != 1 || axes.front() != 1)
    return {};
  Value table = skipNoise(unsqueeze.getInputs()[0]);
  if (!doubled)
    return table;
  auto halvesOf = [](Value both) -> Value {
    NodeOp concat = find(both, "Concat");
    if (!concat || concat.getInputs().size() != 2 ||
        !(concat.integer("axis", 0) == -1 || concat.integer("axis", 0) == 2))
      return {};
    Value half = skipNoise(concat.getInputs()[0]);
    return half == skipNoise(concat.getInputs()[1]) ? half : Value();
  };
  if (Value half = halvesOf(table))
    return half;
  NodeOp op = find(table, function);
  Value angles = op ? halvesOf(op.getInputs()[0]) : Value();
  if (!angles)
    return {};
  return createNode(rewriter, at, function, {angles}).getResult(0);
}

static LogicalResult replace(NodeOp op, Value input, Value cosines, Value sines,
                             bool doubled, PatternRewriter &rewriter) {
  Value cos = getTable(cosines, "Cos", doubled, op, rewriter);
  Value sin = cos ? getTable(sines, "Sin", doubled, op, rewriter) : Value();
  if (!sin)
    return rewriter.notifyMatchFailure(
        op, "cosines and sines are no tables with a dimension for heads");
  rewriter.replaceOp(op, createNode(rewriter, op, "RotaryEmbedding",
                                    {input, cos, sin}, {},
                                    op.getResult(0).getType()));
  return success();
}

namespace {
/// x * cos + rotated half of x * sin.
struct RaiseRotatedHalf : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("Add") || op.getInputs().size() != 2)
      return failure();
    for (unsigned i = 0; i < 2; ++i) {
      NodeOp turned = find(op.getInputs()[i], "Mul");
      NodeOp kept = find(op.getInputs()[1 - i], "Mul");
      if (!turned || !kept)
        continue;
      for (unsigned j = 0; j < 2; ++j) {
        Value input = matchRotatedHalf(turned.getInputs()[j]);
        if (!input)
          continue;
        for (unsigned k = 0; k < 2; ++k)
          if (skipNoise(kept.getInputs()[k]) == input)
            return replace(op, input, kept.getInputs()[1 - k],
                           turned.getInputs()[1 - j], /*doubled=*/true,
                           rewriter);
      }
    }
    return rewriter.notifyMatchFailure(op, "no sum of a rotated half");
  }
};

/// Concat(a * cos - b * sin, b * cos + a * sin) of halves a, b.
struct RaiseHalves : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  /// `half * table`, either way round.
  struct Product {
    Half half;
    Value table;
  };
  static std::optional<Product> matchProduct(Value value) {
    NodeOp op = find(value, "Mul");
    for (unsigned i = 0; op && i < 2; ++i)
      if (auto half = matchHalf(op.getInputs()[i]))
        return Product{*half, op.getInputs()[1 - i]};
    return std::nullopt;
  }

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("Concat") || op.getInputs().size() != 2 ||
        !isLastAxis(op.integer("axis", 0), op.getResult(0)))
      return failure();
    NodeOp difference = find(op.getInputs()[0], "Sub");
    NodeOp sum = find(op.getInputs()[1], "Add");
    if (!difference || !sum)
      return rewriter.notifyMatchFailure(op, "no difference and sum");
    auto firstCos = matchProduct(difference.getInputs()[0]);
    auto secondSin = matchProduct(difference.getInputs()[1]);
    auto one = matchProduct(sum.getInputs()[0]);
    auto other = matchProduct(sum.getInputs()[1]);
    if (!firstCos || !secondSin || !one || !other)
      return rewriter.notifyMatchFailure(op, "no products of halves");
    if (!one->half.isSecond)
      std::swap(one, other);
    if (!areHalves(firstCos->half, secondSin->half) ||
        !areHalves(other->half, one->half) ||
        one->half.source != firstCos->half.source ||
        skipNoise(one->table) != skipNoise(firstCos->table) ||
        skipNoise(other->table) != skipNoise(secondSin->table))
      return rewriter.notifyMatchFailure(op, "the halves don't fit");
    return replace(op, firstCos->half.source, firstCos->table, secondSin->table,
                   /*doubled=*/false, rewriter);
  }
};

/// The operator of ONNX Runtime, which takes positions before the tables.
struct RaiseContributedRotary : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("com.microsoft.RotaryEmbedding") || op.getInputs().size() != 4)
      return failure();
    auto scale = op->getAttrOfType<FloatAttr>("scale");
    if ((scale && scale.getValueAsDouble() != 1) ||
        op.integer("is_packed_batching", 0))
      return rewriter.notifyMatchFailure(op, "scaled, or packed batches");
    SmallVector<NamedAttribute> attributes;
    for (StringRef name : {"interleaved", "num_heads", "rotary_embedding_dim"})
      if (Attribute value = op->getAttr(name))
        attributes.push_back(rewriter.getNamedAttr(name, value));
    rewriter.replaceOp(op, createNode(rewriter, op, "RotaryEmbedding",
                                      {op.getInputs()[0], op.getInputs()[2],
                                       op.getInputs()[3], op.getInputs()[1]},
                                      attributes, op.getResult(0).getType()));
    return success();
  }
};

struct RaiseRotary : qlm::impl::RaiseRotaryBase<RaiseRotary> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<RaiseRotatedHalf, RaiseHalves, RaiseContributedRotary>(
        &getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
