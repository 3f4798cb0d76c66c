//===- Math.cpp - Arithmetic and conversions of kernels ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "qlm/Lower/Kernel/Builder.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

Val KernelBuilder::fma(Val a, Val b, Val c) {
  return val(math::FmaOp::create(*this, loc, a.get(), b.get(), c.get()));
}

Val KernelBuilder::min(Val a, Val b) {
  if (a.isFloat())
    return val(arith::MinNumFOp::create(*this, loc, a.get(), b.get()));
  return val(arith::MinSIOp::create(*this, loc, a.get(), b.get()));
}

Val KernelBuilder::max(Val a, Val b) {
  if (a.isFloat())
    return val(arith::MaxNumFOp::create(*this, loc, a.get(), b.get()));
  return val(arith::MaxSIOp::create(*this, loc, a.get(), b.get()));
}

Val KernelBuilder::abs(Val a) {
  if (a.isFloat())
    return val(math::AbsFOp::create(*this, loc, a.get()));
  return val(math::AbsIOp::create(*this, loc, a.get()));
}

Val KernelBuilder::sqrt(Val a) {
  return val(math::SqrtOp::create(*this, loc, a.get()));
}

Val KernelBuilder::roundEven(Val a) {
  return val(math::RoundEvenOp::create(*this, loc, a.get()));
}

Val KernelBuilder::shiftRightSigned(Val a, int64_t bits) {
  return val(
      arith::ShRSIOp::create(*this, loc, a.get(), constantLike(a, bits).get()));
}

Val KernelBuilder::select(Val condition, Val yes, Val no) {
  return val(arith::SelectOp::create(*this, loc, condition.get(), yes.get(),
                                     no.get()));
}

/// \p value's type with another element type.
static Type withElement(Val value, Type element) {
  if (auto vector = dyn_cast<VectorType>(value.type()))
    return vector.clone(element);
  return element;
}

Val KernelBuilder::bitcast(Val value, Type type) {
  if (value.type() == type)
    return value;
  if (isa<VectorType>(type) && isa<VectorType>(value.type()))
    return val(vector::BitCastOp::create(*this, loc, type, value.get()));
  if (isa<VectorType>(type) || isa<VectorType>(value.type()))
    return val(LLVM::BitcastOp::create(*this, loc, type, value.get()));
  return val(arith::BitcastOp::create(*this, loc, type, value.get()));
}

Val KernelBuilder::extendSigned(Val value, Type element) {
  return val(arith::ExtSIOp::create(*this, loc, withElement(value, element),
                                    value.get()));
}

Val KernelBuilder::extendUnsigned(Val value, Type element) {
  return val(arith::ExtUIOp::create(*this, loc, withElement(value, element),
                                    value.get()));
}

Val KernelBuilder::truncate(Val value, Type element) {
  return val(arith::TruncIOp::create(*this, loc, withElement(value, element),
                                     value.get()));
}

Val KernelBuilder::toFloat(Val value, Type element) {
  return val(arith::SIToFPOp::create(*this, loc, withElement(value, element),
                                     value.get()));
}

Val KernelBuilder::toInteger(Val value, Type element) {
  return val(arith::FPToSIOp::create(*this, loc, withElement(value, element),
                                     value.get()));
}

Val KernelBuilder::toF32(Val value) {
  Type wide = withElement(value, f32());
  if (value.elementType().isF32())
    return value;
  if (value.elementType().isF16())
    return val(arith::ExtFOp::create(*this, loc, wide, value.get()));
  // bf16 is the upper half of f32.
  Val bits = bitcast(value, withElement(value, i16()));
  return bitcast(extendUnsigned(bits, i32()) << 16, wide);
}

Val KernelBuilder::fromF32(Val value, Type element) {
  if (element.isF32())
    return value;
  if (element.isF16() || nativeBFloat16)
    return val(arith::TruncFOp::create(*this, loc, withElement(value, element),
                                       value.get()));
  // bf16, half to even: add just below half a unit, and one more if the kept
  // part is odd. NaN keeps its upper half, made quiet, since the addition
  // could carry it into infinity.
  Val bits = bitcast(value, withElement(value, i32()));
  Val upper = bits >> 16;
  Val rounded = (bits + ((upper & 1) + 0x7FFF)) >> 16;
  Val quiet = upper | 0x40;
  Val kept = select(value != value, quiet, rounded);
  return bitcast(truncate(kept, i16()), withElement(value, element));
}

// Cephes expf (Moshier): x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 split in two
// so that n * ln2High is exact; e^r by a polynomial of degree 7 in all.
Val KernelBuilder::exp(Val x) {
  constexpr double kLog2E = 1.44269504088896341;
  constexpr double kLn2High = 0.693359375;
  constexpr double kLn2Low = -2.12194440e-4;
  // Above this e^x overflows; below it is no normal number.
  constexpr double kLargest = 88.72283905206835;
  constexpr double kSmallest = -87.33654475055310;
  constexpr double kPolynomial[] = {1.9875691500E-4, 1.3981999507E-3,
                                    8.3334519073E-3, 4.1665795894E-2,
                                    1.6666665459E-1, 5.0000001201E-1};

  Val bounded =
      min(max(x, constantLike(x, kSmallest)), constantLike(x, kLargest));
  Val n = roundEven(bounded * kLog2E);
  Val r = fma(n, constantLike(x, -kLn2High), bounded);
  r = fma(n, constantLike(x, -kLn2Low), r);
  Val p = constantLike(x, kPolynomial[0]);
  for (int i = 1; i < 6; ++i)
    p = fma(p, r, constantLike(x, kPolynomial[i]));
  Val y = fma(p, r * r, r) + 1.0;

  // 2^n in two factors: n reaches 128, which alone is infinity.
  Val whole = toInteger(n, i32());
  Val half = shiftRightSigned(whole, 1);
  auto power = [&](Val exponent) {
    constexpr int kBias = 127, kMantissaBits = 23;
    return bitcast((exponent + kBias) << kMantissaBits, x.type());
  };
  y = y * power(half) * power(whole - half);
  y = select(x > kLargest,
             constantLike(x, std::numeric_limits<double>::infinity()), y);
  y = select(x < kSmallest, zero(x.type()), y);
  return select(x != x, x, y);
}
