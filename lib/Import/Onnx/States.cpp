//===- States.cpp - Operators that carry a state from step to step --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Caches of keys and values, and the recurrent layers of decoders that have
// such layers beside attention. Sums are kept in f32.
//
//===----------------------------------------------------------------------===//

#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

static LogicalResult emitTensorScatter(Node &node) {
  const Tensor &past = node.in(0), &update = node.in(1);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", -2), past.rank());
  if (!axis)
    return failure();
  StringRef mode = node.text("mode", "linear");
  if (mode != "linear" && mode != "circular")
    return node.fail("mode must be linear or circular, got " + mode);
  if (*axis == 0)
    return node.fail("axis 0 is the batch's");
  if (update.type != past.type || update.rank() != past.rank())
    return node.fail("cache and update must have the same element type and "
                     "rank");
  SmallVector<Value> sizes = b.dims(past.value);
  for (int64_t i = 0; i < past.rank(); ++i)
    if (i != *axis)
      b.requireEqual(sizes[i], b.dim(update.value, i), "other dimensions");
  Value most = sizes[*axis], length = b.dim(update.value, *axis);
  auto element = [&](ValueRange at) {
    Value first = node.has(2) ? b.toIndex(b.extract(node.in(2).value, at[0]))
                              : b.index(0);
    Value from = b.sub(at[*axis], first);
    if (mode == "circular")
      from = b.rem(b.add(b.rem(from, most), most), most);
    Value isNew = arith::AndIOp::create(
        b, b.loc,
        arith::XOrIOp::create(b, b.loc, b.less(from, b.index(0)),
                              b.integer(b.getI1Type(), 1)),
        b.less(from, length));
    SmallVector<Value> place(at);
    place[*axis] = from;
    return b.ifElse(
        isNew, past.elementType(),
        [&] {
          return Value(
              tensor::ExtractOp::create(b, b.loc, update.value, place));
        },
        [&] { return b.extract(past.value, at); });
  };
  return node.set(0, b.generate(sizes, past.elementType(), element), past.type);
}

/// x of f32, times its sigmoid.
static Value silu(TensorBuilder &b, Value x) {
  Value one = b.constant(x.getType(), 1);
  Value power =
      math::ExpOp::create(b, b.loc, arith::NegFOp::create(b, b.loc, x));
  return arith::DivFOp::create(b, b.loc, x, addElements(b, one, power));
}

/// Channels [batch, channels, length], each with its kernel [channels, 1,
/// taps], on positions up to the present one; the state is what the next step
/// needs of this one's, [batch, channels, taps - 1].
static LogicalResult emitCausalConv(Node &node) {
  const Tensor &x = node.in(0), &weight = node.in(1);
  TensorBuilder &b = node.b;
  StringRef activation = node.text("activation", "none");
  if (activation != "none" && activation != "silu" && activation != "swish")
    return node.fail("activation must be none, silu or swish, got " +
                     activation);
  if (!isFloatType(x.type) || x.rank() != 3 || weight.rank() != 3 ||
      weight.dim(1) != 1 || ShapedType::isDynamic(weight.dim(2)) ||
      weight.dim(2) < 1)
    return node.fail("takes [batch, channels, length] by kernels of "
                     "[channels, 1, taps]");
  int32_t wide = accumulatorType(x.type);
  SmallVector<Value> sizes = b.dims(x.value);
  Value taps = b.index(weight.dim(2)), kept = b.index(weight.dim(2) - 1);
  b.requireEqual(sizes[1], b.dim(weight.value, 0), "channels");
  const Tensor past = node.has(3) ? node.in(3) : Tensor();
  if (past) {
    if (past.rank() != 3 || past.type != x.type)
      return node.fail("past_state must be [batch, channels, taps - 1]");
    SmallVector<Value> wanted{sizes[0], sizes[1], kept};
    for (int64_t axis = 0; axis < 3; ++axis)
      b.requireEqual(b.dim(past.value, axis), wanted[axis],
                     "sizes of past_state");
  }
  // The state, then the input.
  auto element = [&](ValueRange at) {
    return b.ifElse(
        b.less(at[2], kept), x.elementType(),
        [&] {
          return past ? Value(
                            tensor::ExtractOp::create(b, b.loc, past.value, at))
                      : b.constant(x.elementType(), 0);
        },
        [&] {
          return Value(tensor::ExtractOp::create(
              b, b.loc, x.value, ValueRange{at[0], at[1], b.sub(at[2], kept)}));
        });
  };
  Value padded = b.generate({sizes[0], sizes[1], b.add(sizes[2], kept)},
                            x.elementType(), element);
  Value result = b.generate(sizes, x.elementType(), [&](ValueRange at) {
    Value init = b.constant(getStoredType(b.getContext(), wide), 0);
    if (node.has(2))
      init =
          convertElement(b, b.extract(node.in(2).value, at[1]), x.type, wide);
    Value sum = b.loop(
        b.index(0), taps, {init},
        [&](Value k, ValueRange carried) -> SmallVector<Value> {
          Value tap = b.extract(weight.value, {at[1], b.index(0), k});
          Value e = tensor::ExtractOp::create(
              b, b.loc, padded, ValueRange{at[0], at[1], b.add(at[2], k)});
          return {addElements(
              b, carried[0],
              mulElements(b, convertElement(b, e, x.type, wide),
                          convertElement(b, tap, weight.type, wide)))};
        })[0];
    if (activation != "none")
      sum = silu(b, sum);
    return convertElement(b, sum, wide, x.type);
  });
  (void)node.set(0, result, x.type);
  if (!node.wants(1))
    return success();
  Value state = b.generate(
      {sizes[0], sizes[1], kept}, x.elementType(), [&](ValueRange at) -> Value {
        return tensor::ExtractOp::create(
            b, b.loc, padded, ValueRange{at[0], at[1], b.add(at[2], sizes[2])});
      });
  return node.set(1, state, x.type);
}

namespace {
/// The recurrence of LinearAttention: a state [batch, heads, keys, values], to
/// which each token adds the product of its key and value.
struct Recurrence {
  TensorBuilder &b;
  Tensor query, key, value, decay, beta;
  int64_t heads, kvHeads, keyDim, valueDim;
  double scale;
  bool correctsValues;

  static std::optional<Recurrence> get(Node &node);
  Type f32() { return b.getF32Type(); }
  Value batch() { return b.dim(query.value, 0); }
  /// An element of \p tensor [batch, tokens, features] in f32.
  Value take(const Tensor &tensor, Value row, Value token, Value feature) {
    return convertElement(b, b.extract(tensor.value, {row, token, feature}),
                          tensor.type, TensorProto::FLOAT);
  }
  /// Feature \p i of head \p head, of \p size each.
  Value feature(Value head, int64_t size, Value i) {
    return b.add(b.mul(head, b.index(size)), i);
  }
  Value factors(Value token);
  Value addedValues(Value state, Value factors, Value token);
  Value remember(Value state, Value factors, Value values, Value token);
  Value read(Value state, Value token, int32_t type);
};
} // namespace

std::optional<Recurrence> Recurrence::get(Node &node) {
  auto fail = [&](const llvm::Twine &what) -> std::optional<Recurrence> {
    (void)node.fail(what);
    return std::nullopt;
  };
  StringRef rule = node.text("update_rule", "gated_delta");
  if (rule != "linear" && rule != "gated" && rule != "delta" &&
      rule != "gated_delta")
    return fail("update_rule must be linear, gated, delta or gated_delta, "
                "got " +
                rule);
  Recurrence r{node.b,
               node.in(0),
               node.in(1),
               node.in(2),
               node.has(4) ? node.in(4) : Tensor(),
               node.has(5) ? node.in(5) : Tensor(),
               node.integer("q_num_heads", 0),
               node.integer("kv_num_heads", 0),
               0,
               0,
               node.number("scale", 0),
               rule.contains("delta")};
  if (r.heads <= 0 || r.kvHeads <= 0 || r.heads % r.kvHeads)
    return fail("kv_num_heads must divide q_num_heads, got " +
                llvm::Twine(r.kvHeads) + " and " + llvm::Twine(r.heads));
  if (static_cast<bool>(r.decay) != rule.contains("gated") ||
      static_cast<bool>(r.beta) != r.correctsValues)
    return fail("has a decay exactly if it is gated and a beta exactly if it "
                "is a delta rule");
  for (const Tensor &x : {r.query, r.key, r.value, r.decay, r.beta})
    if (x && (x.rank() != 3 || ShapedType::isDynamic(x.dim(2)) ||
              !isFloatType(x.type)))
      return fail("takes floats [batch, tokens, features] of known features");
  if (r.query.dim(2) % r.heads || r.value.dim(2) % r.kvHeads)
    return fail("heads must divide the features");
  r.keyDim = r.query.dim(2) / r.heads;
  r.valueDim = r.value.dim(2) / r.kvHeads;
  if (r.key.dim(2) != r.kvHeads * r.keyDim || r.keyDim == 0)
    return fail("keys must have kv_num_heads * head size = " +
                llvm::Twine(r.kvHeads * r.keyDim) + " features, got " +
                llvm::Twine(r.key.dim(2)));
  if (r.decay && r.decay.dim(2) != r.kvHeads &&
      r.decay.dim(2) != r.kvHeads * r.keyDim)
    return fail("decay must be by heads or by keys' features, got " +
                llvm::Twine(r.decay.dim(2)));
  if (r.beta && r.beta.dim(2) != r.kvHeads && r.beta.dim(2) != 1)
    return fail("beta must be by heads or one, got " +
                llvm::Twine(r.beta.dim(2)));
  if (r.scale == 0)
    r.scale = 1 / std::sqrt(static_cast<double>(r.keyDim));
  for (const Tensor &x : {r.key, r.value, r.decay, r.beta})
    for (int64_t axis : {0, 1})
      if (x)
        r.b.requireEqual(r.b.dim(r.query.value, axis), r.b.dim(x.value, axis),
                         "batches and tokens");
  return r;
}

/// e^decay, which the state is multiplied by: [batch, heads, 1 or keys, 1].
/// Null without a decay.
Value Recurrence::factors(Value token) {
  if (!decay)
    return {};
  bool byHead = decay.dim(2) == kvHeads;
  return b.generate(
      {batch(), b.index(kvHeads), b.index(byHead ? 1 : keyDim), b.index(1)},
      f32(), [&](ValueRange at) -> Value {
        Value i = byHead ? at[1] : feature(at[1], keyDim, at[2]);
        return math::ExpOp::create(b, b.loc, take(decay, at[0], token, i));
      });
}

/// The token's value, or with a delta rule beta times what it differs by from
/// the one that the state has for the token's key: [batch, heads, 1, values].
Value Recurrence::addedValues(Value state, Value factors, Value token) {
  return b.generate(
      {batch(), b.index(kvHeads), b.index(1), b.index(valueDim)}, f32(),
      [&](ValueRange at) -> Value {
        Value own = take(value, at[0], token, feature(at[1], valueDim, at[3]));
        if (!correctsValues)
          return own;
        Value known = b.loop(
            b.index(0), b.index(keyDim), {b.constant(f32(), 0)},
            [&](Value d, ValueRange carried) -> SmallVector<Value> {
              Value s = b.extract(state, {at[0], at[1], d, at[3]});
              if (factors)
                s = mulElements(
                    b, s,
                    b.extractBroadcast(factors, {at[0], at[1], d, at[2]}));
              Value k = take(key, at[0], token, feature(at[1], keyDim, d));
              return {addElements(b, carried[0], mulElements(b, s, k))};
            })[0];
        Value rate =
            take(beta, at[0], token, beta.dim(2) == 1 ? b.index(0) : at[1]);
        return mulElements(b, rate, subElements(b, own, known));
      });
}

/// state * factors + key x values, in the state's place.
Value Recurrence::remember(Value state, Value factors, Value values,
                           Value token) {
  Value keys = b.generate(
      {batch(), b.index(kvHeads), b.index(keyDim), b.index(1)}, f32(),
      [&](ValueRange at) {
        return take(key, at[0], token, feature(at[1], keyDim, at[2]));
      });
  SmallVector<Value> inputs{keys, values};
  if (factors)
    inputs.push_back(factors);
  auto body = [&](ValueRange e) {
    Value kept = factors ? mulElements(b, e.back(), e[2]) : e.back();
    return addElements(b, kept, mulElements(b, e[0], e[1]));
  };
  return b.map(inputs, f32(), body, state);
}

/// scale * query * state: [batch, 1, heads * values]
Value Recurrence::read(Value state, Value token, int32_t type) {
  return b.generate(
      {batch(), b.index(1), b.index(heads * valueDim)},
      getStoredType(b.getContext(), type), [&](ValueRange at) {
        Value head = b.floorDiv(at[2], b.index(valueDim));
        Value column = b.rem(at[2], b.index(valueDim));
        Value from = b.floorDiv(head, b.index(heads / kvHeads));
        Value sum =
            b.loop(b.index(0), b.index(keyDim), {b.constant(f32(), 0)},
                   [&](Value d, ValueRange carried) -> SmallVector<Value> {
                     Value q =
                         take(query, at[0], token, feature(head, keyDim, d));
                     Value s = b.extract(state, {at[0], from, d, column});
                     return {addElements(b, carried[0], mulElements(b, q, s))};
                   })[0];
        return convertElement(b, mulElements(b, sum, b.constant(f32(), scale)),
                              TensorProto::FLOAT, type);
      });
}

static LogicalResult emitLinearAttention(Node &node) {
  auto recurrence = Recurrence::get(node);
  if (!recurrence)
    return failure();
  TensorBuilder &b = node.b;
  Recurrence &r = *recurrence;
  SmallVector<Value> stateSizes{r.batch(), b.index(r.kvHeads),
                                b.index(r.keyDim), b.index(r.valueDim)};
  const Tensor past = node.has(3) ? node.in(3) : Tensor();
  if (past && (past.rank() != 4 || !isFloatType(past.type)))
    return node.fail("past_state must be [batch, heads, keys, values]");
  if (past)
    for (int64_t axis = 0; axis < 4; ++axis)
      b.requireEqual(stateSizes[axis], b.dim(past.value, axis),
                     "sizes of past_state");
  Value state = b.generate(stateSizes, r.f32(), [&](ValueRange at) {
    return past ? convertElement(b, b.extract(past.value, at), past.type,
                                 TensorProto::FLOAT)
                : b.constant(r.f32(), 0);
  });
  Value tokens = b.dim(r.query.value, 1), width = b.index(r.heads * r.valueDim);
  Type stored = r.query.elementType();
  Value result = b.generate({r.batch(), tokens, width}, stored,
                            [&](ValueRange) { return b.constant(stored, 0); });
  auto done = b.loop(
      b.index(0), tokens, {state, result},
      [&](Value token, ValueRange carried) -> SmallVector<Value> {
        b.knowSize(carried[0], 0, stateSizes[0]);
        Value factors = r.factors(token);
        Value values = r.addedValues(carried[0], factors, token);
        Value next = r.remember(carried[0], factors, values, token);
        Value row = r.read(next, token, r.query.type);
        auto sized = [&](ArrayRef<Value> values) {
          SmallVector<OpFoldResult> mixed;
          for (Value value : values)
            mixed.push_back(getAsOpFoldResult(value));
          return mixed;
        };
        OpFoldResult one = b.getIndexAttr(1);
        Value all = tensor::InsertSliceOp::create(
            b, b.loc, row, carried[1], sized({b.index(0), token, b.index(0)}),
            sized({r.batch(), b.index(1), width}),
            SmallVector<OpFoldResult>(3, one));
        return {next, all};
      });
  (void)node.set(0, done[1], r.query.type);
  if (!node.wants(1))
    return success();
  int32_t type = past ? past.type : r.query.type;
  b.knowSize(done[0], 0, stateSizes[0]);
  return node.set(1,
                  b.map({done[0]}, getStoredType(b.getContext(), type),
                        [&](ValueRange e) {
                          return convertElement(b, e[0], TensorProto::FLOAT,
                                                type);
                        }),
                  type);
}

static const Operator operators[] = {
    {"", "CausalConvWithState", 2, 4, emitCausalConv},
    {"", "LinearAttention", 3, 6, emitLinearAttention},
    {"", "TensorScatter", 2, 3, emitTensorScatter},
};

ArrayRef<Operator> mlir::qlm::onnx_import::stateOperators() {
  return operators;
}
