//===- Normalization.cpp - Operators that normalize along axes ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Products.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// Mean and mean of squares, or of squared differences from the mean, over the
/// dimensions of \p x that \p isReduced names; one element for each place of
/// the others, reduced ones kept as 1.
static Value meanOver(TensorBuilder &b, const Tensor &x,
                      ArrayRef<bool> isReduced, int32_t wide, Value center,
                      bool squares) {
  SmallVector<Value> sizes, reduced;
  Value count = b.index(1);
  for (int64_t d = 0; d < x.rank(); ++d) {
    sizes.push_back(isReduced[d] ? b.index(1) : b.dim(x.value, d));
    if (isReduced[d]) {
      reduced.push_back(b.dim(x.value, d));
      count = b.mul(count, reduced.back());
    }
  }
  Type stored = getStoredType(b.getContext(), wide);
  return b.generate(sizes, stored, [&](ValueRange at) {
    auto sum = b.loopNest(
        reduced, {b.constant(stored, 0)},
        [&](ValueRange along, ValueRange carried) -> SmallVector<Value> {
          SmallVector<Value> from(at);
          size_t next = 0;
          for (int64_t d = 0; d < x.rank(); ++d)
            if (isReduced[d])
              from[d] = along[next++];
          Value e = convertElement(b, b.extract(x.value, from), x.type, wide);
          if (center)
            e = subElements(b, e, b.extractBroadcast(center, from));
          if (squares)
            e = mulElements(b, e, e);
          return {addElements(b, carried[0], e)};
        });
    return divElements(b, sum[0], b.fromIndex(count, stored), wide);
  });
}

/// 1 / sqrt(variance + epsilon).
static Value inverseDeviation(TensorBuilder &b, Value variance,
                              double epsilon) {
  Type stored = cast<RankedTensorType>(variance.getType()).getElementType();
  return b.map({variance}, stored, [&](ValueRange e) -> Value {
    Value sum = addElements(b, e[0], b.constant(stored, epsilon));
    Value root = math::SqrtOp::create(b, b.loc, sum);
    return arith::DivFOp::create(b, b.loc, b.constant(stored, 1), root);
  });
}

/// The type that a node's stash_type asks sums to be kept in.
static int32_t stashType(Node &node, int32_t type) {
  if (type == TensorProto::DOUBLE)
    return type;
  auto stash =
      static_cast<int32_t>(node.integer("stash_type", TensorProto::FLOAT));
  return isFloatType(stash) ? accumulatorType(stash)
                            : static_cast<int32_t>(TensorProto::FLOAT);
}

static SmallVector<bool> from(int64_t first, int64_t rank) {
  SmallVector<bool> flags(rank, false);
  std::fill(flags.begin() + first, flags.end(), true);
  return flags;
}

static LogicalResult emitLayerNormalization(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", -1), x.rank());
  if (!axis)
    return failure();
  int32_t wide = stashType(node, x.type);
  SmallVector<bool> flags = from(*axis, x.rank());
  Value mean = meanOver(b, x, flags, wide, {}, false);
  Value variance = meanOver(b, x, flags, wide, mean, true);
  Value inverse = inverseDeviation(
      b, variance, static_cast<float>(node.number("epsilon", 1e-5)));
  SmallVector<Value> inputs{x.value, mean, inverse, node.in(1).value};
  if (node.has(2))
    inputs.push_back(node.in(2).value);
  Value result = b.map(inputs, x.elementType(), [&](ValueRange e) {
    Value v = subElements(b, convertElement(b, e[0], x.type, wide), e[1]);
    // The normalized value is rounded before it is scaled.
    v = convertElement(b, mulElements(b, v, e[2]), wide, x.type);
    v = mulElements(b, v, e[3]);
    return e.size() > 4 ? addElements(b, v, e[4]) : v;
  });
  (void)node.set(1, mean, wide);
  (void)node.set(2, inverse, wide);
  return node.set(0, result, x.type);
}

static LogicalResult emitRmsNormalization(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", -1), x.rank());
  if (!axis)
    return failure();
  int32_t wide = stashType(node, x.type);
  Value squares = meanOver(b, x, from(*axis, x.rank()), wide, {}, true);
  Value inverse = inverseDeviation(
      b, squares, static_cast<float>(node.number("epsilon", 1e-5)));
  return node.set(
      0,
      b.map({x.value, inverse, node.in(1).value}, x.elementType(),
            [&](ValueRange e) {
              Value v =
                  mulElements(b, convertElement(b, e[0], x.type, wide), e[1]);
              return mulElements(b, convertElement(b, v, wide, x.type), e[2]);
            }),
      x.type);
}

/// Element of a vector over the channels, for the channel at \p at.
static Value channel(TensorBuilder &b, Value vector, ValueRange at) {
  return b.extract(vector, at[1]);
}

static LogicalResult emitBatchNormalization(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  if (node.integer("training_mode", 0))
    return node.fail("training mode is not handled");
  if (x.rank() < 2)
    return node.fail("takes data of at least two dimensions");
  if (Value image = normalizeImage(node))
    return node.set(0, image, x.type);
  int32_t wide = accumulatorType(x.type);
  auto read = [&](int64_t i, ValueRange at) {
    const Tensor &t = node.in(i);
    return convertElement(b, channel(b, t.value, at), t.type, wide);
  };
  double epsilon = static_cast<float>(node.number("epsilon", 1e-5));
  Type stored = getStoredType(b.getContext(), wide);
  return node.set(
      0,
      b.generate(
          b.dims(x.value), x.elementType(),
          [&](ValueRange at) {
            Value v = convertElement(b, b.extract(x.value, at), x.type, wide);
            Value deviation = math::SqrtOp::create(
                b, b.loc,
                addElements(b, read(4, at), b.constant(stored, epsilon)));
            v = divElements(b, subElements(b, v, read(3, at)), deviation, wide);
            v = addElements(b, mulElements(b, v, read(1, at)), read(2, at));
            return convertElement(b, v, wide, x.type);
          }),
      x.type);
}

/// Normalizes over \p flags of \p x, then scales each channel.
static LogicalResult normalizeChannels(Node &node, const Tensor &x,
                                       ArrayRef<bool> flags,
                                       ArrayRef<Value> resultSizes,
                                       double epsilon) {
  TensorBuilder &b = node.b;
  int32_t wide = accumulatorType(x.type);
  Value mean = meanOver(b, x, flags, wide, {}, false);
  Value inverse =
      inverseDeviation(b, meanOver(b, x, flags, wide, mean, true), epsilon);
  Value normal =
      b.map({x.value, mean, inverse}, x.elementType(), [&](ValueRange e) {
        Value v = subElements(b, convertElement(b, e[0], x.type, wide), e[1]);
        return convertElement(b, mulElements(b, v, e[2]), wide, x.type);
      });
  normal = b.reshape(normal, resultSizes);
  return node.set(
      0,
      b.generate(resultSizes, x.elementType(),
                 [&](ValueRange at) {
                   Value v = mulElements(b, b.extract(normal, at),
                                         channel(b, node.in(1).value, at));
                   return addElements(b, v, channel(b, node.in(2).value, at));
                 }),
      x.type);
}

static LogicalResult emitInstanceNormalization(Node &node) {
  const Tensor &x = node.in(0);
  if (x.rank() < 3)
    return node.fail("takes data of at least three dimensions");
  return normalizeChannels(node, x, from(2, x.rank()), node.b.dims(x.value),
                           static_cast<float>(node.number("epsilon", 1e-5)));
}

static LogicalResult emitGroupNormalization(Node &node) {
  Tensor x = node.in(0);
  TensorBuilder &b = node.b;
  int64_t groups = node.integer("num_groups", 0);
  if (x.rank() < 2 || groups < 1 || ShapedType::isDynamic(x.dim(1)) ||
      x.dim(1) % groups)
    return node.fail("num_groups must divide the channels");
  if (node.in(1).dim(0) != x.dim(1))
    return node.fail("scales of groups (before opset 21) are not handled");
  SmallVector<Value> sizes = b.dims(x.value);
  SmallVector<Value> grouped{sizes[0], b.index(groups),
                             b.index(x.dim(1) / groups)};
  grouped.append(sizes.begin() + 2, sizes.end());
  x.value = b.reshape(x.value, grouped);
  return normalizeChannels(node, x, from(2, x.rank()), sizes,
                           static_cast<float>(node.number("epsilon", 1e-5)));
}

static LogicalResult emitLpNormalization(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", -1), x.rank());
  int64_t p = node.integer("p", 2);
  if (!axis)
    return failure();
  if (p != 1 && p != 2)
    return node.fail("p must be 1 or 2, got " + llvm::Twine(p));
  int32_t wide = accumulatorType(x.type);
  Type stored = getStoredType(b.getContext(), wide);
  SmallVector<Value> sizes = b.dims(x.value);
  Value length = sizes[*axis];
  sizes[*axis] = b.index(1);
  Value norm = b.generate(sizes, stored, [&](ValueRange at) -> Value {
    auto sum = b.loop(b.index(0), length, {b.constant(stored, 0)},
                      [&](Value i, ValueRange carried) -> SmallVector<Value> {
                        SmallVector<Value> from(at);
                        from[*axis] = i;
                        Value e = convertElement(b, b.extract(x.value, from),
                                                 x.type, wide);
                        e = p == 2 ? mulElements(b, e, e)
                                   : Value(math::AbsFOp::create(b, b.loc, e));
                        return {addElements(b, carried[0], e)};
                      });
    return p == 2 ? Value(math::SqrtOp::create(b, b.loc, sum[0])) : sum[0];
  });
  return node.set(
      0,
      b.map({x.value, norm}, x.elementType(),
            [&](ValueRange e) {
              // Zeros stay zeros.
              Value zero = b.constant(stored, 0);
              Value isZero = arith::CmpFOp::create(
                  b, b.loc, arith::CmpFPredicate::OEQ, e[1], zero);
              Value v = divElements(b, convertElement(b, e[0], x.type, wide),
                                    e[1], wide);
              v = arith::SelectOp::create(b, b.loc, isZero, zero, v);
              return convertElement(b, v, wide, x.type);
            }),
      x.type);
}

static LogicalResult emitMeanVariance(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto given = node.integers("axes");
  auto axes =
      node.axes(given ? *given : SmallVector<int64_t>{0, 2, 3}, x.rank());
  if (!axes)
    return failure();
  SmallVector<bool> flags(x.rank(), false);
  for (int64_t axis : *axes)
    flags[axis] = true;
  int32_t wide = accumulatorType(x.type);
  Type stored = getStoredType(b.getContext(), wide);
  Value mean = meanOver(b, x, flags, wide, {}, false);
  Value variance = meanOver(b, x, flags, wide, mean, true);
  return node.set(
      0,
      b.map({x.value, mean, variance}, x.elementType(),
            [&](ValueRange e) {
              Value v =
                  subElements(b, convertElement(b, e[0], x.type, wide), e[1]);
              Value root = addElements(b, math::SqrtOp::create(b, b.loc, e[2]),
                                       b.constant(stored, 1e-9));
              return convertElement(b, divElements(b, v, root, wide), wide,
                                    x.type);
            }),
      x.type);
}

static LogicalResult emitLrn(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  int64_t size = node.integer("size", 1);
  if (x.rank() < 2 || size < 1)
    return node.fail("takes data with channels and a size of at least 1");
  Type stored = x.elementType();
  double alpha = node.number("alpha", 1e-4f), beta = node.number("beta", 0.75),
         bias = node.number("bias", 1);
  Value channels = b.dim(x.value, 1);
  return node.set(
      0,
      b.generate(
          b.dims(x.value), stored,
          [&](ValueRange at) {
            Value low =
                b.max(b.sub(at[1], b.index((size - 1) / 2)), b.index(0));
            Value high = b.min(
                b.add(at[1], b.index(size - 1 - (size - 1) / 2 + 1)), channels);
            auto sum = b.loop(
                low, high, {b.constant(stored, 0)},
                [&](Value i, ValueRange carried) -> SmallVector<Value> {
                  SmallVector<Value> from(at);
                  from[1] = i;
                  Value e = b.extract(x.value, from);
                  return {addElements(b, carried[0], mulElements(b, e, e))};
                });
            Value base = addElements(
                b, b.constant(stored, bias),
                mulElements(b, sum[0], b.constant(stored, alpha / size)));
            Value power =
                math::PowFOp::create(b, b.loc, base, b.constant(stored, beta));
            return divElements(b, b.extract(x.value, at), power, x.type);
          }),
      x.type);
}

static const Operator operators[] = {
    {"", "BatchNormalization", 5, 5, emitBatchNormalization},
    {"", "GroupNormalization", 3, 3, emitGroupNormalization},
    {"", "InstanceNormalization", 3, 3, emitInstanceNormalization},
    {"", "LRN", 1, 1, emitLrn},
    {"", "LayerNormalization", 2, 3, emitLayerNormalization},
    {"", "LpNormalization", 1, 1, emitLpNormalization},
    {"", "MeanVarianceNormalization", 1, 1, emitMeanVariance},
    {"", "RMSNormalization", 2, 2, emitRmsNormalization},
};

ArrayRef<Operator> mlir::qlm::onnx_import::normalizationOperators() {
  return operators;
}
