//===- PackedLinearWeights.cpp - Packed words to operands -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackedLinear.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

/// Byte offset of \p strip from the first strip of a patch, in an array with
/// \p bytesPerFeature for each of a block's 16 features and \p bytesPerBlock
/// from one block to the next.
int64_t LinearEmitter::stripOffset(int64_t strip, int64_t bytesPerFeature,
                                   int64_t bytesPerBlock) const {
  return shape.blockDistance(strip / parts) * bytesPerBlock +
         strip % parts * lanes * bytesPerFeature;
}

/// The first feature of a strip, counted from the patch's first one.
int64_t LinearEmitter::stripFeature(int64_t strip) const {
  return shape.blockDistance(strip / parts) * ::qlm::format::kRowBlock +
         strip % parts * lanes;
}

/// The \p word-th packed word of each feature of a strip: 32-bit integers, or
/// floats where a word is one value.
Val LinearEmitter::loadWord(const Place &place, int64_t strip, int64_t word) {
  Type element = b.i32();
  if (shape.layout == LayoutKind::Float32)
    element = b.f32();
  if (shape.layout == LayoutKind::Float16)
    element = b.f16();
  int64_t offset = word * 16 * shape.wordBytes +
                   stripOffset(strip, shape.wordBytes, shape.blockBytes());
  return place.weights.at(offset).load(b.vec(lanes, element),
                                       lanes * shape.wordBytes);
}

static constexpr int64_t kHighestNibble = 28;

/// Where the int4 code of a column begins in its word: byte i holds columns i
/// (low half) and i + 4 (high half).
static int64_t getNibbleShift(int64_t column) {
  return 8 * (column % 4) + (column < 4 ? 0 : 4);
}

/// Column \p column of a packed word, exact in f32, divided by
/// getInputFactor. Of int8 codes, less their zero point (\p zeroPoint in f32,
/// or the scheme's offset); of int4 codes, less the offset unless sums are
/// corrected.
Val LinearEmitter::unpackFloat(Val word, int64_t column, Val zeroPoint) {
  VectorType floats = b.vec(lanes, b.f32());
  switch (shape.layout) {
  case LayoutKind::Float32:
    return word;
  case LayoutKind::Float16:
    return b.toF32(word);
  case LayoutKind::BFloat16:
    // bf16 is the upper half of f32.
    return b.bitcast(column == 0 ? word << 16 : word & 0xFFFF0000ll, floats);
  case LayoutKind::Int8: {
    if (zeroPoint)
      return b.toFloat((word >> (8 * column)) & 0xFF, b.f32()) - zeroPoint;
    if (shape.offset == 0)
      return b.toFloat((word >> (8 * column)) & 0xFF, b.f32());
    // Flipping the top bit turns offset binary into two's complement.
    Val code = word ^ 0x80808080ll;
    if (column < 3)
      code = code << (24 - 8 * column);
    return b.toFloat(b.shiftRightSigned(code, 24), b.f32());
  }
  case LayoutKind::Float8:
    return unpackFloat8(word, column);
  default:
    break;
  }
  int64_t shift = getNibbleShift(column);
  if (shape.codebook == Codebook::NF4)
    return lookUpNormalFloat4(shift ? word >> shift : word);
  if (target.avx512) {
    // vpermps reads only the low 4 bits of an index: a nibble in place.
    SmallVector<float> values;
    for (int64_t code = 0; code < 16; ++code)
      values.push_back(static_cast<float>(code - shape.offset));
    return b.lookup(b.table(values), shift ? word >> shift : word);
  }
  // The nibble where it is, 2^shift times its value: the activation has the
  // inverse factor, so that no shift is needed. The highest one would be
  // negative.
  if (shift == kHighestNibble)
    return b.toFloat(word >> shift, b.f32());
  return b.toFloat(word & (int64_t(15) << shift), b.f32());
}

/// What activations of the column of a packed word are multiplied by, a power
/// of two, to make up for what unpackFloat gives.
double LinearEmitter::getInputFactor(int64_t column) const {
  if (shape.layout != LayoutKind::Int4 || target.avx512 ||
      shape.codebook != Codebook::Uniform ||
      getNibbleShift(column) == kHighestNibble)
    return 1.0;
  return 1.0 / static_cast<double>(int64_t(1) << getNibbleShift(column));
}

/// The unsigned codes of a packed word as bytes, four columns a vector.
SmallVector<Val> LinearEmitter::unpackBytes(Val word) {
  VectorType bytes = b.vec(4 * lanes, b.i8());
  if (shape.layout == LayoutKind::Int8)
    return {b.bitcast(word, bytes)};
  constexpr int64_t kLowNibbles = 0x0F0F0F0F;
  return {b.bitcast(word & kLowNibbles, bytes),
          b.bitcast((word >> 4) & kLowNibbles, bytes)};
}

/// The scales of a strip's features in a group, f32.
Val LinearEmitter::loadScale(Val block, Val group, int64_t strip) {
  if (shape.doubleScales)
    return loadDoubleScale(block, group, strip);
  Type type = shape.halfScales ? b.f16() : b.f32();
  int64_t bytes = shape.scaleBytes(), blockBytes = shape.groups * 16 * bytes;
  Ptr place = scales.at(block * blockBytes + group * (16 * bytes))
                  .at(stripOffset(strip, bytes, blockBytes));
  Val scale = b.toF32(place.load(b.vec(lanes, type), lanes * bytes));
  // What unpackFloat8 leaves out.
  return shape.codebook == Codebook::Float8 ? scale * 256.0 : scale;
}

/// The zero points of a strip's features in a group, i32.
Val LinearEmitter::loadZeroPoint(Val block, Val group, int64_t strip) {
  int64_t blockBytes = shape.groups * 16;
  Ptr place = zeroPoints.at(block * blockBytes + group * 16)
                  .at(stripOffset(strip, 1, blockBytes));
  return b.extendUnsigned(place.load(b.vec(lanes, b.i8()), lanes), b.i32());
}
