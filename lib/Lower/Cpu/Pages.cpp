//===- Pages.cpp - Elements of the KV cache -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// E4M3FN has a sign, 4 bits of exponent with the bias 7 and 3 of mantissa. Its
// bits in the place of f16's (bias 15) are the number times 2^-8, subnormals
// included, and one instruction widens f16.
//
//===----------------------------------------------------------------------===//

#include "Pages.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

/// Places of E4M3FN's bits in f16 and in f32.
static constexpr int64_t kShiftToF16 = 7, kShiftToF32 = 20;
/// The copy of the sign that shifting leaves in f16's largest exponent bit.
static constexpr int64_t kWithoutCopiedSign = 0xBFFF;
/// Difference of the biases of E4M3FN and f32, and bits of the mantissa.
static constexpr int64_t kBiasDifference = 120, kMantissaBits = 3;
/// From f32's sign to that of a byte.
static constexpr int64_t kSignShift = 24, kSignBit = 0x80;
/// Below the first, numbers are multiples of the second.
static constexpr double kSmallestNormal = 0x1p-6, kSubnormalUnit = 0x1p-9;

Val PageLayout::load(KernelBuilder &b, Ptr place, int64_t lanes) const {
  Val stored = place.load(b.vec(lanes, element));
  if (!codes)
    return b.toF32(stored);
  if (codes.isInteger(8))
    return b.toFloat(b.extendSigned(stored, b.i32()), b.f32());
  return decodeFloat8(b, stored);
}

Val mlir::qlm::cpu::decodeFloat8(KernelBuilder &b, Val stored) {
  Val wide = b.extendSigned(stored, b.i16()) << kShiftToF16;
  Val bits = wide & kWithoutCopiedSign;
  bool isVector = isa<VectorType>(stored.type());
  return b.toF32(
      b.bitcast(bits, isVector ? b.vec(stored.lanes(), b.f16()) : b.f16()));
}

double PageLayout::unit() const {
  return codes && !codes.isInteger(8) ? 0x1p8 : 1.0;
}

static Val encodeFloat8(KernelBuilder &b, Val numbers, double bound) {
  Type integers = b.vec(numbers.lanes(), b.i32());
  Val magnitude = b.min(b.abs(numbers), constantLike(numbers, bound));
  // Half to even: just below half a unit, and one more where the part that is
  // kept is odd.
  Val wide = b.bitcast(magnitude, integers);
  Val odd = (wide >> kShiftToF32) & 1;
  Val rounded = (wide + (odd + ((1 << (kShiftToF32 - 1)) - 1))) >> kShiftToF32;
  Val normal = rounded - (kBiasDifference << kMantissaBits);
  Val subnormal =
      b.toInteger(b.roundEven(magnitude * (1 / kSubnormalUnit)), b.i32());
  Val code = b.select(magnitude < kSmallestNormal, subnormal, normal);
  Val sign = (b.bitcast(numbers, integers) >> kSignShift) & kSignBit;
  return b.truncate(code | sign, b.i8());
}

Val mlir::qlm::cpu::encodeNumbers(KernelBuilder &b, Val numbers, Type type) {
  double bound = getCacheBound(type);
  if (!type.isInteger(8))
    return encodeFloat8(b, numbers, bound);
  Val rounded = b.roundEven(numbers);
  Val low = constantLike(rounded, -bound), high = constantLike(rounded, bound);
  return b.truncate(b.toInteger(b.max(b.min(rounded, high), low), b.i32()),
                    b.i8());
}
