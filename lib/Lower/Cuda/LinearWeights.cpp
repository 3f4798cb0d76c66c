//===- LinearWeights.cpp - Packed lines to tensor core registers ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Codes become floats without conversions: 0x6400 is 1024 in f16, whose last
// place is 1, so (0x6400 | u) is 1024 + u for u below 1024; a code four bits
// higher gives 1024 + 16 u. One addition (or fma) then gives u - z exactly.
//
//===----------------------------------------------------------------------===//

#include "LinearShape.h"
#include "LinearTables.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// 1024 in both halves of a word, as f16.
static constexpr int64_t kTwice1024 = 0x64006400;
/// The same in each byte: the upper byte of f16 1024.
static constexpr int64_t kUpperBytes = 0x64646464;
static constexpr int64_t kLowNibbles = 0x000F000F;
static constexpr int64_t kHighNibbles = 0x00F000F0;
/// Zero points of symmetric codes in offset binary.
static constexpr double kInt4Offset = 8, kInt8Offset = 128;

WeightUnpacker::WeightUnpacker(KernelBuilder &b, const LinearShape &shape,
                               LinearTables &tables)
    : b(b), shape(shape), tables(tables) {}

double WeightUnpacker::factor() const {
  // E4M3 is read as f16 with the exponent's bias 15 where it is 7.
  bool shifted =
      shape.weights == WeightFormat::Fp8 && shape.input == InputFormat::F16;
  return shifted ? 256 : 1;
}

Val WeightUnpacker::biasOf(Val zeroPoint) {
  Val bits = b.extendUnsigned(zeroPoint, b.i32());
  Val twice = (bits | (bits << 16)) | kTwice1024;
  return b.bitcast(twice, b.vec(2, b.f16()));
}

SmallVector<SmallVector<Val>> WeightUnpacker::unpack(Val line,
                                                     ArrayRef<Val> zeros) {
  SmallVector<Val> words;
  for (int64_t i = 0; i < 4; ++i)
    words.push_back(line.lane(i));
  SmallVector<SmallVector<Val>> steps;
  bool asTheyAre =
      shape.weightBits() == 8 * shape.inputBytes(); // the tensor core's type
  if (asTheyAre)
    return {words};
  if (shape.weightBits() == 4) {
    for (Val word : words)
      steps.push_back(shape.weights == WeightFormat::Nf4
                          ? tables.lookUp(word)
                          : unpackNibbles(word, zeros));
    return steps;
  }
  // 8 bits: words 2h and 2h + 1 are rows r and r + 8 of 16 columns.
  for (int64_t h = 0; h < 2; ++h) {
    SmallVector<Val> step;
    for (int64_t half = 0; half < 2; ++half)
      for (int64_t row = 0; row < 2; ++row)
        step.push_back(unpackBytes(words[2 * h + row], half));
    steps.push_back(step);
  }
  return steps;
}

/// A word has the codes of 16 columns: register j's two at bits 4 j and
/// 16 + 4 j.
SmallVector<Val> WeightUnpacker::unpackNibbles(Val word, ArrayRef<Val> zeros) {
  VectorType pair = b.vec(2, b.f16());
  Val magic = b.constant(b.i32(), kTwice1024);
  SmallVector<Val> registers;
  for (int64_t j = 0; j < 4; ++j) {
    bool high = j % 2 == 1; // also the row: r + 8
    Val source = j < 2 ? word : word >> 8;
    Val bits = andOr(
        source, b.constant(b.i32(), high ? kHighNibbles : kLowNibbles), magic);
    Val raised = b.bitcast(bits, pair);
    Val value;
    if (zeros.empty())
      value = high ? b.fma(raised, b.constant(pair, 1.0 / 16),
                           b.constant(pair, -(64 + kInt4Offset)))
                   : raised - (1024 + kInt4Offset);
    else // 64 + z = (1024 + z) - 960
      value = high ? b.fma(raised, b.constant(pair, 1.0 / 16),
                           b.constant(pair, 960.0) - zeros[1])
                   : raised - zeros[0];
    registers.push_back(b.bitcast(value, b.i32()));
  }
  return registers;
}

/// Two bytes of a word (the lower or upper) to two f16.
Val WeightUnpacker::unpackBytes(Val word, int64_t half) {
  VectorType pair = b.vec(2, b.f16());
  if (shape.weights == WeightFormat::Int8) {
    Val raised = b.bitcast(
        permuteBytes(word, b.constant(b.i32(), kUpperBytes),
                     b.constant(b.i32(), int64_t(half ? 0x4342 : 0x4140))),
        pair);
    return b.bitcast(raised - (1024 + kInt8Offset), b.i32());
  }
  // E4M3 s eeee mmm in the upper byte of each half; f16 s 0eeee mmm 0000000.
  Val upper =
      permuteBytes(word, b.constant(b.i32(), int64_t(0)),
                   b.constant(b.i32(), int64_t(half ? 0x3424 : 0x1404)));
  Val magnitude = (upper >> 1) & 0x3F803F80;
  return andOr(upper, b.constant(b.i32(), int64_t(0x80008000)), magnitude);
}
