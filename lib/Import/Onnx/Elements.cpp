//===- Elements.cpp - Scalar arithmetic of ONNX's element types -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "SmallFloats.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

Value mlir::qlm::onnx_import::addElements(TensorBuilder &b, Value x, Value y) {
  if (isa<FloatType>(x.getType()))
    return arith::AddFOp::create(b, b.loc, x, y);
  return arith::AddIOp::create(b, b.loc, x, y);
}

Value mlir::qlm::onnx_import::subElements(TensorBuilder &b, Value x, Value y) {
  if (isa<FloatType>(x.getType()))
    return arith::SubFOp::create(b, b.loc, x, y);
  return arith::SubIOp::create(b, b.loc, x, y);
}

Value mlir::qlm::onnx_import::mulElements(TensorBuilder &b, Value x, Value y) {
  if (isa<FloatType>(x.getType()))
    return arith::MulFOp::create(b, b.loc, x, y);
  return arith::MulIOp::create(b, b.loc, x, y);
}

Value mlir::qlm::onnx_import::divElements(TensorBuilder &b, Value x, Value y,
                                          int32_t type) {
  if (isa<FloatType>(x.getType()))
    return arith::DivFOp::create(b, b.loc, x, y);
  // Division by zero has no result in ONNX; it must not trap.
  Value zero = b.integer(x.getType(), 0), one = b.integer(x.getType(), 1);
  Value isZero =
      arith::CmpIOp::create(b, b.loc, arith::CmpIPredicate::eq, y, zero);
  Value divisor = arith::SelectOp::create(b, b.loc, isZero, one, y);
  if (isUnsignedType(type))
    return arith::DivUIOp::create(b, b.loc, x, divisor);
  return arith::DivSIOp::create(b, b.loc, x, divisor);
}

Value mlir::qlm::onnx_import::lessElements(TensorBuilder &b, Value x, Value y,
                                           int32_t type) {
  if (isa<FloatType>(x.getType()))
    return arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::OLT, x, y);
  return arith::CmpIOp::create(b, b.loc,
                               isUnsignedType(type) ? arith::CmpIPredicate::ult
                                                    : arith::CmpIPredicate::slt,
                               x, y);
}

Value mlir::qlm::onnx_import::minElements(TensorBuilder &b, Value x, Value y,
                                          int32_t type) {
  if (isa<FloatType>(x.getType()))
    return arith::MinimumFOp::create(b, b.loc, x, y);
  if (isUnsignedType(type))
    return arith::MinUIOp::create(b, b.loc, x, y);
  return arith::MinSIOp::create(b, b.loc, x, y);
}

Value mlir::qlm::onnx_import::maxElements(TensorBuilder &b, Value x, Value y,
                                          int32_t type) {
  if (isa<FloatType>(x.getType()))
    return arith::MaximumFOp::create(b, b.loc, x, y);
  if (isUnsignedType(type))
    return arith::MaxUIOp::create(b, b.loc, x, y);
  return arith::MaxSIOp::create(b, b.loc, x, y);
}

int32_t mlir::qlm::onnx_import::accumulatorType(int32_t type) {
  return type == TensorProto::FLOAT16 || type == TensorProto::BFLOAT16
             ? static_cast<int32_t>(TensorProto::FLOAT)
             : type;
}

Value mlir::qlm::onnx_import::lowestElement(TensorBuilder &b, int32_t type) {
  Type stored = getStoredType(b.getContext(), type);
  if (auto floats = dyn_cast<FloatType>(stored))
    return arith::ConstantOp::create(
        b, b.loc,
        b.getFloatAttr(floats, APFloat::getInf(floats.getFloatSemantics(),
                                               /*Negative=*/true)));
  unsigned width = stored.getIntOrFloatBitWidth();
  return arith::ConstantOp::create(
      b, b.loc,
      b.getIntegerAttr(stored, isUnsignedType(type)
                                   ? APInt::getMinValue(width)
                                   : APInt::getSignedMinValue(width)));
}

Value mlir::qlm::onnx_import::highestElement(TensorBuilder &b, int32_t type) {
  Type stored = getStoredType(b.getContext(), type);
  if (auto floats = dyn_cast<FloatType>(stored))
    return arith::ConstantOp::create(
        b, b.loc,
        b.getFloatAttr(floats, APFloat::getInf(floats.getFloatSemantics())));
  unsigned width = stored.getIntOrFloatBitWidth();
  return arith::ConstantOp::create(
      b, b.loc,
      b.getIntegerAttr(stored, isUnsignedType(type)
                                   ? APInt::getMaxValue(width)
                                   : APInt::getSignedMaxValue(width)));
}

/// f64 as f32 so that rounding it once more, to a shorter type, rounds once: to
/// an odd last place where it isn't exact.
static Value roundToOdd(TensorBuilder &b, Value value) {
  Type i32 = b.getI32Type();
  Value near = arith::TruncFOp::create(b, b.loc, b.getF32Type(), value);
  Value back = arith::ExtFOp::create(b, b.loc, value.getType(), near);
  auto compare = [&](arith::CmpFPredicate predicate, Value x,
                     Value y) -> Value {
    return arith::ExtUIOp::create(
        b, b.loc, i32, arith::CmpFOp::create(b, b.loc, predicate, x, y));
  };
  Value isAway =
      compare(arith::CmpFPredicate::OGT, math::AbsFOp::create(b, b.loc, back),
              math::AbsFOp::create(b, b.loc, value));
  Value isInexact = compare(arith::CmpFPredicate::ONE, back, value);
  Value bits = arith::BitcastOp::create(b, b.loc, i32, near);
  bits =
      arith::OrIOp::create(b, b.loc, subElements(b, bits, isAway), isInexact);
  return arith::BitcastOp::create(b, b.loc, b.getF32Type(), bits);
}

/// Float to float. Halves round once, also from f64.
static Value convertFloat(TensorBuilder &b, Value value, FloatType to) {
  unsigned from = value.getType().getIntOrFloatBitWidth();
  if (value.getType() == to)
    return value;
  if (from == to.getWidth()) // f16 and bf16
    return convertFloat(
        b, arith::ExtFOp::create(b, b.loc, b.getF32Type(), value), to);
  if (from < to.getWidth())
    return arith::ExtFOp::create(b, b.loc, to, value);
  if (from == 64 && to.getWidth() < 32)
    value = roundToOdd(b, value);
  return arith::TruncFOp::create(b, b.loc, to, value);
}

/// Float to integer, towards zero. Values outside of the type's range have no
/// defined result in ONNX; going through i64 keeps those of narrow types what
/// NumPy gives.
static Value toInteger(TensorBuilder &b, Value value, int32_t to, Type stored) {
  if (to == TensorProto::UINT64)
    return arith::FPToUIOp::create(b, b.loc, stored, value);
  Value wide = arith::FPToSIOp::create(b, b.loc, b.getI64Type(), value);
  if (stored == b.getI64Type())
    return wide;
  return arith::TruncIOp::create(b, b.loc, stored, wide);
}

/// Whether \p type is a boolean or an integer, however short.
static bool isInteger(int32_t type) {
  switch (type) {
  case TensorProto::INT8:
  case TensorProto::INT16:
  case TensorProto::INT32:
  case TensorProto::INT64:
  case TensorProto::INT4:
  case TensorProto::INT2:
    return true;
  default:
    return isUnsignedType(type);
  }
}

/// Keeps the low \p bits of a byte and extends them as the type says.
static Value narrowBits(TensorBuilder &b, Value value, unsigned bits,
                        bool isSigned) {
  Value shift = b.integer(value.getType(), 8 - bits);
  Value high = arith::ShLIOp::create(b, b.loc, value, shift);
  if (isSigned)
    return arith::ShRSIOp::create(b, b.loc, high, shift);
  return arith::ShRUIOp::create(b, b.loc, high, shift);
}

Value mlir::qlm::onnx_import::convertElement(TensorBuilder &b, Value value,
                                             int32_t from, int32_t to,
                                             bool saturate,
                                             ExponentRounding round) {
  if (from == to)
    return value;
  Type stored = getStoredType(b.getContext(), to);
  if (isSmallFloat(from)) {
    value = decodeSmallFloat(b, value, from);
    from = TensorProto::FLOAT;
  }
  if (isSmallFloat(to)) {
    // By way of float32, as ml_dtypes and with it ONNX's evaluator do.
    value = convertElement(b, value, from, TensorProto::FLOAT);
    return encodeSmallFloat(b, value, to, saturate, round);
  }
  if (!isFloatType(to) && !isInteger(to))
    return {};
  if (!isFloatType(from) && !isInteger(from))
    return {};
  Type source = value.getType();
  if (isBoolType(to)) {
    if (isa<FloatType>(source))
      return arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::UNE, value,
                                   b.constant(source, 0));
    return arith::CmpIOp::create(b, b.loc, arith::CmpIPredicate::ne, value,
                                 b.integer(source, 0));
  }
  Value result;
  if (auto floats = dyn_cast<FloatType>(stored)) {
    if (isa<FloatType>(source))
      return convertFloat(b, value, floats);
    // Integers wider than a half's range must round only once.
    Type through = floats.getWidth() < 32 ? Type(b.getF32Type()) : stored;
    result = isUnsignedType(from)
                 ? Value(arith::UIToFPOp::create(b, b.loc, through, value))
                 : Value(arith::SIToFPOp::create(b, b.loc, through, value));
    return convertFloat(b, result, floats);
  }
  if (isa<FloatType>(source)) {
    result = toInteger(b, value, to, stored);
  } else {
    unsigned width = stored.getIntOrFloatBitWidth(),
             own = source.getIntOrFloatBitWidth();
    if (width == own)
      result = value;
    else if (width < own)
      result = arith::TruncIOp::create(b, b.loc, stored, value);
    else if (isUnsignedType(from))
      result = arith::ExtUIOp::create(b, b.loc, stored, value);
    else
      result = arith::ExtSIOp::create(b, b.loc, stored, value);
  }
  switch (to) {
  case TensorProto::INT4:
    return narrowBits(b, result, 4, /*isSigned=*/true);
  case TensorProto::UINT4:
    return narrowBits(b, result, 4, /*isSigned=*/false);
  case TensorProto::INT2:
    return narrowBits(b, result, 2, /*isSigned=*/true);
  case TensorProto::UINT2:
    return narrowBits(b, result, 2, /*isSigned=*/false);
  default:
    return result;
  }
}

Value mlir::qlm::onnx_import::roundElement(TensorBuilder &b, Value value,
                                           int32_t wide, int32_t type) {
  return convertElement(b, convertElement(b, value, wide, type), type, wide);
}

Value mlir::qlm::onnx_import::roundSum(TensorBuilder &b, Value sum,
                                       int32_t wide, int32_t type) {
  if (wide == type)
    return sum;
  Value rounded = roundElement(b, sum, wide, type);
  Value isFinite = arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::OLT,
                                         rounded, highestElement(b, wide));
  return arith::SelectOp::create(b, b.loc, isFinite, rounded, sum);
}
