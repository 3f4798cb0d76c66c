//===- RaiseAttention.cpp - Recognises attention of an ONNX graph ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Matching.h"
#include "qlm/Dialect/ApplyPatterns.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_RAISEATTENTION
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

namespace {
/// What stands between the product of queries and keys and the softmax.
struct Scores {
  NodeOp product;
  double scale = 1;
  Value mask;
};

/// Keys or values: what the cache holds, and what is new.
struct Cached {
  Value past, current;
};
} // namespace

static RankedTensorType getType(Value value) {
  return dyn_cast<RankedTensorType>(value.getType());
}

static int64_t getSize(Value value, int64_t axis) {
  auto type = getType(value);
  return type && type.getRank() == 4 ? type.getDimSize(axis)
                                     : ShapedType::kDynamic;
}

/// Passes products with numbers, which \p scale takes.
static Value skipScales(Value value, double &scale) {
  while (true) {
    value = skipNoise(value);
    auto op = value.getDefiningOp<NodeOp>();
    if (!op || op.getInputs().size() != 2)
      return value;
    if (op.is("Mul")) {
      auto scaled = findScalar(op);
      if (!scaled)
        return value;
      scale *= scaled->number;
      value = scaled->value;
    } else if (op.is("Div")) {
      auto number = getScalar(op.getInputs()[1]);
      if (!number)
        return value;
      scale /= *number;
      value = op.getInputs()[0];
    } else {
      return value;
    }
  }
}

/// Passes reshapes that give back the shape they got.
static Value skipReshapes(Value value) {
  while (true) {
    value = skipNoise(value);
    NodeOp op = find(value, "Reshape");
    auto type = getType(value);
    if (!op || !type || getType(op.getInputs()[0]) != type ||
        type.getNumDynamicDims() > 2)
      return value;
    // With two open sizes (batch and tokens) in one order, both are kept, for
    // no known size could have moved.
    value = op.getInputs()[0];
  }
}

/// Walks from the softmax up to the product of queries and keys.
static std::optional<Scores> matchScores(Value value) {
  Scores scores;
  while (true) {
    value = skipScales(value, scores.scale);
    auto op = value.getDefiningOp<NodeOp>();
    if (!op)
      return std::nullopt;
    if (op.is("MatMul")) {
      scores.product = op;
      return scores;
    }
    if (op.is("Add") && op.getInputs().size() == 2 && !scores.mask) {
      if (scores.scale != 1)
        return std::nullopt; // the mask is scaled too
      // The scores are the operand that leads to the product.
      for (unsigned i = 0; i < 2; ++i) {
        double scale = 1;
        Value side = skipScales(op.getInputs()[i], scale);
        if (find(side, "MatMul")) {
          scores.mask = op.getInputs()[1 - i];
          value = op.getInputs()[i];
          break;
        }
      }
      if (scores.mask)
        continue;
    }
    if (op.is("Where") && op.getInputs().size() == 3 && !scores.mask) {
      auto low = getScalar(op.getInputs()[2]);
      if (scores.scale == 1 && low && *low <= -1e4) {
        scores.mask = op.getInputs()[0];
        value = op.getInputs()[1];
        continue;
      }
    }
    return std::nullopt;
  }
}

/// The softmax behind the probabilities; a row that hides every token may
/// become zeros after it.
static NodeOp findSoftmax(Value value) {
  if (NodeOp where = find(value, "Where"); where && where.input(2))
    if (NodeOp isNan = find(where.getInputs()[0], "IsNaN"))
      if (isScalar(where.getInputs()[1], 0) &&
          skipNoise(isNan.getInputs()[0]) == skipNoise(where.getInputs()[2]))
        value = where.getInputs()[2];
  NodeOp softmax = find(value, "Softmax");
  if (!softmax)
    return {};
  int64_t axis = softmax.integer("axis", -1);
  return axis == -1 || axis == 3 ? softmax : NodeOp();
}

/// `x` of a value that swaps the last two dimensions of x, directly or with
/// the dimensions before joined to one.
static Value matchTransposed(Value value) {
  auto endsSwapped = [](NodeOp op) {
    auto order = op->getAttrOfType<DenseI64ArrayAttr>("perm");
    if (!order || order.size() < 3)
      return false;
    int64_t rank = order.size();
    for (int64_t i = 0; i < rank - 2; ++i)
      if (order[i] != i)
        return false;
    return order[rank - 2] == rank - 1 && order[rank - 1] == rank - 2;
  };
  if (NodeOp op = find(value, "Transpose"); op && endsSwapped(op))
    return op.getInputs()[0];
  NodeOp outer = find(value, "Reshape");
  NodeOp middle = outer ? find(outer.getInputs()[0], "Transpose") : NodeOp();
  NodeOp inner = middle ? find(middle.getInputs()[0], "Reshape") : NodeOp();
  if (!inner || !endsSwapped(middle))
    return {};
  auto to = getType(value), from = getType(inner.getInputs()[0]),
       joined = getType(inner.getResult(0));
  if (!to || !from || !joined || to.getRank() != 4 || from.getRank() != 4 ||
      joined.getRank() != 3)
    return {};
  // [batch, heads, tokens, headDim] to [batch * heads, tokens, headDim].
  bool fits = from.getDimSize(1) == to.getDimSize(1) &&
              from.getDimSize(3) == to.getDimSize(2) &&
              joined.getDimSize(2) == from.getDimSize(3) &&
              !from.isDynamicDim(3);
  return fits ? inner.getInputs()[0] : Value();
}

/// `x` of heads that are repeated for the queries that share them, side by
/// side; \p value itself where none are.
static Value skipRepeats(Value value) {
  value = skipReshapes(value);
  NodeOp reshape = find(value, "Reshape");
  NodeOp expand = reshape ? find(reshape.getInputs()[0], "Expand") : NodeOp();
  NodeOp unsqueeze =
      expand ? find(expand.getInputs()[0], "Unsqueeze") : NodeOp();
  if (!unsqueeze)
    return value;
  Value source = skipNoise(unsqueeze.getInputs()[0]);
  auto from = getType(unsqueeze.getResult(0)),
       wide = getType(expand.getResult(0));
  if (!from || !wide || from.getRank() != 5 || wide.getRank() != 5 ||
      from.getDimSize(2) != 1 || wide.isDynamicDim(2) ||
      from.getDimSize(1) != wide.getDimSize(1) ||
      from.getDimSize(4) != wide.getDimSize(4))
    return value;
  int64_t heads = getSize(value, 1), kvHeads = getSize(source, 1);
  if (ShapedType::isDynamic(kvHeads) || kvHeads != from.getDimSize(1) ||
      heads != kvHeads * wide.getDimSize(2) ||
      getSize(source, 3) != getSize(value, 3))
    return value;
  return source;
}

/// Takes apart `Concat(past, new)` along the tokens.
static Cached splitCache(Value value) {
  NodeOp concat = find(value, "Concat");
  if (!concat || concat.getInputs().size() != 2)
    return {{}, value};
  int64_t axis = concat.integer("axis", 0);
  Value past = skipNoise(concat.getInputs()[0]);
  if ((axis != 2 && axis != -2) || !isa<BlockArgument>(past))
    return {{}, value};
  return {past, skipNoise(concat.getInputs()[1])};
}

namespace {
struct RaiseSpelled : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("MatMul"))
      return failure();
    NodeOp softmax = findSoftmax(op.getInputs()[0]);
    if (!softmax)
      return rewriter.notifyMatchFailure(op, "the left side is no softmax");
    auto scores = matchScores(softmax.getInputs()[0]);
    if (!scores)
      return rewriter.notifyMatchFailure(
          op, "the scores are no product, scaled and masked");
    double scale = scores->scale;
    Value query =
        skipReshapes(skipScales(scores->product.getInputs()[0], scale));
    Value transposed = skipScales(scores->product.getInputs()[1], scale);
    Value key = matchTransposed(transposed);
    if (!key)
      return rewriter.notifyMatchFailure(op, "the keys aren't transposed");
    key = skipRepeats(skipScales(key, scale));
    Value value = skipRepeats(op.getInputs()[1]);
    auto type = getType(query);
    if (!type || type.getRank() != 4 || getSize(key, 1) != getSize(value, 1) ||
        ShapedType::isDynamic(getSize(key, 1)))
      return rewriter.notifyMatchFailure(
          op, "queries, keys and values don't have known heads");
    Cached keys = splitCache(key), values = splitCache(value);
    if (static_cast<bool>(keys.past) != static_cast<bool>(values.past))
      return rewriter.notifyMatchFailure(
          op, "keys or values have a past, not both");
    SmallVector<Value> inputs = {query, keys.current, values.current};
    Value absent;
    if (scores->mask || keys.past) {
      if (!scores->mask || !keys.past)
        absent =
            AbsentOp::create(rewriter, op.getLoc(), rewriter.getNoneType());
      inputs.push_back(scores->mask ? scores->mask : absent);
    }
    if (keys.past)
      llvm::append_values(inputs, keys.past, values.past);
    NodeOp attention = createNode(
        rewriter, op, "Attention", inputs,
        {rewriter.getNamedAttr(
            "scale", rewriter.getF32FloatAttr(static_cast<float>(scale)))},
        op.getResult(0).getType());
    rewriter.replaceOp(op, attention);
    return success();
  }
};

/// The operator of ONNX Runtime: attention with a cache, perhaps with rotary
/// embeddings and with queries, keys and values side by side in one input.
struct RaiseGrouped : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  static constexpr unsigned kPast = 3, kLengths = 5, kCosines = 7,
                            kPositions = 9, kBias = 10;

  /// The operator's features that nothing else here has.
  static StringRef findUnhandled(NodeOp op) {
    if (op.getInputs().size() < 7 || !op.input(kPast) || !op.input(kPast + 1))
      return "the cache is missing";
    if (op.integer("local_window_size", -1) != -1)
      return "windows are not handled";
    if (op.number("softcap", 0) != 0 || op.integer("smooth_softmax", 0))
      return "capped scores are not handled";
    for (unsigned i = kBias; i < op.getInputs().size(); ++i)
      if (op.input(i))
        return "biases of scores are not handled";
    return {};
  }

  LogicalResult matchAndRewrite(NodeOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.is("com.microsoft.GroupQueryAttention"))
      return failure();
    if (StringRef problem = findUnhandled(op); !problem.empty())
      return rewriter.notifyMatchFailure(op, problem);
    int64_t heads = op.integer("num_heads", 0);
    int64_t kvHeads = op.integer("kv_num_heads", 0);
    SmallVector<Value, 3> parts(op.getInputs().take_front(3));
    if (!op.input(1)) {
      auto type = getType(op.getInputs()[0]);
      int64_t all = heads + 2 * kvHeads;
      if (!type || type.getRank() != 3 || type.isDynamicDim(2) || all <= 0 ||
          type.getDimSize(2) % all != 0)
        return rewriter.notifyMatchFailure(op, "the packed heads don't fit");
      parts = split(op, type.getDimSize(2) / all, heads, kvHeads, rewriter);
    }
    if (op.integer("do_rotary", 0)) {
      Value positions = op.input(kPositions);
      if (!positions)
        positions = makePositions(op, parts[0], rewriter);
      for (auto [part, count] :
           {std::pair(&parts[0], heads), std::pair(&parts[1], kvHeads)})
        *part = createNode(
                    rewriter, op, "RotaryEmbedding",
                    {*part, op.getInputs()[kCosines],
                     op.getInputs()[kCosines + 1], positions},
                    {rewriter.getNamedAttr("num_heads",
                                           rewriter.getI64IntegerAttr(count)),
                     rewriter.getNamedAttr(
                         "interleaved", rewriter.getI64IntegerAttr(op.integer(
                                            "rotary_interleaved", 0)))},
                    part->getType())
                    .getResult(0);
    }
    Value absent =
        AbsentOp::create(rewriter, op.getLoc(), rewriter.getNoneType());
    SmallVector<NamedAttribute> attributes = {
        rewriter.getNamedAttr("q_num_heads", rewriter.getI64IntegerAttr(heads)),
        rewriter.getNamedAttr("kv_num_heads",
                              rewriter.getI64IntegerAttr(kvHeads)),
        rewriter.getNamedAttr("is_causal", rewriter.getI64IntegerAttr(1))};
    if (Attribute scale = op->getAttr("scale"))
      attributes.push_back(rewriter.getNamedAttr("scale", scale));
    SmallVector<Type> types(op->getResultTypes());
    auto attention = NodeOp::create(
        rewriter, op.getLoc(), types, rewriter.getStringAttr("Attention"),
        ValueRange{parts[0], parts[1], parts[2], absent, op.getInputs()[kPast],
                   op.getInputs()[kPast + 1]});
    attention->setDiscardableAttrs(attributes);
    rewriter.replaceOp(op, attention);
    return success();
  }

  static SmallVector<Value, 3> split(NodeOp op, int64_t headDim, int64_t heads,
                                     int64_t kvHeads,
                                     PatternRewriter &rewriter) {
    int64_t sizes[] = {heads * headDim, kvHeads * headDim, kvHeads * headDim};
    Value constant = makeList(rewriter, op, sizes);
    SmallVector<Type> types;
    auto packed = getType(op.getInputs()[0]);
    for (int64_t size : sizes)
      types.push_back(packed.clone(SmallVector<int64_t>{
          packed.getDimSize(0), packed.getDimSize(1), size}));
    auto node = NodeOp::create(rewriter, op.getLoc(), types,
                               rewriter.getStringAttr("Split"),
                               ValueRange{op.getInputs()[0], constant});
    node->setAttr("axis", rewriter.getI64IntegerAttr(-1));
    return SmallVector<Value, 3>(node.getResults());
  }

  /// Those of new tokens, at the end of the sequences: of `lengths`, which is
  /// one less than all tokens, the last of them.
  static Value makePositions(NodeOp op, Value query,
                             PatternRewriter &rewriter) {
    auto node = [&](StringRef kind, ValueRange inputs,
                    ArrayRef<NamedAttribute> attributes = {}) -> Value {
      return createNode(rewriter, op, kind, inputs, attributes).getResult(0);
    };
    auto number = [&](StringRef name, int64_t value) {
      return rewriter.getNamedAttr(name, rewriter.getI64IntegerAttr(value));
    };
    auto constant = [&](ArrayRef<int64_t> shape, int64_t value) -> Value {
      auto type = RankedTensorType::get(shape, rewriter.getI64Type());
      auto elements = DenseElementsAttr::get(type, ArrayRef(value));
      return ConstantOp::create(rewriter, op.getLoc(), type,
                                cast<TypedAttr>(elements), StringAttr(),
                                StringAttr(), IntegerAttr());
    };
    constexpr int64_t kInt64 = 7; // onnx.TensorProto.DataType
    Value tokens =
        node("Squeeze",
             {node("Shape", query, {number("start", 1), number("end", 2)})});
    Value last =
        node("Reshape",
             {node("Cast", op.getInputs()[kLengths], {number("to", kInt64)}),
              makeList(rewriter, op, {-1, 1})});
    Value first = node("Add", {node("Sub", {last, tokens}), constant({}, 1)});
    Value steps = node("Range", {constant({}, 0), tokens, constant({}, 1)});
    return node("Add", {first, steps});
  }

  static Value makeList(PatternRewriter &rewriter, NodeOp op,
                        ArrayRef<int64_t> values) {
    auto list = rewriter.getI64TensorAttr(values);
    return ConstantOp::create(rewriter, op.getLoc(), list.getType(),
                              cast<TypedAttr>(list), StringAttr(), StringAttr(),
                              IntegerAttr());
  }
};

struct RaiseAttention : qlm::impl::RaiseAttentionBase<RaiseAttention> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<RaiseSpelled, RaiseGrouped>(&getContext());
    if (failed(applyPatternsOnly(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
