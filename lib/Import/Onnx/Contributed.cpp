//===- Contributed.cpp - Operators of ONNX Runtime ------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Operators of the domain com.microsoft, each by what it means in the
// standard's: their emitters are given the same tensors.
//
//===----------------------------------------------------------------------===//

#include "Operators.h"
#include "PackedWeights.h"
#include "Products.h"
#include "Standard.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Dialect/Qlm.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

static LogicalResult finish(Node &node, const Tensor &result) {
  return result ? node.set(0, result.value, result.type) : failure();
}

static Tensor addTensors(Node &node, const Tensor &x, const Tensor &y) {
  return x && y ? Standard(node, "Add", {x, y}).emitOne() : Tensor();
}

//===----------------------------------------------------------------------===//
// Activations and normalizations
//===----------------------------------------------------------------------===//

/// Gelu of the input and, where there is one, a bias.
static LogicalResult emitGelu(Node &node, StringRef approximate) {
  Tensor x = node.in(0);
  if (node.has(1))
    x = addTensors(node, x, node.in(1));
  if (!x)
    return failure();
  return finish(
      node,
      Standard(node, "Gelu", {x}).set("approximate", approximate).emitOne());
}
static LogicalResult emitExactGelu(Node &node) {
  return emitGelu(node, "none");
}
static LogicalResult emitFastGelu(Node &node) { return emitGelu(node, "tanh"); }

static LogicalResult emitQuickGelu(Node &node) {
  return finish(node, Standard(node, "Swish", {node.in(0)})
                          .set("alpha", node.number("alpha", 1.702f))
                          .emitOne());
}

static LogicalResult emitSimplifiedLayerNorm(Node &node) {
  return finish(node,
                Standard(node, "RMSNormalization", {node.in(0), node.in(1)})
                    .set("axis", node.integer("axis", -1))
                    .set("epsilon", node.number("epsilon", 1e-5f))
                    .set("stash_type", node.integer("stash_type", 1))
                    .emitOne());
}

/// Inputs: data, what skipped to here, gamma, and where \p isSimplified a bias,
/// else beta and a bias. The sum that is normalized is the fourth output.
static LogicalResult emitSkipLayerNorm(Node &node, bool isSimplified) {
  int64_t bias = isSimplified ? 3 : 4;
  Tensor sum = addTensors(node, node.in(0), node.in(1));
  if (node.has(bias))
    sum = addTensors(node, sum, node.in(bias));
  if (!sum)
    return failure();
  SmallVector<Tensor> inputs{sum, node.in(2)};
  if (!isSimplified && node.has(3))
    inputs.push_back(node.in(3));
  Tensor result =
      Standard(node, isSimplified ? "RMSNormalization" : "LayerNormalization",
               inputs)
          .set("axis", int64_t(-1))
          .set("epsilon", node.number("epsilon", 1e-12f))
          .emitOne();
  (void)node.set(3, sum.value, sum.type);
  return finish(node, result);
}
static LogicalResult emitSkipLayerNormalization(Node &node) {
  return emitSkipLayerNorm(node, /*isSimplified=*/false);
}
static LogicalResult emitSkipSimplifiedLayerNorm(Node &node) {
  return emitSkipLayerNorm(node, /*isSimplified=*/true);
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

/// \p x with its last two dimensions in the other order.
static Tensor swapLast(Node &node, const Tensor &x) {
  auto order = llvm::to_vector(llvm::seq<int64_t>(0, x.rank()));
  std::swap(order[x.rank() - 1], order[x.rank() - 2]);
  return Standard(node, "Transpose", {x}).set("perm", order).emitOne();
}

static LogicalResult emitFusedMatMul(Node &node) {
  TensorBuilder &b = node.b;
  if (node.integer("transBatchA", 0) || node.integer("transBatchB", 0))
    return node.fail("transBatchA and transBatchB are not handled");
  Tensor x = node.in(0), y = node.in(1);
  bool turnsX = node.integer("transA", 0), turnsY = node.integer("transB", 0);
  double alpha = node.number("alpha", 1);
  bool isGemm = x.rank() == 2 && y.rank() == 2;
  if (isGemm)
    return finish(node, Standard(node, "Gemm", {x, y})
                            .set("transA", int64_t(turnsX))
                            .set("transB", int64_t(turnsY))
                            .set("alpha", alpha)
                            .emitOne());
  // Vectors have nothing to turn.
  if (turnsX && x.rank() > 1)
    x = swapLast(node, x);
  if (turnsY && y.rank() > 1)
    y = swapLast(node, y);
  Tensor product =
      x && y ? Standard(node, "MatMul", {x, y}).emitOne() : Tensor();
  if (!product || alpha == 1)
    return finish(node, product);
  int32_t wide = accumulatorType(product.type);
  Value scaled =
      b.map({product.value}, product.elementType(), [&](ValueRange e) {
        Value v = convertElement(b, e[0], product.type, wide);
        v = mulElements(b, v, b.constant(v.getType(), alpha));
        return convertElement(b, v, wide, product.type);
      });
  return node.set(0, scaled, product.type);
}

static Value makeFloats(TensorBuilder &b, ArrayRef<float> values,
                        ArrayRef<int64_t> shape) {
  auto type = RankedTensorType::get(shape, b.getF32Type());
  return arith::ConstantOp::create(b, b.loc,
                                   DenseElementsAttr::get(type, values));
}

/// \p weight as float32 [N, K]: the values of codes that are kept, where a
/// scheme has them.
static Value makeWeight(TensorBuilder &b, const PackedWeight &weight) {
  Value values = makeFloats(b, weight.dequantize(/*turned=*/false),
                            {weight.rows, weight.columns});
  SchemeAttr scheme = weight.getScheme(b.getContext());
  if (!scheme)
    return values;
  SmallVector<int64_t> shape{weight.rows, weight.getBlocks()};
  bool zeros = scheme.getZeroPoints();
  auto type = cast<RankedTensorType>(values.getType());
  auto kept = KeepCodesOp::create(
      b, b.loc, type.clone(scheme.getStorage()),
      RankedTensorType::get(shape, scheme.getScaleType()),
      zeros ? RankedTensorType::get(shape, scheme.getStorage())
            : RankedTensorType(),
      values, makeFloats(b, weight.scales, shape),
      zeros ? makeFloats(b, weight.zeroPoints, shape) : Value(), scheme);
  return DequantizeOp::create(b, b.loc, type, kept.getCodes(), kept.getScales(),
                              kept.getZeroPoints(),
                              /*outliers=*/Value(), scheme);
}

/// Inputs: x [..., K], codes, scales, zero points, order of columns, bias.
static LogicalResult emitMatMulNBits(Node &node) {
  TensorBuilder &b = node.b;
  const Tensor &x = node.in(0);
  auto weight =
      PackedWeight::read(node.getProto(), *node.file, node.findTensor);
  if (!weight)
    return node.fail(llvm::toString(weight.takeError()));
  if (x.rank() < 1 || x.dim(x.rank() - 1) != weight->columns)
    return node.fail("the input's last dimension must be K, " +
                     llvm::Twine(weight->columns));
  if (x.type != node.in(2).type)
    return node.fail("scales must have the input's element type");
  // Multiplied in float32: the weight is not rounded to the input's type.
  Tensor wide = x, result;
  if (x.type != TensorProto::FLOAT)
    wide = Standard(node, "Cast", {x})
               .set("to", int64_t(TensorProto::FLOAT))
               .emitOne();
  if (!wide)
    return failure();
  if (x.rank() > 1) {
    result = {emitLinear(b, wide, makeWeight(b, *weight), Value()),
              TensorProto::FLOAT,
              {}};
  } else {
    Value turned = makeFloats(b, weight->dequantize(/*turned=*/true),
                              {weight->columns, weight->rows});
    result = Standard(node, "MatMul", {wide, {turned, TensorProto::FLOAT, {}}})
                 .emitOne();
  }
  if (result && x.type != TensorProto::FLOAT)
    result =
        Standard(node, "Cast", {result}).set("to", int64_t(x.type)).emitOne();
  if (result && node.has(5))
    result = addTensors(node, result, node.in(5));
  return finish(node, result);
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

/// Positions [batch, tokens]: given so, or all of them from a first one on.
static Tensor spreadPositions(Node &node, const Tensor &positions, Value batch,
                              Value tokens) {
  if (positions.rank() != 1)
    return positions;
  TensorBuilder &b = node.b;
  Value first = b.scalar(positions.value);
  return {b.generate({batch, tokens}, positions.elementType(),
                     [&](ValueRange at) -> Value {
                       return addElements(
                           b, first,
                           b.fromIndex(at[1], positions.elementType()));
                     }),
          positions.type,
          {}};
}

/// Rotates \p x, of three or four dimensions, by the rows of the tables at
/// \p positions.
static Tensor rotate(Node &node, const Tensor &x, const Tensor &cosines,
                     const Tensor &sines, const Tensor &positions,
                     int64_t heads, bool isInterleaved, int64_t rotated) {
  Standard rotary(node, "RotaryEmbedding", {x, cosines, sines, positions});
  if (x.rank() == 3)
    rotary.set("num_heads", heads);
  return rotary.set("interleaved", int64_t(isInterleaved))
      .set("rotary_embedding_dim", rotated)
      .emitOne();
}

static LogicalResult emitRotaryEmbedding(Node &node) {
  const Tensor &x = node.in(0), &positions = node.in(1), &cosines = node.in(2);
  TensorBuilder &b = node.b;
  if (x.rank() != 3 && x.rank() != 4)
    return node.fail("takes [batch, tokens, features] or [batch, heads, "
                     "tokens, size]");
  if (positions.rank() < 1 || positions.rank() > 2 || cosines.rank() != 2)
    return node.fail("positions must be one or [batch, tokens], and tables "
                     "matrices");
  if (node.integer("is_packed_batching", 0) || node.number("scale", 1) != 1)
    return node.fail("packed batches and scales are not handled");
  int64_t rotated = node.integer("rotary_embedding_dim", 0);
  int64_t heads = node.integer("num_heads", 0);
  // Without a number of heads, tables are for whole heads.
  if (x.rank() == 3 && !heads) {
    int64_t size = 2 * cosines.dim(1);
    if (rotated || size < 2 || ShapedType::isDynamic(x.dim(2)) ||
        x.dim(2) % size)
      return node.fail("num_heads must be given");
    heads = x.dim(2) / size;
  }
  Tensor places = spreadPositions(node, positions, b.dim(x.value, 0),
                                  b.dim(x.value, x.rank() - 2));
  return finish(node, rotate(node, x, cosines, node.in(3), places, heads,
                             node.integer("interleaved", 0) != 0, rotated));
}

/// [batch, tokens, heads * size] as [batch, heads, tokens, size].
static Tensor splitHeads(Node &node, const Tensor &x, int64_t heads) {
  TensorBuilder &b = node.b;
  Value rows = b.reshape(x.value, {b.dim(x.value, 0), b.dim(x.value, 1),
                                   b.index(heads), b.index(x.dim(2) / heads)});
  return {b.transpose(rows, {0, 2, 1, 3}), x.type, {}};
}

/// Columns \p first to \p first + \p count of [batch, tokens, columns].
static Tensor takeColumns(Node &node, const Tensor &x, int64_t first,
                          int64_t count) {
  TensorBuilder &b = node.b;
  SmallVector<Value> sizes = b.dims(x.value);
  sizes[2] = b.index(count);
  return {b.generate(sizes, x.elementType(),
                     [&](ValueRange at) {
                       Value column = b.add(at[2], b.index(first));
                       return b.extract(x.value, {at[0], at[1], column});
                     }),
          x.type,
          {}};
}

/// Positions 0, 1, … of each sequence, as i64.
static Tensor countPositions(Node &node, const Tensor &x) {
  TensorBuilder &b = node.b;
  return {b.generate({b.dim(x.value, 0), b.dim(x.value, 1)}, b.getI64Type(),
                     [&](ValueRange at) {
                       return b.fromIndex(at[1], b.getI64Type());
                     }),
          TensorProto::INT64,
          {}};
}

/// A cache of no tokens is none.
static bool isEmptyPast(const Tensor &past) {
  return past.rank() == 4 && past.dim(2) == 0;
}

/// Inputs: query, key, value, past key and value, lengths less one, the longest
/// length, cosines, sines, positions, bias, sinks. Without a past each sequence
/// begins at its first token; padding behind it is seen by padding only.
static LogicalResult emitGroupQueryAttention(Node &node) {
  int64_t heads = node.integer("num_heads", 0),
          keyHeads = node.integer("kv_num_heads", 0);
  for (int64_t past : {3, 4})
    if (node.has(past) && !isEmptyPast(node.in(past)))
      return node.fail("a cache needs a decoder (quantc --tokenizer)");
  for (int64_t i : {10, 11})
    if (node.has(i))
      return node.fail("biases and sinks are not handled");
  if (node.integer("local_window_size", -1) != -1 ||
      node.integer("smooth_softmax", 0))
    return node.fail("windows and smooth_softmax are not handled");
  Tensor query = node.in(0), key, value;
  if (heads < 1 || keyHeads < 1 || heads % keyHeads || query.rank() != 3 ||
      ShapedType::isDynamic(query.dim(2)))
    return node.fail("kv_num_heads must divide num_heads, and queries be "
                     "[batch, tokens, features]");
  if (node.has(1) != node.has(2))
    return node.fail("keys and values must be given together");
  int64_t parts = node.has(1) ? heads : heads + 2 * keyHeads;
  int64_t size = query.dim(2) / parts;
  if (query.dim(2) % parts || size < 1)
    return node.fail("heads must divide the features, got " +
                     llvm::Twine(parts) + " and " + llvm::Twine(query.dim(2)));
  if (node.has(1)) {
    key = node.in(1);
    value = node.in(2);
  } else {
    key = takeColumns(node, query, heads * size, keyHeads * size);
    value =
        takeColumns(node, query, (heads + keyHeads) * size, keyHeads * size);
    query = takeColumns(node, query, 0, heads * size);
  }
  for (const Tensor *x : {&key, &value})
    if (x->rank() != 3 || x->dim(2) != keyHeads * size || x->type != query.type)
      return node.fail("keys and values must be [batch, tokens, " +
                       llvm::Twine(keyHeads * size) + "] of the queries' type");
  if (node.integer("do_rotary", 0)) {
    if (!node.has(7) || !node.has(8))
      return node.fail("do_rotary needs tables of cosines and sines");
    Tensor places = node.has(9) ? node.in(9) : countPositions(node, query);
    bool isInterleaved = node.integer("rotary_interleaved", 0) != 0;
    int64_t rotated = 2 * node.in(7).dim(node.in(7).rank() - 1);
    for (auto [x, count] : {std::pair(&query, heads), {&key, keyHeads}}) {
      *x = rotate(node, *x, node.in(7), node.in(8), places, count,
                  isInterleaved, rotated);
      if (!*x)
        return failure();
    }
  }
  Standard attention(node, "Attention", {query, key, value});
  attention.set("q_num_heads", heads)
      .set("kv_num_heads", keyHeads)
      .set("is_causal", int64_t(1))
      .set("softcap", node.number("softcap", 0));
  if (double scale = node.number("scale", 0))
    attention.set("scale", scale);
  (void)node.set(1, splitHeads(node, key, keyHeads).value, key.type);
  (void)node.set(2, splitHeads(node, value, keyHeads).value, value.type);
  return finish(node, attention.emitOne());
}

static const char kDomain[] = "com.microsoft";

static const Operator operators[] = {
    // ONNX Runtime's, but in the standard's domain.
    {"", "SimplifiedLayerNormalization", 2, 2, emitSimplifiedLayerNorm},
    {kDomain, "BiasGelu", 2, 2, emitExactGelu},
    {kDomain, "FastGelu", 1, 2, emitFastGelu},
    {kDomain, "FusedMatMul", 2, 2, emitFusedMatMul},
    {kDomain, "Gelu", 1, 1, emitExactGelu},
    {kDomain, "GroupQueryAttention", 1, 12, emitGroupQueryAttention},
    {kDomain, "MatMulNBits", 3, 6, emitMatMulNBits},
    {kDomain, "QuickGelu", 1, 1, emitQuickGelu},
    {kDomain, "RotaryEmbedding", 4, 4, emitRotaryEmbedding},
    {kDomain, "SimplifiedLayerNormalization", 2, 2, emitSimplifiedLayerNorm},
    {kDomain, "SkipLayerNormalization", 3, 5, emitSkipLayerNormalization},
    {kDomain, "SkipSimplifiedLayerNormalization", 3, 4,
     emitSkipSimplifiedLayerNorm},
};

ArrayRef<Operator> mlir::qlm::onnx_import::contributedOperators() {
  return operators;
}
