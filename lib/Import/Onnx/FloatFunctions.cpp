//===- FloatFunctions.cpp - Functions of one floating-point input ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// Applies \p body to the elements, halves as f32: transcendental functions of
/// halves are computed wide and rounded once.
static LogicalResult
mapFloats(Node &node, function_ref<Value(TensorBuilder &, Value)> body) {
  const Tensor &x = node.in(0);
  if (!isFloatType(x.type))
    return node.fail("takes floating-point elements");
  TensorBuilder &b = node.b;
  int32_t wide = accumulatorType(x.type);
  Value result = b.map({x.value}, x.elementType(), [&](ValueRange e) {
    return convertElement(b, body(b, convertElement(b, e[0], x.type, wide)),
                          wide, x.type);
  });
  return node.set(0, result, x.type);
}

template <typename Op> static LogicalResult emitMath(Node &node) {
  return mapFloats(node, [](TensorBuilder &b, Value x) -> Value {
    return Op::create(b, b.loc, x);
  });
}

static Value one(TensorBuilder &b, Value x) {
  return b.constant(x.getType(), 1);
}
static Value zero(TensorBuilder &b, Value x) {
  return b.constant(x.getType(), 0);
}
static Value number(TensorBuilder &b, Value x, double value) {
  return b.constant(x.getType(), value);
}
static Value isLess(TensorBuilder &b, Value x, Value y) {
  return arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::OLT, x, y);
}
static Value exp(TensorBuilder &b, Value x) {
  return math::ExpOp::create(b, b.loc, x);
}

static Value sigmoid(TensorBuilder &b, Value x) {
  Value denominator =
      addElements(b, one(b, x), exp(b, arith::NegFOp::create(b, b.loc, x)));
  return arith::DivFOp::create(b, b.loc, one(b, x), denominator);
}

/// log(1 + e^x) without overflow.
static Value softplus(TensorBuilder &b, Value x) {
  Value size = math::AbsFOp::create(b, b.loc, x);
  Value small = math::Log1pOp::create(
      b, b.loc, exp(b, arith::NegFOp::create(b, b.loc, size)));
  return addElements(b, arith::MaximumFOp::create(b, b.loc, x, zero(b, x)),
                     small);
}

static LogicalResult emitReciprocal(Node &node) {
  return mapFloats(node, [](TensorBuilder &b, Value x) -> Value {
    return arith::DivFOp::create(b, b.loc, one(b, x), x);
  });
}

static LogicalResult emitSigmoid(Node &node) {
  return mapFloats(node, sigmoid);
}
static LogicalResult emitSoftplus(Node &node) {
  return mapFloats(node, softplus);
}

static LogicalResult emitSoftsign(Node &node) {
  return mapFloats(node, [](TensorBuilder &b, Value x) -> Value {
    Value size = math::AbsFOp::create(b, b.loc, x);
    return arith::DivFOp::create(b, b.loc, x, addElements(b, one(b, x), size));
  });
}

/// Below zero: scale * (e^x - 1); above: x, times \p gain both.
static LogicalResult emitExponentialUnit(Node &node, double alpha,
                                         double gain) {
  return mapFloats(node, [&](TensorBuilder &b, Value x) -> Value {
    Value below = mulElements(b, number(b, x, alpha),
                              subElements(b, exp(b, x), one(b, x)));
    Value value =
        arith::SelectOp::create(b, b.loc, isLess(b, x, zero(b, x)), below, x);
    return mulElements(b, number(b, x, gain), value);
  });
}
static LogicalResult emitElu(Node &node) {
  return emitExponentialUnit(node, node.number("alpha", 1), 1);
}
static LogicalResult emitSelu(Node &node) {
  return emitExponentialUnit(node,
                             node.number("alpha", 1.67326319217681884765625),
                             node.number("gamma", 1.05070102214813232421875));
}
static LogicalResult emitCelu(Node &node) {
  double alpha = node.number("alpha", 1);
  return mapFloats(node, [&](TensorBuilder &b, Value x) -> Value {
    Value scaled = arith::DivFOp::create(b, b.loc, x, number(b, x, alpha));
    Value below = mulElements(b, number(b, x, alpha),
                              subElements(b, exp(b, scaled), one(b, x)));
    return addElements(b, arith::MaximumFOp::create(b, b.loc, x, zero(b, x)),
                       arith::MinimumFOp::create(b, b.loc, below, zero(b, x)));
  });
}
static LogicalResult emitLeakyRelu(Node &node) {
  double alpha = node.number("alpha", 0.01f);
  return mapFloats(node, [&](TensorBuilder &b, Value x) -> Value {
    return arith::SelectOp::create(b, b.loc, isLess(b, x, zero(b, x)),
                                   mulElements(b, number(b, x, alpha), x), x);
  });
}
static LogicalResult emitThresholdedRelu(Node &node) {
  double alpha = node.number("alpha", 1);
  return mapFloats(node, [&](TensorBuilder &b, Value x) -> Value {
    return arith::SelectOp::create(b, b.loc, isLess(b, number(b, x, alpha), x),
                                   x, zero(b, x));
  });
}

static Value clampToUnit(TensorBuilder &b, Value x) {
  return arith::MaximumFOp::create(
      b, b.loc, zero(b, x), arith::MinimumFOp::create(b, b.loc, one(b, x), x));
}
static LogicalResult emitHardSigmoid(Node &node) {
  double alpha = node.number("alpha", 0.2f), beta = node.number("beta", 0.5);
  return mapFloats(node, [&](TensorBuilder &b, Value x) -> Value {
    return clampToUnit(b, addElements(b, mulElements(b, number(b, x, alpha), x),
                                      number(b, x, beta)));
  });
}
static LogicalResult emitHardSwish(Node &node) {
  return mapFloats(node, [&](TensorBuilder &b, Value x) -> Value {
    Value gate =
        clampToUnit(b, addElements(b, mulElements(b, x, number(b, x, 1.0 / 6)),
                                   number(b, x, 0.5)));
    return mulElements(b, x, gate);
  });
}
static LogicalResult emitMish(Node &node) {
  return mapFloats(node, [](TensorBuilder &b, Value x) -> Value {
    return mulElements(b, x, math::TanhOp::create(b, b.loc, softplus(b, x)));
  });
}
static LogicalResult emitSwish(Node &node) {
  double alpha = node.number("alpha", 1);
  return mapFloats(node, [&](TensorBuilder &b, Value x) -> Value {
    return mulElements(b, x,
                       sigmoid(b, mulElements(b, number(b, x, alpha), x)));
  });
}
/// The gate's Swish, rounded as that operator's result is, times the other.
static LogicalResult emitSwiglu(Node &node) {
  const Tensor &gate = node.in(0), &x = node.in(1);
  TensorBuilder &b = node.b;
  if (!isFloatType(x.type) || gate.type != x.type || gate.rank() != x.rank())
    return node.fail("takes floats of one type and shape");
  for (int64_t axis = 0; axis < x.rank(); ++axis)
    b.requireEqual(b.dim(gate.value, axis), b.dim(x.value, axis), "dimensions");
  double alpha = node.number("alpha", 1);
  int32_t wide = accumulatorType(x.type);
  Value result =
      b.map({gate.value, x.value}, x.elementType(), [&](ValueRange e) {
        Value a = convertElement(b, e[0], x.type, wide);
        Value swish = mulElements(
            b, a, sigmoid(b, mulElements(b, number(b, a, alpha), a)));
        Value rounded = roundElement(b, swish, wide, x.type);
        Value product =
            mulElements(b, rounded, convertElement(b, e[1], x.type, wide));
        return convertElement(b, product, wide, x.type);
      });
  return node.set(0, result, x.type);
}
static LogicalResult emitGelu(Node &node) {
  StringRef approximate = node.text("approximate", "none");
  return mapFloats(node, [&](TensorBuilder &b, Value x) -> Value {
    Value inner;
    if (approximate == "tanh") {
      Value cube = mulElements(b, x, mulElements(b, x, x));
      Value sum =
          addElements(b, x, mulElements(b, number(b, x, 0.044715), cube));
      inner = math::TanhOp::create(
          b, b.loc, mulElements(b, number(b, x, 0.7978845608028654), sum));
    } else {
      inner = math::ErfOp::create(
          b, b.loc, mulElements(b, x, number(b, x, 0.7071067811865476)));
    }
    return mulElements(b, mulElements(b, number(b, x, 0.5), x),
                       addElements(b, one(b, x), inner));
  });
}
static LogicalResult emitShrink(Node &node) {
  double bias = node.number("bias", 0), lambda = node.number("lambd", 0.5);
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  int32_t wide = isFloatType(x.type) ? accumulatorType(x.type)
                                     : static_cast<int32_t>(TensorProto::FLOAT);
  Value result = b.map({x.value}, x.elementType(), [&](ValueRange e) {
    Value v = convertElement(b, e[0], x.type, wide);
    Value below = isLess(b, v, number(b, v, -lambda));
    Value above = isLess(b, number(b, v, lambda), v);
    Value up = arith::SelectOp::create(
        b, b.loc, above, subElements(b, v, number(b, v, bias)), zero(b, v));
    Value value = arith::SelectOp::create(
        b, b.loc, below, addElements(b, v, number(b, v, bias)), up);
    return convertElement(b, value, wide, x.type);
  });
  return node.set(0, result, x.type);
}

static const Operator operators[] = {
    {"", "Acos", 1, 1, emitMath<math::AcosOp>},
    {"", "Acosh", 1, 1, emitMath<math::AcoshOp>},
    {"", "Asin", 1, 1, emitMath<math::AsinOp>},
    {"", "Asinh", 1, 1, emitMath<math::AsinhOp>},
    {"", "Atan", 1, 1, emitMath<math::AtanOp>},
    {"", "Atanh", 1, 1, emitMath<math::AtanhOp>},
    {"", "Ceil", 1, 1, emitMath<math::CeilOp>},
    {"", "Celu", 1, 1, emitCelu},
    {"", "Cos", 1, 1, emitMath<math::CosOp>},
    {"", "Cosh", 1, 1, emitMath<math::CoshOp>},
    {"", "Elu", 1, 1, emitElu},
    {"", "Erf", 1, 1, emitMath<math::ErfOp>},
    {"", "Exp", 1, 1, emitMath<math::ExpOp>},
    {"", "Floor", 1, 1, emitMath<math::FloorOp>},
    {"", "Gelu", 1, 1, emitGelu},
    {"", "HardSigmoid", 1, 1, emitHardSigmoid},
    {"", "HardSwish", 1, 1, emitHardSwish},
    {"", "LeakyRelu", 1, 1, emitLeakyRelu},
    {"", "Log", 1, 1, emitMath<math::LogOp>},
    {"", "Mish", 1, 1, emitMish},
    {"", "Reciprocal", 1, 1, emitReciprocal},
    {"", "Round", 1, 1, emitMath<math::RoundEvenOp>},
    {"", "Selu", 1, 1, emitSelu},
    {"", "Shrink", 1, 1, emitShrink},
    {"", "Sigmoid", 1, 1, emitSigmoid},
    {"", "Sin", 1, 1, emitMath<math::SinOp>},
    {"", "Sinh", 1, 1, emitMath<math::SinhOp>},
    {"", "Softplus", 1, 1, emitSoftplus},
    {"", "Softsign", 1, 1, emitSoftsign},
    {"", "Sqrt", 1, 1, emitMath<math::SqrtOp>},
    {"", "SwiGLU", 2, 2, emitSwiglu},
    {"", "Swish", 1, 1, emitSwish},
    {"", "Tan", 1, 1, emitMath<math::TanOp>},
    {"", "Tanh", 1, 1, emitMath<math::TanhOp>},
    {"", "ThresholdedRelu", 1, 1, emitThresholdedRelu},
};

ArrayRef<Operator> mlir::qlm::onnx_import::floatFunctionOperators() {
  return operators;
}
