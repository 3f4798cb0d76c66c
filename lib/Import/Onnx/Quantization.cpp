//===- Quantization.cpp - Operators on codes, scales and zero points ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Products.h"
#include "SmallFloats.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "qlm/Archive/OnnxFile.h"
#include "qlm/Dialect/Graph.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// Lowest and highest code of an integer type.
static std::optional<std::pair<double, double>> codeRange(int32_t type) {
  switch (type) {
  case TensorProto::UINT8:
    return std::pair(0.0, 255.0);
  case TensorProto::INT8:
    return std::pair(-128.0, 127.0);
  case TensorProto::UINT16:
    return std::pair(0.0, 65535.0);
  case TensorProto::INT16:
    return std::pair(-32768.0, 32767.0);
  case TensorProto::UINT4:
    return std::pair(0.0, 15.0);
  case TensorProto::INT4:
    return std::pair(-8.0, 7.0);
  case TensorProto::UINT2:
    return std::pair(0.0, 3.0);
  case TensorProto::INT2:
    return std::pair(-2.0, 1.0);
  default:
    return std::nullopt;
  }
}

/// Element of scales or zero points for the element of \p x at \p at: one for
/// all, one a channel, or one a block of an axis.
static Value parameterAt(Node &node, const Tensor &x, const Tensor &parameter,
                         ValueRange at) {
  TensorBuilder &b = node.b;
  if (parameter.rank() == 0 || (parameter.rank() == 1 && parameter.dim(0) == 1))
    return b.scalar(parameter.value);
  int64_t axis = node.integer("axis", 1);
  axis += axis < 0 ? x.rank() : 0;
  if (parameter.rank() == 1)
    return b.extract(parameter.value, at[axis]);
  int64_t block = node.integer("block_size", 0);
  SmallVector<Value> from(at);
  from[axis] = b.floorDiv(at[axis], b.index(block));
  return b.extract(parameter.value, from);
}

static LogicalResult checkParameter(Node &node, const Tensor &x,
                                    const Tensor &parameter) {
  int64_t axis = node.integer("axis", 1);
  int64_t block = node.integer("block_size", 0);
  bool isTensor =
      parameter.rank() == 0 || (parameter.rank() == 1 && parameter.dim(0) == 1);
  if (isTensor)
    return success();
  if (axis < -x.rank() || axis >= x.rank())
    return node.fail("axis must be from " + llvm::Twine(-x.rank()) + " to " +
                     llvm::Twine(x.rank() - 1) + ", got " + llvm::Twine(axis));
  if (parameter.rank() > 1 && (parameter.rank() != x.rank() || block < 1))
    return node.fail("scales must be one, one for each channel, or one for "
                     "each block of block_size");
  return success();
}

static bool isCode(int32_t type) {
  return codeRange(type) ||
         (isSmallFloat(type) && type != TensorProto::FLOAT8E8M0);
}

static bool isScale(int32_t type) {
  return isFloatType(type) || type == TensorProto::FLOAT8E8M0;
}

/// The code of \p quotient, of type \p wide as \p zero is: rounded, then moved
/// by \p zero and clamped to the codes' range; floats are rounded last.
static Value quantize(TensorBuilder &b, Value quotient, Value zero,
                      int32_t wide, int32_t to, bool saturate = true) {
  if (isSmallFloat(to)) {
    Value moved = zero ? addElements(b, quotient, zero) : quotient;
    return convertElement(b, moved, wide, to, saturate);
  }
  auto [low, high] = *codeRange(to);
  Type stored = quotient.getType();
  Value code = math::RoundEvenOp::create(b, b.loc, quotient);
  if (zero)
    code = addElements(b, code, zero);
  // NaN becomes the lowest code; the conversion must not be undefined.
  code = arith::MaxNumFOp::create(b, b.loc, code, b.constant(stored, low));
  code = arith::MinNumFOp::create(b, b.loc, code, b.constant(stored, high));
  return convertElement(b, code, wide, to);
}

/// Whether graph.quantize and graph.dequantize can say what \p node does: codes
/// of 8 bits, or of 32 that are dequantized, and f32 scales, one for all or one
/// for each index of \p axis.
static bool isPlain(Node &node, int32_t codes, int64_t &axis) {
  const Tensor &x = node.in(0), &scale = node.in(1);
  axis = node.integer("axis", 1);
  axis += axis < 0 ? x.rank() : 0;
  bool isOne = scale.rank() == 0 || (scale.rank() == 1 && scale.dim(0) == 1);
  bool isChannel = scale.rank() == 1 && axis >= 0 && axis < x.rank() &&
                   !scale.tensorType().isDynamicDim(0) &&
                   scale.dim(0) == x.dim(axis);
  if (isOne)
    axis = 0;
  bool hasType = codes == TensorProto::UINT8 || codes == TensorProto::INT8 ||
                 codes == TensorProto::INT32;
  return hasType && (isOne || isChannel) && scale.type == TensorProto::FLOAT &&
         (!node.has(2) || (node.in(2).tensorType().getShape() ==
                               scale.tensorType().getShape() &&
                           node.in(2).type == codes));
}

static UnitAttr unsignedFlag(TensorBuilder &b, int32_t codes) {
  return codes == TensorProto::UINT8 ? b.getUnitAttr() : UnitAttr();
}

static LogicalResult emitQuantizeLinear(Node &node) {
  const Tensor &x = node.in(0), &scale = node.in(1);
  TensorBuilder &b = node.b;
  auto to = static_cast<int32_t>(node.integer("output_dtype", 0));
  if (node.has(2))
    to = node.in(2).type;
  else if (!to)
    to = TensorProto::UINT8;
  if (!isCode(to))
    return node.fail("codes of " + getOnnxTypeName(to) + " are not handled");
  for (int64_t i : {1, 2})
    if (node.has(i) && checkParameter(node, x, node.in(i)).failed())
      return failure();
  int64_t axis;
  if (x.type == TensorProto::FLOAT && to != TensorProto::INT32 &&
      !node.integer("precision", 0) && isPlain(node, to, axis))
    return node.set(0,
                    mlir::qlm::graph::QuantizeOp::create(
                        b, b.loc, x.tensorType().clone(b.getI8Type()), x.value,
                        scale.value, node.has(2) ? node.in(2).value : Value(),
                        b.getI64IntegerAttr(axis), unsignedFlag(b, to)),
                    to);
  // Divided in the precision asked for, or that of the scale; powers of two
  // are exact in float32.
  auto precision = static_cast<int32_t>(node.integer("precision", scale.type));
  if (!precision || precision == TensorProto::FLOAT8E8M0)
    precision =
        scale.type == TensorProto::FLOAT8E8M0 ? TensorProto::FLOAT : scale.type;
  int32_t wide = accumulatorType(precision);
  if (!isFloatType(wide) || !isScale(scale.type))
    return node.fail("scales must be floats");
  bool saturates = node.integer("saturate", 1);
  return node.set(
      0,
      b.generate(b.dims(x.value), getStoredType(b.getContext(), to),
                 [&](ValueRange at) {
                   Value v =
                       convertElement(b, b.extract(x.value, at), x.type, wide);
                   Value s = convertElement(b, parameterAt(node, x, scale, at),
                                            scale.type, wide);
                   Value zero;
                   if (node.has(2))
                     zero = convertElement(
                         b, parameterAt(node, x, node.in(2), at), to, wide);
                   Value quotient = roundElement(b, divElements(b, v, s, wide),
                                                 wide, precision);
                   return quantize(b, quotient, zero, wide, to, saturates);
                 }),
      to);
}

static LogicalResult emitDequantizeLinear(Node &node) {
  const Tensor &x = node.in(0), &scale = node.in(1);
  TensorBuilder &b = node.b;
  if (!isCode(x.type) && x.type != TensorProto::INT32)
    return node.fail("codes of " + getOnnxTypeName(x.type) +
                     " are not handled");
  if (!isScale(scale.type))
    return node.fail("scales must be floats");
  for (int64_t i : {1, 2})
    if (node.has(i) && checkParameter(node, x, node.in(i)).failed())
      return failure();
  auto to = static_cast<int32_t>(node.integer("output_dtype", 0));
  if (!to)
    to = scale.type;
  int64_t axis;
  if (to == TensorProto::FLOAT && isPlain(node, x.type, axis))
    return node.set(0,
                    mlir::qlm::graph::DequantizeOp::create(
                        b, b.loc, x.tensorType().clone(b.getF32Type()), x.value,
                        scale.value, node.has(2) ? node.in(2).value : Value(),
                        b.getI64IntegerAttr(axis), unsignedFlag(b, x.type)),
                    to);
  int32_t wide = scale.type == TensorProto::DOUBLE ? TensorProto::DOUBLE
                                                   : TensorProto::FLOAT;
  // Differences of integers are exact.
  int32_t difference =
      isSmallFloat(x.type) ? TensorProto::FLOAT : TensorProto::INT64;
  if (!isFloatType(to))
    return node.fail("cannot give " + getOnnxTypeName(to));
  return node.set(
      0,
      b.generate(b.dims(x.value), getStoredType(b.getContext(), to),
                 [&](ValueRange at) {
                   Value code = convertElement(b, b.extract(x.value, at),
                                               x.type, difference);
                   if (node.has(2))
                     code = subElements(
                         b, code,
                         convertElement(b, parameterAt(node, x, node.in(2), at),
                                        node.in(2).type, difference));
                   Value s = convertElement(b, parameterAt(node, x, scale, at),
                                            scale.type, wide);
                   Value v = mulElements(
                       b, convertElement(b, code, difference, wide), s);
                   return convertElement(b, v, wide, to);
                 }),
      to);
}

static LogicalResult emitDynamicQuantizeLinear(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  Type f32 = b.getF32Type();
  if (x.type != TensorProto::FLOAT)
    return node.fail("takes float32");
  Value zero = b.constant(f32, 0);
  auto range =
      b.loopNest(b.dims(x.value), {zero, zero},
                 [&](ValueRange at, ValueRange carried) -> SmallVector<Value> {
                   Value e = b.extract(x.value, at);
                   return {arith::MinNumFOp::create(b, b.loc, carried[0], e),
                           arith::MaxNumFOp::create(b, b.loc, carried[1], e)};
                 });
  Value scale = divElements(b, subElements(b, range[1], range[0]),
                            b.constant(f32, 255), TensorProto::FLOAT);
  // Only zeros: any scale serves, and none may divide by zero.
  Value isZero =
      arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::OEQ, scale, zero);
  Value divisor =
      arith::SelectOp::create(b, b.loc, isZero, b.constant(f32, 1), scale);
  Value point = subElements(
      b, zero, divElements(b, range[0], divisor, TensorProto::FLOAT));
  point = arith::MaxNumFOp::create(b, b.loc, point, zero);
  point = arith::MinNumFOp::create(b, b.loc, point, b.constant(f32, 255));
  point = math::RoundEvenOp::create(b, b.loc, point);
  auto scalar = [&](Value element) -> Value {
    return tensor::FromElementsOp::create(
        b, b.loc, RankedTensorType::get({}, element.getType()), element);
  };
  (void)node.set(1, scalar(scale), TensorProto::FLOAT);
  (void)node.set(
      2,
      scalar(convertElement(b, point, TensorProto::FLOAT, TensorProto::UINT8)),
      TensorProto::UINT8);
  return node.set(0,
                  b.map({x.value}, b.getI8Type(),
                        [&](ValueRange e) {
                          Value quotient =
                              divElements(b, e[0], divisor, TensorProto::FLOAT);
                          return quantize(b, quotient, point,
                                          TensorProto::FLOAT,
                                          TensorProto::UINT8);
                        }),
                  TensorProto::UINT8);
}

/// A reader of codes less their zero point, as i32. Zero points are one, or one
/// a row (\p axis counted from the end of the operand).
static auto lessZeroPoint(Node &node, int64_t operand, int64_t zero,
                          int64_t axis) {
  return [&node, operand, zero, axis](Value e, ValueRange at) -> Value {
    TensorBuilder &b = node.b;
    const Tensor &x = node.in(operand);
    Value code = convertElement(b, e, x.type, TensorProto::INT32);
    if (!node.has(zero))
      return code;
    const Tensor &point = node.in(zero);
    Value p;
    if (point.rank() == 0 || (point.rank() == 1 && point.dim(0) == 1))
      p = b.scalar(point.value);
    else if (point.rank() == 1)
      p = b.extract(point.value, at[axis < 0 ? at.size() + axis : axis]);
    else
      p = b.extractBroadcast(point.value, at);
    return subElements(b, code,
                       convertElement(b, p, point.type, TensorProto::INT32));
  };
}

static LogicalResult emitMatMulInteger(Node &node) {
  TensorBuilder &b = node.b;
  if (Value sums = multiplyCodes(node))
    return node.set(0, sums, TensorProto::FLOAT);
  auto readX = lessZeroPoint(node, 0, 2, -2),
       readY = lessZeroPoint(node, 1, 3, -1);
  Value result = matmul(
      node, node.in(0), node.in(1), b.getI32Type(), readX, readY,
      [](Value sum, ValueRange) { return sum; }, b.integer(b.getI32Type(), 0));
  return result ? node.set(0, result, TensorProto::INT32) : failure();
}

static LogicalResult emitConvInteger(Node &node) {
  TensorBuilder &b = node.b;
  if (Value sums = convolveCodes(node))
    return node.set(0, sums, TensorProto::FLOAT);
  auto readX = lessZeroPoint(node, 0, 2, 1),
       readW = lessZeroPoint(node, 1, 3, 0);
  Value result = convolve(
      node, node.in(0), node.in(1), b.getI32Type(), readX, readW,
      [](Value sum, ValueRange) { return sum; }, b.integer(b.getI32Type(), 0));
  return result ? node.set(0, result, TensorProto::INT32) : failure();
}

/// Element of a per-tensor or per-channel parameter.
static Value channelParameter(TensorBuilder &b, const Tensor &parameter,
                              Value channel) {
  if (parameter.rank() == 0 || (parameter.rank() == 1 && parameter.dim(0) == 1))
    return b.scalar(parameter.value);
  return b.extract(parameter.value, channel);
}

/// An i32 sum to a code: times the scales of both operands over the result's.
static Value requantize(Node &node, Value sum, Value xScale, Value yScale,
                        int64_t scale, int64_t zero, int32_t scaleType) {
  TensorBuilder &b = node.b;
  const Tensor &resultZero = node.in(zero);
  int32_t wide = accumulatorType(scaleType);
  auto read = [&](Value v) { return convertElement(b, v, scaleType, wide); };
  Value v = convertElement(b, sum, TensorProto::INT32, wide);
  v = mulElements(b, v, mulElements(b, read(xScale), read(yScale)));
  Value point =
      convertElement(b, b.scalar(resultZero.value), resultZero.type, wide);
  v = divElements(b, v, read(b.scalar(node.in(scale).value)), wide);
  return quantize(b, v, point, wide, resultZero.type);
}

static LogicalResult emitQLinearMatMul(Node &node) {
  TensorBuilder &b = node.b;
  // a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero
  const Tensor &x = node.in(0), &y = node.in(3);
  int32_t to = node.in(7).type;
  if (!codeRange(to) || !codeRange(x.type) || !codeRange(y.type))
    return node.fail("codes that are floats are not handled");
  if (x.rank() == 2 && y.rank() == 2 && y.dim(0) > 0 && y.dim(1) > 0 &&
      x.dim(1) == y.dim(0) && CodeProduct::read(node, 3)) {
    Tensor floats{CodeProduct::input(node), TensorProto::FLOAT, std::nullopt},
        weight{CodeProduct::weight(node, 1), TensorProto::FLOAT, std::nullopt};
    if (Value product = multiplyByParameter(b, floats, weight))
      return node.set(0, CodeProduct::result(node, product), to);
  }
  auto readX = lessZeroPoint(node, 0, 2, -2),
       readY = lessZeroPoint(node, 3, 5, -1);
  Value result = matmul(
      node, x, y, getStoredType(b.getContext(), to), readX, readY,
      [&](Value sum, ValueRange at) {
        Value row = at.size() > 1 ? at[at.size() - 2] : b.index(0);
        return requantize(node, sum, channelParameter(b, node.in(1), row),
                          channelParameter(b, node.in(4), at.back()), 6, 7,
                          node.in(1).type);
      },
      b.integer(b.getI32Type(), 0));
  return result ? node.set(0, result, to) : failure();
}

static LogicalResult emitQLinearConv(Node &node) {
  TensorBuilder &b = node.b;
  // x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias
  int32_t to = node.in(7).type;
  if (!codeRange(to) || !codeRange(node.in(0).type))
    return node.fail("codes that are floats are not handled");
  if (CodeProduct::read(node, 3)) {
    Tensor codes{CodeProduct::input(node), TensorProto::FLOAT, std::nullopt};
    Value bias = node.has(8) && b.isParameter(node.in(8).value)
                     ? CodeProduct::bias(node, 8)
                     : Value();
    if (static_cast<bool>(bias) == node.has(8))
      if (Value image =
              convolveImage(node, codes, CodeProduct::weight(node, 0), bias))
        return node.set(0, CodeProduct::result(node, image), to);
  }
  auto readX = lessZeroPoint(node, 0, 2, 1),
       readW = lessZeroPoint(node, 3, 5, 0);
  Value result = convolve(
      node, node.in(0), node.in(3), getStoredType(b.getContext(), to), readX,
      readW,
      [&](Value sum, ValueRange at) {
        if (node.has(8))
          sum = addElements(b, sum, b.extract(node.in(8).value, at[1]));
        return requantize(node, sum, b.scalar(node.in(1).value),
                          channelParameter(b, node.in(4), at[1]), 6, 7,
                          node.in(1).type);
      },
      b.integer(b.getI32Type(), 0));
  return result ? node.set(0, result, to) : failure();
}

static const Operator operators[] = {
    {"", "ConvInteger", 2, 4, emitConvInteger},
    {"", "DequantizeLinear", 2, 3, emitDequantizeLinear},
    {"", "DynamicQuantizeLinear", 1, 1, emitDynamicQuantizeLinear},
    {"", "MatMulInteger", 2, 4, emitMatMulInteger},
    {"", "QLinearConv", 8, 9, emitQLinearConv},
    {"", "QLinearMatMul", 8, 8, emitQLinearMatMul},
    {"", "QuantizeLinear", 2, 3, emitQuantizeLinear},
};

ArrayRef<Operator> mlir::qlm::onnx_import::quantizationOperators() {
  return operators;
}
