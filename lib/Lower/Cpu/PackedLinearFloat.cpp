//===- PackedLinearFloat.cpp - Packed linears on float activations --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// sum x * (u - z) = sum x * u - z * sum x also in f32, where the second sum is
// found once for each row and group. For int4 that saves a subtraction of each
// weight, a fifth of its work. It costs accuracy only where z is far from all
// codes of a group, which no quantizer chooses.
//
//===----------------------------------------------------------------------===//

#include "Chunks.h"
#include "PackedLinear.h"
#include "Pages.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

/// An activation in all lanes, f32.
Val LinearEmitter::loadActivation(const Place &at, int64_t row,
                                  int64_t column) {
  Ptr x = at.x.at((row * shape.columns + column) * shape.inputBytes);
  if (shape.float8Activations)
    // Exact: a code has few bits.
    return b.broadcast(decodeFloat8(b, x.load(b.i8())) * 256.0, lanes);
  if (!shape.shortActivations)
    return b.broadcast(x.load(b.f32()), lanes);
  Val bits = b.extendUnsigned(x.load(b.i16()), b.i32()) << 16;
  return b.broadcast(b.bitcast(bits, b.f32()), lanes);
}

/// Adds the products of \p columns columns in their order.
SmallVector<Val> LinearEmitter::sumFloatColumns(const Place &place,
                                                Val firstColumn,
                                                int64_t columns,
                                                ArrayRef<Val> zeros) {
  int64_t strips = place.patch.strips;
  Val zero = b.zero(b.vec(lanes, b.f32()));
  SmallVector<Val> none(place.patch.rows * strips, zero);
  auto addWord = [&](const Place &at, int64_t w, int64_t count,
                     MutableArrayRef<Val> sums) {
    // Load: all strips' words first, so that they travel together.
    SmallVector<Val> words;
    for (int64_t s = 0; s < strips; ++s)
      words.push_back(loadWord(at, s, w));
    for (int64_t c = 0; c < count; ++c) {
      // Unpack, then use each value for every row.
      SmallVector<Val> values;
      for (int64_t s = 0; s < strips; ++s)
        values.push_back(unpackFloat(words[s], c, zeros[s]));
      double factor = getInputFactor(c);
      for (int64_t r = 0; r < place.patch.rows; ++r) {
        Val x = loadActivation(at, r, w * shape.wordColumns + c);
        if (factor != 1.0)
          x = x * factor;
        for (int64_t s = 0; s < strips; ++s) {
          Val &sum = sums[r * strips + s];
          sum = b.fma(x, values[s], sum);
        }
      }
    }
  };
  return runColumns(
      place, firstColumn, columns, none,
      [&](const Place &at, int64_t count, MutableArrayRef<Val> sums) {
        for (int64_t w = 0; w * shape.wordColumns < count; ++w)
          addWord(at, w,
                  std::min(shape.wordColumns, count - w * shape.wordColumns),
                  sums);
      });
}

/// Whether one instruction multiplies pairs of bf16 and adds them to f32 sums.
bool LinearEmitter::multipliesPairs() const {
  return shape.shortActivations && target.avx512Bf16;
}

/// Sums of bf16 weights and activations, a pair of columns at once: the
/// instruction rounds after each product and takes denormal numbers for zero.
SmallVector<Val> LinearEmitter::sumPairs(const Place &place) {
  int64_t strips = place.patch.strips;
  VectorType pairs = b.vec(2 * lanes, b.bf16());
  Val zero = b.zero(b.vec(lanes, b.f32()));
  SmallVector<Val> none(place.patch.rows * strips, zero);
  auto addPair = [&](const Place &at, int64_t w, bool isWhole,
                     MutableArrayRef<Val> sums) {
    SmallVector<Val> words;
    for (int64_t s = 0; s < strips; ++s)
      words.push_back(b.bitcast(loadWord(at, s, w), pairs));
    for (int64_t r = 0; r < place.patch.rows; ++r) {
      Ptr x = at.x.at((r * shape.columns + w * 2) * shape.inputBytes);
      // What follows the last column is not this row's.
      Val pair = isWhole ? x.load(b.i32(), shape.inputBytes)
                         : b.extendUnsigned(x.load(b.i16()), b.i32());
      Val both = b.bitcast(b.broadcast(pair, lanes), pairs);
      for (int64_t s = 0; s < strips; ++s) {
        Val &sum = sums[r * strips + s];
        sum = b.intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", sum.type(),
                          {sum, words[s], both});
      }
    }
  };
  return runColumns(
      place, b.index(0), shape.columns, none,
      [&](const Place &at, int64_t count, MutableArrayRef<Val> sums) {
        for (int64_t w = 0; 2 * w < count; ++w)
          addPair(at, w, /*isWhole=*/2 * w + 1 < count, sums);
      });
}

SmallVector<Val> LinearEmitter::sumFloats(const Place &place) {
  int64_t strips = place.patch.strips;
  if (multipliesPairs())
    return sumPairs(place);
  if (!shape.quantized)
    return sumFloatColumns(place, b.index(0), shape.columns,
                           SmallVector<Val>(strips));
  bool corrects = shape.correctsFloats(target);
  return sumGroups(place, [&](const Place &, Val group) {
    SmallVector<Val> zeros(strips);
    if (shape.zeroPoints)
      for (int64_t s = 0; s < strips; ++s)
        zeros[s] = b.toFloat(loadZeroPoint(place.block, group, s), b.f32());
    SmallVector<Val> sums =
        sumFloatColumns(place, group * shape.groupColumns, shape.groupColumns,
                        corrects ? SmallVector<Val>(strips) : zeros);
    if (!corrects)
      return sums;
    for (int64_t r = 0; r < place.patch.rows; ++r) {
      Ptr at = rowSums.at(((place.firstRow + r) * shape.groups + group) * 4);
      Val rowSum = -b.broadcast(at.load(b.f32()), lanes);
      for (int64_t s = 0; s < strips; ++s) {
        Val &sum = sums[r * strips + s];
        Val zero = zeros[s];
        if (!zero)
          zero = constantLike(rowSum, static_cast<double>(shape.offset));
        sum = b.fma(zero, rowSum, sum);
      }
    }
    return sums;
  });
}

/// Sum of \p count float activations, f32; the order depends on nothing else.
Val LinearEmitter::sumFloatRow(Ptr x, int64_t count) {
  auto join = [](Val a, Val other) { return a + other; };
  auto add = [&](Val sum, const Chunk &chunk) {
    return sum + chunk.fill(b, chunk.load(b, x, b.f32()), 0.0);
  };
  return b.reduceSum(
      foldChunks(b, count, b.zero(b.vec(lanes, b.f32())), add, join));
}
