//===- Attention.cpp - Attention and rotary embeddings --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelAttention.h"
#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

//===----------------------------------------------------------------------===//
// Heads
//===----------------------------------------------------------------------===//

/// \p x, whose last of three dimensions holds the heads side by side, as
/// [batch, tokens, heads, size]. Fails, in the node, when they don't divide it.
static Tensor parseHeads(Node &node, const Tensor &x, StringRef attribute) {
  TensorBuilder &b = node.b;
  int64_t heads = node.integer(attribute, 0);
  if (x.rank() != 3 || heads < 1 || ShapedType::isDynamic(x.dim(2)) ||
      x.dim(2) % heads) {
    (void)node.fail(attribute + " must divide the last dimension of three");
    return {};
  }
  Value rows = b.reshape(x.value, {b.dim(x.value, 0), b.dim(x.value, 1),
                                   b.index(heads), b.index(x.dim(2) / heads)});
  return {rows, x.type, {}};
}

/// \p x as [batch, heads, tokens, size].
static Tensor splitHeads(Node &node, const Tensor &x, StringRef attribute) {
  if (x.rank() == 4)
    return x;
  Tensor rows = parseHeads(node, x, attribute);
  if (!rows)
    return {};
  return {node.b.transpose(rows.value, {0, 2, 1, 3}), x.type, {}};
}

/// [batch, heads, tokens, size] with the heads side by side in each token.
static Value mergeHeads(TensorBuilder &b, Value x) {
  SmallVector<Value> sizes = b.dims(x);
  return b.reshape(b.transpose(x, {0, 2, 1, 3}),
                   {sizes[0], sizes[2], b.mul(sizes[1], sizes[3])});
}

/// The tokens of \p past, if there are any, before those of \p x.
static Value putBehind(Node &node, int64_t past, Value x) {
  if (!node.has(past))
    return x;
  TensorBuilder &b = node.b;
  SmallVector<Value> parts{node.in(past).value, x};
  auto type = tensor::ConcatOp::inferResultType(/*dim=*/2,
                                                ValueRange(parts).getTypes());
  return tensor::ConcatOp::create(b, b.loc, type, 2, parts);
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

namespace {
/// One Attention node. Inputs: query, key, value, mask, past key, past value,
/// tokens of the cache that count.
class AttentionEmitter {
public:
  explicit AttentionEmitter(Node &node) : node(node), b(node.b) {}
  LogicalResult emit();

private:
  LogicalResult readAttributes();
  bool isForKernel();
  LogicalResult emitKernel();
  Value makeScores();
  void requireMaskFits();
  Value makeBias();
  Value biasAt(ValueRange at);
  Value maskAt(ValueRange at);
  Value keep(Value bias, Value isAllowed);
  Value makeProbabilities(Value scores, Value bias);
  Value makeOutput(Value probabilities);

  Value zero() { return b.constant(stored, 0); }
  Value negativeInfinity() { return lowestElement(b, type); }
  /// The head of keys and values that serves head \p head of queries.
  Value sharedHead(Value head) {
    return b.floorDiv(head, b.index(queryHeads / keyHeads));
  }

  Node &node;
  TensorBuilder &b;
  Tensor query, key, value;
  /// The element type of queries, its stored type, and what sums are kept in.
  int32_t type = 0, wide = 0;
  Type stored;
  int64_t queryHeads = 0, keyHeads = 0;
  double scale = 0, softcap = 0;
  int64_t left = -1, right = -1, mode = 0;
  bool isCausal = false;
  /// Of the first query among the keys; null for 0.
  Value offset;
};
} // namespace

LogicalResult AttentionEmitter::readAttributes() {
  bool isFlat = node.in(0).rank() == 3;
  query = splitHeads(node, node.in(0), "q_num_heads");
  key = splitHeads(node, node.in(1), "kv_num_heads");
  value = splitHeads(node, node.in(2), "kv_num_heads");
  if (node.failed())
    return failure();
  if (!isFlat && (node.find("q_num_heads") || node.find("kv_num_heads")) &&
      node.opset >= 25)
    return node.fail("numbers of heads are for inputs of three dimensions");
  type = query.type;
  if (!isFloatType(type) || key.type != type || value.type != type)
    return node.fail("queries, keys and values must be floats of one type");
  if (node.has(4) != node.has(5))
    return node.fail("past keys and values must be given together");
  if (node.has(4) && node.has(6))
    return node.fail("nonpad_kv_seqlen cannot be given with a past");
  stored = getStoredType(b.getContext(), type);
  wide = accumulatorType(type);
  queryHeads = query.dim(1);
  keyHeads = key.dim(1);
  if (ShapedType::isDynamic(queryHeads) || ShapedType::isDynamic(keyHeads) ||
      keyHeads < 1 || queryHeads % keyHeads || value.dim(1) != keyHeads)
    return node.fail("heads of keys and values must divide those of queries");
  if (ShapedType::isDynamic(query.dim(3)) || key.dim(3) != query.dim(3))
    return node.fail("queries and keys must have the same known head size");
  scale = node.number("scale", 1 / std::sqrt(double(query.dim(3))));
  softcap = node.number("softcap", 0);
  left = node.integer("left_window_size", -1);
  right = node.integer("right_window_size", -1);
  isCausal = node.integer("is_causal", 0) != 0;
  mode = node.integer("qk_matmul_output_mode", 0);
  if (scale < 0 || left < -1 || right < -1 || mode < 0 || mode > 3)
    return node.fail("scale, window sizes and qk_matmul_output_mode must be in "
                     "their ranges");
  if (node.has(3) && (node.in(3).rank() < 1 || node.in(3).rank() > 4))
    return node.fail("a mask has one to four dimensions");
  if (node.has(4))
    offset = b.dim(node.in(4).value, 2);
  return success();
}

/// Products of queries and keys, each times the root of the scale:
/// [batch, query heads, queries, keys].
Value AttentionEmitter::makeScores() {
  Value root = convertElement(b, b.constant(b.getF64Type(), std::sqrt(scale)),
                              TensorProto::DOUBLE, type);
  SmallVector<Value> q = b.dims(query.value);
  Value keys = b.dim(key.value, 2);
  Type wideStored = getStoredType(b.getContext(), wide);
  return b.generate({q[0], q[1], q[2], keys}, stored, [&](ValueRange at) {
    auto sum =
        b.loop(b.index(0), q[3], {b.constant(wideStored, 0)},
               [&](Value d, ValueRange carried) -> SmallVector<Value> {
                 Value x = b.extract(query.value, {at[0], at[1], at[2], d});
                 Value y =
                     b.extract(key.value, {at[0], sharedHead(at[1]), at[3], d});
                 x = convertElement(b, mulElements(b, x, root), type, wide);
                 y = convertElement(b, mulElements(b, y, root), type, wide);
                 return {addElements(b, carried[0], mulElements(b, x, y))};
               });
    return convertElement(b, sum[0], wide, type);
  });
}

Value AttentionEmitter::keep(Value bias, Value isAllowed) {
  return arith::SelectOp::create(b, b.loc, isAllowed, bias, negativeInfinity());
}

/// What the mask adds; it may cover fewer keys than there are.
Value AttentionEmitter::maskAt(ValueRange at) {
  const Tensor &mask = node.in(3);
  int64_t rank = mask.rank();
  Value covered = b.dim(mask.value, rank - 1);
  Value isCovered = b.less(at[3], covered);
  // The last dimension is read inside its bounds, the others broadcast.
  SmallVector<Value> from;
  for (int64_t axis = 0; axis < rank; ++axis) {
    Value i = at[4 - rank + axis];
    Value size = b.dim(mask.value, axis);
    from.push_back(axis + 1 == rank
                       ? b.max(b.min(i, b.sub(size, b.index(1))), b.index(0))
                       : b.select(b.equal(size, b.index(1)), b.index(0), i));
  }
  Value element = b.extract(mask.value, from);
  if (isBoolType(mask.type))
    element = keep(zero(), element);
  else
    element = convertElement(b, element, mask.type, type);
  return keep(element, isCovered);
}

Value AttentionEmitter::biasAt(ValueRange at) {
  Value bias = node.has(3) ? maskAt(at) : zero();
  Value counted;
  if (node.has(6))
    counted = b.toIndex(b.extract(node.in(6).value, at[0]));
  Value first = offset ? offset : b.index(0);
  if (counted)
    first = b.sub(counted, b.dim(query.value, 2));
  Value place = b.add(at[2], first);
  auto notAbove = [&](Value low, Value high) {
    return arith::CmpIOp::create(b, b.loc, arith::CmpIPredicate::sle, low,
                                 high);
  };
  if (isCausal)
    bias = keep(bias, notAbove(at[3], place));
  if (left >= 0)
    bias = keep(bias, notAbove(b.sub(place, b.index(left)), at[3]));
  if (right >= 0)
    bias = keep(bias, notAbove(at[3], b.add(place, b.index(right))));
  if (counted)
    bias = keep(bias, b.less(at[3], counted));
  return bias;
}

void AttentionEmitter::requireMaskFits() {
  if (!node.has(3))
    return;
  int64_t rank = node.in(3).rank();
  for (int64_t axis = 0; axis + 1 < rank; ++axis)
    b.requireBroadcast(b.dim(node.in(3).value, axis),
                       b.dim(query.value, 4 - rank + axis));
}

/// What is added to the scores: [batch, query heads, queries, keys].
Value AttentionEmitter::makeBias() {
  SmallVector<Value> sizes = b.dims(query.value);
  sizes[3] = b.dim(key.value, 2);
  requireMaskFits();
  return b.generate(sizes, stored, [&](ValueRange at) { return biasAt(at); });
}

/// Softmax over the keys; a query that may see none gets zeros. Each step
/// rounds to the precision asked for, as the standard's formula does.
Value AttentionEmitter::makeProbabilities(Value scores, Value bias) {
  auto precision = static_cast<int32_t>(node.integer("softmax_precision", 0));
  if (!precision)
    precision = type;
  int32_t exact = accumulatorType(precision);
  if (!isFloatType(exact) || !getStoredType(b.getContext(), exact)) {
    (void)node.fail("softmax_precision must be a float type");
    return {};
  }
  SmallVector<Value> sizes = b.dims(scores);
  Value keys = sizes[3];
  Type exactStored = getStoredType(b.getContext(), exact);
  auto round = [&](Value v) { return roundElement(b, v, exact, precision); };
  auto scoreAt = [&](ValueRange row, Value j) {
    return round(convertElement(
        b, b.extract(scores, {row[0], row[1], row[2], j}), type, exact));
  };
  ArrayRef<Value> rows = ArrayRef(sizes).take_front(3);
  Value highest = b.generate(rows, exactStored, [&](ValueRange row) {
    return b.loop(b.index(0), keys, {lowestElement(b, exact)},
                  [&](Value j, ValueRange carried) -> SmallVector<Value> {
                    return {maxElements(b, carried[0], scoreAt(row, j), exact)};
                  })[0];
  });
  Value exponents = b.generate(sizes, exactStored, [&](ValueRange at) -> Value {
    Value e = round(subElements(b, scoreAt(at, at[3]),
                                b.extract(highest, at.take_front(3))));
    return round(math::ExpOp::create(b, b.loc, e));
  });
  Value sums = b.generate(rows, exactStored, [&](ValueRange row) {
    auto sum = b.loop(b.index(0), keys, {b.constant(exactStored, 0)},
                      [&](Value j, ValueRange carried) -> SmallVector<Value> {
                        Value e =
                            b.extract(exponents, {row[0], row[1], row[2], j});
                        return {addElements(b, carried[0], e)};
                      });
    return roundSum(b, sum[0], exact, precision);
  });
  Value freest = b.generate(rows, stored, [&](ValueRange row) {
    return b.loop(b.index(0), keys, {negativeInfinity()},
                  [&](Value j, ValueRange carried) -> SmallVector<Value> {
                    Value e = b.extract(bias, {row[0], row[1], row[2], j});
                    return {maxElements(b, carried[0], e, type)};
                  })[0];
  });
  return b.generate(sizes, stored, [&](ValueRange at) -> Value {
    ValueRange row = at.take_front(3);
    Value p = round(
        divElements(b, b.extract(exponents, at), b.extract(sums, row), exact));
    Value sees =
        arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::UNE,
                              b.extract(freest, row), negativeInfinity());
    p = convertElement(b, p, exact, type);
    return arith::SelectOp::create(b, b.loc, sees, p, zero());
  });
}

Value AttentionEmitter::makeOutput(Value probabilities) {
  SmallVector<Value> sizes = b.dims(query.value);
  Value keys = b.dim(value.value, 2);
  Type wideStored = getStoredType(b.getContext(), wide);
  sizes[3] = b.dim(value.value, 3);
  return b.generate(sizes, stored, [&](ValueRange at) {
    auto sum = b.loop(
        b.index(0), keys, {b.constant(wideStored, 0)},
        [&](Value j, ValueRange carried) -> SmallVector<Value> {
          Value p = b.extract(probabilities, {at[0], at[1], at[2], j});
          Value v =
              b.extract(value.value, {at[0], sharedHead(at[1]), j, at[3]});
          return {addElements(b, carried[0],
                              mulElements(b, convertElement(b, p, type, wide),
                                          convertElement(b, v, type, wide)))};
        });
    return convertElement(b, sum[0], wide, type);
  });
}

/// Whether graph.attention says what the node does. It doesn't give what is
/// between, and takes no sums of f64.
bool AttentionEmitter::isForKernel() {
  auto precision = static_cast<int32_t>(node.integer("softmax_precision", 0));
  bool isWide = precision == TensorProto::DOUBLE;
  if (node.wants(3) || !isKernelType(type) || isWide ||
      (precision && !isFloatType(precision)))
    return false;
  if (node.has(3) && !isBoolType(node.in(3).type) &&
      !isKernelType(node.in(3).type))
    return false;
  if (node.has(6) && node.in(6).type != TensorProto::INT64)
    return false;
  auto isKernelSize = [](int64_t size) {
    return !ShapedType::isDynamic(size) && size > 0 && size <= kMostFeatures;
  };
  return isKernelSize(query.dim(3)) && isKernelSize(value.dim(3));
}

/// Rules about sizes, and one operation.
LogicalResult AttentionEmitter::emitKernel() {
  requireMaskFits();
  Value batch = b.dim(query.value, 0);
  b.requireEqual(b.dim(key.value, 0), batch, "batches");
  b.requireEqual(b.dim(value.value, 0), batch, "batches");
  b.requireEqual(b.dim(value.value, 2), b.dim(key.value, 2),
                 "numbers of keys and values");
  if (node.has(6))
    b.requireFits(batch, node.in(6).value, 0);
  bool isFlat = node.in(0).rank() == 3;
  KernelAttention attention;
  attention.query = {query.value, /*tokensFirst=*/false};
  attention.key = {key.value, /*tokensFirst=*/false};
  attention.value = {value.value, /*tokensFirst=*/false};
  // Heads side by side need no copy.
  auto takeRows = [&](int64_t i, StringRef heads, HeadsTensor &of) {
    if (node.in(i).rank() == 3)
      of = {parseHeads(node, node.in(i), heads).value, /*tokensFirst=*/true};
  };
  takeRows(0, "q_num_heads", attention.query);
  if (!node.has(4)) {
    takeRows(1, "kv_num_heads", attention.key);
    takeRows(2, "kv_num_heads", attention.value);
  }
  if (node.has(3))
    attention.mask = node.in(3).value;
  if (node.has(6))
    attention.lengths = node.in(6).value;
  attention.first = offset;
  attention.scale = scale;
  attention.softcap = std::max(softcap, 0.0);
  attention.left = left;
  attention.right = right;
  attention.isCausal = isCausal;
  Value output = attention.emit(b);
  if (isFlat) {
    SmallVector<Value> sizes = b.dims(output);
    output = b.reshape(output, {sizes[0], sizes[1], b.mul(sizes[2], sizes[3])});
  }
  (void)node.set(1, key.value, type);
  (void)node.set(2, value.value, type);
  return node.set(0, output, type);
}

LogicalResult AttentionEmitter::emit() {
  if (readAttributes().failed())
    return failure();
  bool isFlat = node.in(0).rank() == 3;
  key.value = putBehind(node, 4, key.value);
  value.value = putBehind(node, 5, value.value);
  if (isForKernel())
    return emitKernel();
  Value scores = makeScores();
  Value shown = scores;
  if (softcap > 0)
    scores = b.map({scores}, stored, [&](ValueRange e) {
      Value cap = b.constant(stored, softcap);
      Value v = math::TanhOp::create(b, b.loc, divElements(b, e[0], cap, type));
      return mulElements(b, v, cap);
    });
  if (mode == 1)
    shown = scores;
  Value bias = makeBias();
  scores = b.map({scores, bias}, stored,
                 [&](ValueRange e) { return addElements(b, e[0], e[1]); });
  if (mode == 2)
    shown = scores;
  Value probabilities = makeProbabilities(scores, bias);
  if (!probabilities)
    return failure();
  if (mode == 3)
    shown = probabilities;
  Value output = makeOutput(probabilities);
  (void)node.set(1, key.value, type);
  (void)node.set(2, value.value, type);
  (void)node.set(3, shown, type);
  return node.set(0, isFlat ? mergeHeads(b, output) : output, type);
}

static LogicalResult emitAttention(Node &node) {
  return AttentionEmitter(node).emit();
}

//===----------------------------------------------------------------------===//
// Rotary embedding
//===----------------------------------------------------------------------===//

/// Rotates pairs of a head's first elements: (x, y) becomes
/// (c x - s y, s x + c y). Pairs are halves, or neighbours when interleaved.
static LogicalResult rotate(Node &node, const Tensor &x, const Tensor &cosines,
                            const Tensor &sines, const Tensor *positions) {
  TensorBuilder &b = node.b;
  Tensor heads = splitHeads(node, x, "num_heads");
  if (node.failed())
    return failure();
  int64_t size = heads.dim(3);
  int64_t rotated = node.integer("rotary_embedding_dim", 0);
  if (ShapedType::isDynamic(size) || rotated < 0 || rotated > size ||
      rotated % 2)
    return node.fail("rotary_embedding_dim must be even and at most the known "
                     "head size");
  if (!rotated)
    rotated = size;
  int64_t half = rotated / 2;
  for (const Tensor *table : {&cosines, &sines})
    if (table->rank() != (positions ? 2 : 3) ||
        table->dim(table->rank() - 1) != half)
      return node.fail("tables must have " + llvm::Twine(half) +
                       " columns for rotary_embedding_dim " +
                       llvm::Twine(rotated));
  bool isInterleaved = node.integer("interleaved", 0) != 0;
  int32_t wide = accumulatorType(x.type);
  auto tableAt = [&](const Tensor &table, ValueRange at, Value pair) {
    Value e;
    if (positions) {
      Value row =
          b.toIndex(b.extractBroadcast(positions->value, {at[0], at[2]}));
      row = b.max(b.min(row, b.sub(b.dim(table.value, 0), b.index(1))),
                  b.index(0));
      e = b.extract(table.value, {row, pair});
    } else {
      e = b.extractBroadcast(table.value, {at[0], at[2], pair});
    }
    return convertElement(b, e, table.type, wide);
  };
  Value result =
      b.generate(b.dims(heads.value), heads.elementType(), [&](ValueRange at) {
        Value d = at[3];
        // What lies past the rotated part reads the last pair and is dropped.
        Value inside = b.min(d, b.index(rotated - 1));
        Value pair = isInterleaved ? b.floorDiv(inside, b.index(2))
                                   : b.rem(inside, b.index(half));
        Value isSecond =
            isInterleaved
                ? b.equal(b.rem(inside, b.index(2)), b.index(1))
                : arith::CmpIOp::create(b, b.loc, arith::CmpIPredicate::sge,
                                        inside, b.index(half));
        Value first = isInterleaved ? b.mul(pair, b.index(2)) : pair;
        Value second = b.add(first, b.index(isInterleaved ? 1 : half));
        auto read = [&](Value i) {
          return convertElement(
              b, b.extract(heads.value, {at[0], at[1], at[2], i}), x.type,
              wide);
        };
        Value u = read(first), v = read(second);
        Value c = tableAt(cosines, at, pair), s = tableAt(sines, at, pair);
        Value real = subElements(b, mulElements(b, c, u), mulElements(b, s, v));
        Value imaginary =
            addElements(b, mulElements(b, s, u), mulElements(b, c, v));
        Value turned =
            arith::SelectOp::create(b, b.loc, isSecond, imaginary, real);
        turned = convertElement(b, turned, wide, x.type);
        return b.select(b.less(d, b.index(rotated)), turned,
                        b.extract(heads.value, at));
      });
  if (x.rank() == 3)
    result = mergeHeads(b, result);
  return node.set(0, result, x.type);
}

static LogicalResult emitRotaryEmbedding(Node &node) {
  return rotate(node, node.in(0), node.in(1), node.in(2),
                node.has(3) ? &node.in(3) : nullptr);
}

static const Operator operators[] = {
    {"", "Attention", 3, 7, emitAttention},
    {"", "RotaryEmbedding", 3, 4, emitRotaryEmbedding},
};

ArrayRef<Operator> mlir::qlm::onnx_import::attentionOperators() {
  return operators;
}
