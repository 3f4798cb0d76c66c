//===- SmallFloats.cpp - Floats of 8 and 4 bits ---------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Codes are sign, exponent and mantissa in the low bits of a byte. Without the
// sign they count up as the values do, so rounding happens on the bits: a float
// loses its last mantissa bits, to nearest, ties to even, and its exponent
// changes bias; below the smallest normal number codes are multiples of it.
//
//===----------------------------------------------------------------------===//

#include "SmallFloats.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

namespace {
/// One format. Codes have no sign here.
struct Format {
  int64_t mantissaBits, bias, signBit;
  int64_t largest;                 ///< of finite ones
  std::optional<int64_t> infinity; ///< where there is one
  std::optional<int64_t> nan;      ///< the smallest, with the sign of the value
  bool hasNegativeZero;            ///< else that code is the one NaN
};
} // namespace

static std::optional<Format> getFormat(int32_t type) {
  switch (type) {
  case TensorProto::FLOAT8E4M3FN:
    return Format{3, 7, 7, 0x7e, std::nullopt, 0x7f, true};
  case TensorProto::FLOAT8E4M3FNUZ:
    return Format{3, 8, 7, 0x7f, std::nullopt, std::nullopt, false};
  case TensorProto::FLOAT8E5M2:
    return Format{2, 15, 7, 0x7b, 0x7c, 0x7e, true};
  case TensorProto::FLOAT8E5M2FNUZ:
    return Format{2, 16, 7, 0x7f, std::nullopt, std::nullopt, false};
  case TensorProto::FLOAT4E2M1:
    return Format{1, 1, 3, 0x7, std::nullopt, std::nullopt, true};
  default:
    return std::nullopt;
  }
}

/// Significant bits of float32's mantissa, and its bias.
static constexpr int64_t kMantissaBits = 23, kBias = 127;

bool mlir::qlm::onnx_import::isSmallFloat(int32_t type) {
  return type == TensorProto::FLOAT8E8M0 || getFormat(type).has_value();
}

namespace {
/// i32 arithmetic and selections, short enough to read as formulas.
struct Bits {
  TensorBuilder &b;

  Value number(int64_t value) { return b.integer(b.getI32Type(), value); }
  Value add(Value x, Value y) { return arith::AddIOp::create(b, b.loc, x, y); }
  Value mask(Value x, int64_t bits) {
    return arith::AndIOp::create(b, b.loc, x, number(bits));
  }
  Value both(Value x, Value y) { return arith::OrIOp::create(b, b.loc, x, y); }
  Value left(Value x, int64_t distance) {
    return arith::ShLIOp::create(b, b.loc, x, number(distance));
  }
  Value right(Value x, int64_t distance) {
    return arith::ShRUIOp::create(b, b.loc, x, number(distance));
  }
  Value is(arith::CmpIPredicate predicate, Value x, int64_t y) {
    return arith::CmpIOp::create(b, b.loc, predicate, x, number(y));
  }
  Value select(Value condition, Value yes, Value no) {
    return arith::SelectOp::create(b, b.loc, condition, yes, no);
  }
  Value ofFloat(Value x) {
    return arith::BitcastOp::create(b, b.loc, b.getI32Type(), x);
  }
  Value toFloat(Value x) {
    return arith::BitcastOp::create(b, b.loc, b.getF32Type(), x);
  }
};
} // namespace

/// 2^(code - 127); 255 is NaN. Code 0 is a number that float32 holds as a
/// multiple of its smallest.
static Value decodeExponent(Bits bits, Value code) {
  using arith::CmpIPredicate;
  Value normal = bits.left(code, kMantissaBits);
  Value value = bits.select(bits.is(CmpIPredicate::eq, code, 0),
                            bits.number(0x400000), normal);
  return bits.toFloat(bits.select(bits.is(CmpIPredicate::eq, code, 0xff),
                                  bits.number(0x7fc00000), value));
}

Value mlir::qlm::onnx_import::decodeSmallFloat(TensorBuilder &b, Value byte,
                                               int32_t type) {
  using arith::CmpIPredicate;
  Bits bits{b};
  Value code = arith::ExtUIOp::create(b, b.loc, b.getI32Type(), byte);
  if (type == TensorProto::FLOAT8E8M0)
    return decodeExponent(bits, code);
  Format format = *getFormat(type);
  int64_t moved = kMantissaBits - format.mantissaBits;
  Value size = bits.mask(code, (1 << format.signBit) - 1);
  Value normal = bits.add(bits.left(size, moved),
                          bits.number((kBias - format.bias) << kMantissaBits));
  Value units = arith::UIToFPOp::create(b, b.loc, b.getF32Type(), size);
  Value small = bits.ofFloat(mulElements(
      b, units,
      b.constant(b.getF32Type(),
                 std::ldexp(1.0, static_cast<int>(1 - format.bias -
                                                  format.mantissaBits)))));
  Value value =
      bits.select(bits.is(CmpIPredicate::ult, size, 1 << format.mantissaBits),
                  small, normal);
  Value nan = bits.number(0x7fc00000);
  if (format.infinity)
    value = bits.select(bits.is(CmpIPredicate::eq, size, *format.infinity),
                        bits.number(0x7f800000), value);
  if (format.nan)
    value = bits.select(
        bits.is(CmpIPredicate::ugt, size,
                format.infinity ? *format.infinity : format.largest),
        nan, value);
  Value sign = bits.left(bits.right(code, format.signBit), 31);
  value = bits.both(value, sign);
  if (!format.hasNegativeZero)
    value = bits.select(
        bits.is(CmpIPredicate::eq, code, int64_t(1) << format.signBit), nan,
        value);
  return bits.toFloat(value);
}

/// The exponent, rounded as \p round says; NaN and infinities are NaN.
static Value encodeExponent(Bits bits, Value x, bool saturate,
                            ExponentRounding round) {
  using arith::CmpIPredicate;
  Value size = bits.mask(bits.ofFloat(x), 0x7fffffff);
  Value exponent = bits.right(size, kMantissaBits);
  Value fraction = bits.mask(size, 0x7fffff);
  Value code = exponent;
  if (round != ExponentRounding::Down) {
    // A half goes up, but for numbers below the smallest normal one.
    Value half = bits.select(bits.is(CmpIPredicate::eq, exponent, 0),
                             bits.number(0x400001), bits.number(0x400000));
    Value least = round == ExponentRounding::Up ? bits.number(1) : half;
    Value up = arith::CmpIOp::create(bits.b, bits.b.loc, CmpIPredicate::uge,
                                     fraction, least);
    code = bits.add(code, bits.select(up, bits.number(1), bits.number(0)));
  }
  if (saturate)
    code = arith::MinUIOp::create(bits.b, bits.b.loc, code, bits.number(0xfe));
  return bits.select(bits.is(CmpIPredicate::eq, exponent, 0xff),
                     bits.number(0xff), code);
}

Value mlir::qlm::onnx_import::encodeSmallFloat(TensorBuilder &b, Value x,
                                               int32_t type, bool saturate,
                                               ExponentRounding round) {
  using arith::CmpIPredicate;
  Bits bits{b};
  auto narrow = [&](Value code) -> Value {
    return arith::TruncIOp::create(b, b.loc, b.getI8Type(), code);
  };
  if (type == TensorProto::FLOAT8E8M0)
    return narrow(encodeExponent(bits, x, saturate, round));
  Format format = *getFormat(type);
  int64_t lost = kMantissaBits - format.mantissaBits;
  Value all = bits.ofFloat(x);
  Value size = bits.mask(all, 0x7fffffff);
  // Half of the last place kept, less one unless that place is odd.
  Value odd = bits.mask(bits.right(size, lost), 1);
  Value rounded = bits.right(
      bits.add(size, bits.add(odd, bits.number((1 << (lost - 1)) - 1))), lost);
  Value normal = bits.add(
      rounded, bits.number(-((kBias - format.bias) << format.mantissaBits)));
  Value magnitude = bits.toFloat(size);
  Value units = math::RoundEvenOp::create(
      b, b.loc,
      mulElements(
          b, magnitude,
          b.constant(b.getF32Type(),
                     std::ldexp(1.0, static_cast<int>(format.mantissaBits +
                                                      format.bias - 1)))));
  // Large numbers are not counted in units; the conversion must not overflow.
  Value isSmall = bits.is(CmpIPredicate::ult, size,
                          (kBias + 1 - format.bias) << kMantissaBits);
  units = arith::SelectOp::create(b, b.loc, isSmall, units,
                                  b.constant(b.getF32Type(), 0));
  Value code = bits.select(
      isSmall, arith::FPToUIOp::create(b, b.loc, b.getI32Type(), units),
      normal);
  Value sign = bits.left(bits.right(all, 31), format.signBit);
  bool clamps = saturate || type == TensorProto::FLOAT4E2M1;
  Value isLarge = bits.is(CmpIPredicate::sgt, code, format.largest);
  Value isNan = bits.is(CmpIPredicate::ugt, size, 0x7f800000);
  if (clamps)
    code = bits.select(isLarge, bits.number(format.largest), code);
  else if (format.infinity || format.nan)
    code = bits.select(
        isLarge, bits.number(format.infinity ? *format.infinity : *format.nan),
        code);
  if (format.nan)
    return narrow(
        bits.both(bits.select(isNan, bits.number(*format.nan), code), sign));
  // One code without a number: that of the negative zero.
  Value special = bits.number(int64_t(1) << format.signBit);
  Value whole = bits.both(code, sign);
  if (!format.hasNegativeZero) {
    whole =
        bits.select(bits.is(CmpIPredicate::eq, code, 0), bits.number(0), whole);
    if (!clamps)
      whole = bits.select(isLarge, special, whole);
  }
  return narrow(bits.select(isNan, special, whole));
}
