//===- Elementwise.cpp - Operators that work element by element -----------===//
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

//===----------------------------------------------------------------------===//
// One input
//===----------------------------------------------------------------------===//

/// Applies \p body to each element of the input; the type stays.
static LogicalResult mapSame(Node &node, function_ref<Value(Value)> body) {
  const Tensor &x = node.in(0);
  return node.set(0,
                  node.b.map({x.value}, x.elementType(),
                             [&](ValueRange e) { return body(e[0]); }),
                  x.type);
}

static LogicalResult emitAbs(Node &node) {
  TensorBuilder &b = node.b;
  int32_t type = node.in(0).type;
  return mapSame(node, [&](Value x) -> Value {
    if (isFloatType(type))
      return math::AbsFOp::create(b, b.loc, x);
    if (isUnsignedType(type))
      return x;
    return math::AbsIOp::create(b, b.loc, x);
  });
}

static LogicalResult emitNeg(Node &node) {
  TensorBuilder &b = node.b;
  int32_t type = node.in(0).type;
  return mapSame(node, [&](Value x) -> Value {
    if (isFloatType(type))
      return arith::NegFOp::create(b, b.loc, x);
    return subElements(b, b.integer(x.getType(), 0), x);
  });
}

static LogicalResult emitSign(Node &node) {
  TensorBuilder &b = node.b;
  int32_t type = node.in(0).type;
  return mapSame(node, [&](Value x) -> Value {
    Value zero = b.integer(x.getType(), 0), one = b.integer(x.getType(), 1);
    Value positive = lessElements(b, zero, x, type);
    Value up = arith::SelectOp::create(b, b.loc, positive, one, zero);
    if (isUnsignedType(type))
      return up;
    Value negative = lessElements(b, x, zero, type);
    return arith::SelectOp::create(b, b.loc, negative,
                                   b.integer(x.getType(), -1), up);
  });
}

static LogicalResult emitRelu(Node &node) {
  TensorBuilder &b = node.b;
  int32_t type = node.in(0).type;
  return mapSame(node, [&](Value x) {
    return maxElements(b, x, b.integer(x.getType(), 0), type);
  });
}

static LogicalResult emitIsNaN(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  if (!isFloatType(x.type))
    return node.fail("takes floating-point elements");
  return node.set(0,
                  b.map({x.value}, b.getI1Type(),
                        [&](ValueRange e) -> Value {
                          return arith::CmpFOp::create(
                              b, b.loc, arith::CmpFPredicate::UNO, e[0], e[0]);
                        }),
                  TensorProto::BOOL);
}
static LogicalResult emitIsInf(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  if (!isFloatType(x.type))
    return node.fail("takes floating-point elements");
  bool positive = node.integer("detect_positive", 1);
  bool negative = node.integer("detect_negative", 1);
  auto is = [&](Value x, bool wanted, Value infinity) -> Value {
    if (!wanted)
      return b.integer(b.getI1Type(), 0);
    return arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::OEQ, x,
                                 infinity);
  };
  return node.set(0,
                  b.map({x.value}, b.getI1Type(),
                        [&](ValueRange e) -> Value {
                          return arith::OrIOp::create(
                              b, b.loc,
                              is(e[0], positive, highestElement(b, x.type)),
                              is(e[0], negative, lowestElement(b, x.type)));
                        }),
                  TensorProto::BOOL);
}

static LogicalResult emitNot(Node &node) {
  TensorBuilder &b = node.b;
  if (isFloatType(node.in(0).type))
    return node.fail("takes booleans or integers");
  return mapSame(node, [&](Value x) -> Value {
    return arith::XOrIOp::create(b, b.loc, x, b.integer(x.getType(), -1));
  });
}

static LogicalResult emitIdentity(Node &node) {
  const Tensor &x = node.in(0);
  return node.set(0, x.value, x.type, x.known);
}

static LogicalResult emitDropout(Node &node) {
  if (node.has(2)) {
    auto training = node.knownInput(2);
    if (!training)
      return failure();
    auto ratio = node.has(1) ? node.in(1) : Tensor();
    if (!training->empty() && training->front())
      return node.fail("training mode draws random numbers");
  }
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  if (node.wants(1))
    (void)node.set(
        1,
        b.map({x.value}, b.getI1Type(),
              [&](ValueRange) { return b.integer(b.getI1Type(), 1); }),
        TensorProto::BOOL);
  return node.set(0, x.value, x.type);
}

static LogicalResult emitClip(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  SmallVector<Value> inputs{x.value};
  for (int64_t i : {1, 2})
    if (node.has(i))
      inputs.push_back(node.in(i).value);
  return node.set(0,
                  b.map(inputs, x.elementType(),
                        [&](ValueRange e) {
                          Value value = e[0];
                          size_t next = 1;
                          if (node.has(1))
                            value = maxElements(b, value, e[next++], x.type);
                          if (node.has(2))
                            value = minElements(b, value, e[next], x.type);
                          return value;
                        }),
                  x.type);
}

//===----------------------------------------------------------------------===//
// Several inputs
//===----------------------------------------------------------------------===//

using Combine = Value (*)(TensorBuilder &, Value, Value, int32_t);

static LogicalResult checkSameTypes(Node &node) {
  for (const Tensor &input : node.ins())
    if (input && input.type != node.in(0).type)
      return node.fail("inputs must have the same element type");
  return success();
}

/// Folds all inputs from the left.
static LogicalResult combine(Node &node, Combine body, int32_t resultType = 0) {
  if (failed(checkSameTypes(node)))
    return failure();
  int32_t type = node.in(0).type;
  TensorBuilder &b = node.b;
  SmallVector<Value> values;
  for (const Tensor &input : node.ins())
    values.push_back(input.value);
  Type stored = resultType ? getStoredType(b.getContext(), resultType)
                           : node.in(0).elementType();
  Value result = b.map(values, stored, [&](ValueRange e) {
    Value value = e[0];
    for (Value next : e.drop_front())
      value = body(b, value, next, type);
    return value;
  });
  return node.set(0, result, resultType ? resultType : type);
}

static LogicalResult emitAdd(Node &node) {
  return combine(node, [](TensorBuilder &b, Value x, Value y, int32_t) {
    return addElements(b, x, y);
  });
}
static LogicalResult emitSub(Node &node) {
  return combine(node, [](TensorBuilder &b, Value x, Value y, int32_t) {
    return subElements(b, x, y);
  });
}
static LogicalResult emitMul(Node &node) {
  return combine(node, [](TensorBuilder &b, Value x, Value y, int32_t) {
    return mulElements(b, x, y);
  });
}
static LogicalResult emitDiv(Node &node) { return combine(node, divElements); }
static LogicalResult emitMax(Node &node) { return combine(node, maxElements); }
static LogicalResult emitMin(Node &node) { return combine(node, minElements); }
static LogicalResult emitMean(Node &node) {
  if (failed(emitAdd(node)))
    return failure();
  const Tensor sum = node.outs()[0];
  TensorBuilder &b = node.b;
  double count = static_cast<double>(node.inputCount());
  return node.set(0,
                  b.map({sum.value}, sum.elementType(),
                        [&](ValueRange e) {
                          return divElements(b, e[0],
                                             b.constant(e[0].getType(), count),
                                             sum.type);
                        }),
                  sum.type);
}

/// Remainder with the sign of the divisor (Python's), or of the dividend.
static Value remainder(TensorBuilder &b, Value x, Value y, int32_t type,
                       bool signOfDividend) {
  if (isFloatType(type)) {
    int32_t wide = accumulatorType(type);
    Value a = convertElement(b, x, type, wide),
          d = convertElement(b, y, type, wide);
    Value r = arith::RemFOp::create(b, b.loc, a, d);
    if (!signOfDividend) {
      Value other = arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::OLT,
                                          mulElements(b, r, d),
                                          b.constant(r.getType(), 0));
      r = arith::SelectOp::create(b, b.loc, other, addElements(b, r, d), r);
    }
    return convertElement(b, r, wide, type);
  }
  Value zero = b.integer(x.getType(), 0), one = b.integer(x.getType(), 1);
  auto is = [&](arith::CmpIPredicate predicate, Value p, Value q) -> Value {
    return arith::CmpIOp::create(b, b.loc, predicate, p, q);
  };
  Value divisor = arith::SelectOp::create(
      b, b.loc, is(arith::CmpIPredicate::eq, y, zero), one, y);
  if (isUnsignedType(type))
    return arith::RemUIOp::create(b, b.loc, x, divisor);
  Value r = arith::RemSIOp::create(b, b.loc, x, divisor);
  if (signOfDividend)
    return r;
  Value differs = is(arith::CmpIPredicate::slt,
                     arith::XOrIOp::create(b, b.loc, r, divisor), zero);
  Value wraps = arith::AndIOp::create(b, b.loc, differs,
                                      is(arith::CmpIPredicate::ne, r, zero));
  return arith::SelectOp::create(b, b.loc, wraps, addElements(b, r, divisor),
                                 r);
}
static LogicalResult emitMod(Node &node) {
  if (node.integer("fmod", 0))
    return combine(node, [](TensorBuilder &b, Value x, Value y, int32_t type) {
      return remainder(b, x, y, type, /*signOfDividend=*/true);
    });
  return combine(node, [](TensorBuilder &b, Value x, Value y, int32_t type) {
    return remainder(b, x, y, type, /*signOfDividend=*/false);
  });
}

static LogicalResult emitPow(Node &node) {
  const Tensor &x = node.in(0), &y = node.in(1);
  TensorBuilder &b = node.b;
  // Wide enough for both; integers go through f64.
  int32_t wide = x.type == TensorProto::FLOAT && isFloatType(y.type)
                     ? static_cast<int32_t>(TensorProto::FLOAT)
                     : static_cast<int32_t>(TensorProto::DOUBLE);
  return node.set(0,
                  b.map({x.value, y.value}, x.elementType(),
                        [&](ValueRange e) {
                          Value power = math::PowFOp::create(
                              b, b.loc, convertElement(b, e[0], x.type, wide),
                              convertElement(b, e[1], y.type, wide));
                          return convertElement(b, power, wide, x.type);
                        }),
                  x.type);
}

template <typename Op> static LogicalResult emitBits(Node &node) {
  if (isFloatType(node.in(0).type))
    return node.fail("takes booleans or integers");
  return combine(node,
                 [](TensorBuilder &b, Value x, Value y, int32_t) -> Value {
                   return Op::create(b, b.loc, x, y);
                 });
}

/// All bits leave where the distance is negative or reaches the width; copies
/// of the sign follow those that leave a signed integer to the right.
static Value shiftBits(TensorBuilder &b, Value x, Value y, int32_t type,
                       bool isLeft) {
  Type stored = x.getType();
  unsigned width = stored.getIntOrFloatBitWidth();
  Value fits = arith::CmpIOp::create(b, b.loc, arith::CmpIPredicate::ult, y,
                                     b.integer(stored, width));
  bool keepsSign = !isLeft && !isUnsignedType(type);
  Value distance = arith::SelectOp::create(
      b, b.loc, fits, y, b.integer(stored, keepsSign ? width - 1 : 0));
  if (keepsSign)
    return arith::ShRSIOp::create(b, b.loc, x, distance);
  Value moved = isLeft ? Value(arith::ShLIOp::create(b, b.loc, x, distance))
                       : Value(arith::ShRUIOp::create(b, b.loc, x, distance));
  return arith::SelectOp::create(b, b.loc, fits, moved, b.integer(stored, 0));
}

static LogicalResult emitBitShift(Node &node) {
  bool isLeft = node.text("direction", "") == "LEFT";
  if (!isLeft && node.text("direction", "") != "RIGHT")
    return node.fail("direction must be LEFT or RIGHT");
  if (!isa<IntegerType>(node.in(0).elementType()) ||
      isBoolType(node.in(0).type))
    return node.fail("shifts take integers");
  if (isLeft)
    return combine(node, [](TensorBuilder &b, Value x, Value y, int32_t type) {
      return shiftBits(b, x, y, type, /*isLeft=*/true);
    });
  return combine(node, [](TensorBuilder &b, Value x, Value y, int32_t type) {
    return shiftBits(b, x, y, type, /*isLeft=*/false);
  });
}

template <arith::CmpFPredicate floats, arith::CmpIPredicate integers,
          arith::CmpIPredicate unsignedIntegers>
static LogicalResult emitCompare(Node &node) {
  return combine(
      node,
      [](TensorBuilder &b, Value x, Value y, int32_t type) -> Value {
        if (isa<FloatType>(x.getType()))
          return arith::CmpFOp::create(b, b.loc, floats, x, y);
        return arith::CmpIOp::create(
            b, b.loc, isUnsignedType(type) ? unsignedIntegers : integers, x, y);
      },
      TensorProto::BOOL);
}

static LogicalResult emitPRelu(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  return node.set(
      0,
      b.map({x.value, node.in(1).value}, x.elementType(),
            [&](ValueRange e) -> Value {
              Value below =
                  lessElements(b, e[0], b.integer(e[0].getType(), 0), x.type);
              return arith::SelectOp::create(b, b.loc, below,
                                             mulElements(b, e[0], e[1]), e[0]);
            }),
      x.type);
}

static LogicalResult emitWhere(Node &node) {
  const Tensor &x = node.in(1);
  TensorBuilder &b = node.b;
  return node.set(
      0,
      b.map({node.in(0).value, x.value, node.in(2).value}, x.elementType(),
            [&](ValueRange e) -> Value {
              return arith::SelectOp::create(b, b.loc, e[0], e[1], e[2]);
            }),
      x.type);
}

static const Operator operators[] = {
    {"", "Abs", 1, 1, emitAbs},
    {"", "Add", 2, 2, emitAdd},
    {"", "And", 2, 2, emitBits<arith::AndIOp>},
    {"", "BitShift", 2, 2, emitBitShift},
    {"", "BitwiseAnd", 2, 2, emitBits<arith::AndIOp>},
    {"", "BitwiseNot", 1, 1, emitNot},
    {"", "BitwiseOr", 2, 2, emitBits<arith::OrIOp>},
    {"", "BitwiseXor", 2, 2, emitBits<arith::XOrIOp>},
    {"", "Clip", 1, 3, emitClip},
    {"", "Div", 2, 2, emitDiv},
    {"", "Dropout", 1, 3, emitDropout},
    {"", "Equal", 2, 2,
     emitCompare<arith::CmpFPredicate::OEQ, arith::CmpIPredicate::eq,
                 arith::CmpIPredicate::eq>},
    {"", "Greater", 2, 2,
     emitCompare<arith::CmpFPredicate::OGT, arith::CmpIPredicate::sgt,
                 arith::CmpIPredicate::ugt>},
    {"", "GreaterOrEqual", 2, 2,
     emitCompare<arith::CmpFPredicate::OGE, arith::CmpIPredicate::sge,
                 arith::CmpIPredicate::uge>},
    {"", "Identity", 1, 1, emitIdentity},
    {"", "IsInf", 1, 1, emitIsInf},
    {"", "IsNaN", 1, 1, emitIsNaN},
    {"", "Less", 2, 2,
     emitCompare<arith::CmpFPredicate::OLT, arith::CmpIPredicate::slt,
                 arith::CmpIPredicate::ult>},
    {"", "LessOrEqual", 2, 2,
     emitCompare<arith::CmpFPredicate::OLE, arith::CmpIPredicate::sle,
                 arith::CmpIPredicate::ule>},
    {"", "Max", 1, -1, emitMax},
    {"", "Mean", 1, -1, emitMean},
    {"", "Min", 1, -1, emitMin},
    {"", "Mod", 2, 2, emitMod},
    {"", "Mul", 2, 2, emitMul},
    {"", "Neg", 1, 1, emitNeg},
    {"", "Not", 1, 1, emitNot},
    {"", "Or", 2, 2, emitBits<arith::OrIOp>},
    {"", "PRelu", 2, 2, emitPRelu},
    {"", "Pow", 2, 2, emitPow},
    {"", "Relu", 1, 1, emitRelu},
    {"", "Sign", 1, 1, emitSign},
    {"", "Sub", 2, 2, emitSub},
    {"", "Sum", 1, -1, emitAdd},
    {"", "Where", 3, 3, emitWhere},
    {"", "Xor", 2, 2, emitBits<arith::XOrIOp>},
};

ArrayRef<Operator> mlir::qlm::onnx_import::elementwiseOperators() {
  return operators;
}
