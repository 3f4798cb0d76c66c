//===- PackedLinearInteger.cpp - Packed linears on int8 activations -------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// sum x * (u - z) = sum x * u - z * sum x: the first sum multiplies unsigned
// codes with signed activations, as the processor's instructions want; the
// second one, of each row and group, is found once at the kernel's start.
//
//===----------------------------------------------------------------------===//

#include "PackedLinear.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

SmallVector<Val> LinearEmitter::sumIntegers(const Place &place) {
  int64_t strips = place.patch.strips;
  Val zero = b.zero(b.vec(lanes, b.i32()));
  SmallVector<Val> none(place.patch.rows * strips, zero);
  return sumGroups(place, [&](const Place &, Val group) {
    SmallVector<Val> sums = runColumns(
        place, group * shape.groupColumns, shape.groupColumns, none,
        [&](const Place &at, int64_t count, MutableArrayRef<Val> next) {
          dotWords(at, count, next);
        });
    SmallVector<Val> zeros;
    if (shape.zeroPoints)
      for (int64_t s = 0; s < strips; ++s)
        zeros.push_back(loadZeroPoint(place.block, group, s));
    for (int64_t r = 0; r < place.patch.rows; ++r) {
      Val row = place.firstRow + r;
      Ptr address = rowSums.at((row * shape.groups + group) * 4);
      Val rowSum = b.broadcast(address.load(b.i32()), lanes);
      for (int64_t s = 0; s < strips; ++s) {
        Val &sum = sums[r * strips + s];
        if (shape.zeroPoints)
          sum = sum - zeros[s] * rowSum;
        else
          sum = sum + rowSum;
        sum = b.toFloat(sum, b.f32());
      }
    }
    return sums;
  });
}

/// Adds the products of \p columns columns. A last word may go beyond them:
/// its codes are zero there.
void LinearEmitter::dotWords(const Place &place, int64_t columns,
                             MutableArrayRef<Val> sums) {
  if (wideRows)
    return dotWide(place, columns, sums);
  int64_t strips = place.patch.strips;
  VectorType bytes = b.vec(4 * lanes, b.i8());
  int64_t wordCount = llvm::divideCeil(columns, shape.wordColumns);
  for (int64_t w = 0; w < wordCount; ++w) {
    SmallVector<SmallVector<Val>> codes;
    for (int64_t s = 0; s < strips; ++s)
      codes.push_back(unpackBytes(loadWord(place, s, w)));
    for (int64_t q = 0; q < shape.wordColumns / 4; ++q) {
      for (int64_t r = 0; r < place.patch.rows; ++r) {
        Ptr x = place.x.at(r * shape.columns + w * shape.wordColumns + 4 * q);
        Val four = b.broadcast(x.load(b.i32(), 1), lanes);
        Val activations = b.bitcast(four, bytes);
        for (int64_t s = 0; s < strips; ++s) {
          Val &sum = sums[r * strips + s];
          sum = dot(sum, codes[s][q], activations);
        }
      }
    }
  }
}

/// The same with rows that are extended: int16 pairs of codes 0 and 2, then 1
/// and 3 of each four.
void LinearEmitter::dotWide(const Place &place, int64_t columns,
                            MutableArrayRef<Val> sums) {
  constexpr int64_t kPairBytes = 4;
  int64_t strips = place.patch.strips;
  VectorType pairs = b.vec(2 * lanes, b.i16());
  for (int64_t w = 0; w * shape.wordColumns < columns; ++w) {
    SmallVector<Val> even, odd;
    for (int64_t s = 0; s < strips; ++s) {
      Val codes = b.bitcast(loadWord(place, s, w), pairs);
      even.push_back(codes & 0xFF);
      odd.push_back(codes >> 8);
    }
    for (int64_t r = 0; r < place.patch.rows; ++r) {
      Ptr x = place.x.at(r * shape.wideBytes() + w * 2 * kPairBytes);
      auto load = [&](int64_t pair) {
        Val two = x.at(pair * kPairBytes).load(b.i32(), kPairBytes);
        return b.bitcast(b.broadcast(two, lanes), pairs);
      };
      Val first = load(0), second = load(1);
      for (int64_t s = 0; s < strips; ++s) {
        Val &sum = sums[r * strips + s];
        sum = sum + (b.dotPairs(even[s], first) + b.dotPairs(odd[s], second));
      }
    }
  }
}

/// Extends a row to int16, 16 columns at once; what follows the last one is
/// multiplied by codes that are zero.
void LinearEmitter::emitWideRow(Val row) {
  constexpr int64_t kColumns = 16;
  Ptr from = input.at(row * shape.columns);
  Ptr to = wideRows.at(row * shape.wideBytes());
  SmallVector<int64_t> order;
  for (int64_t i = 0; i < kColumns; i += 4)
    for (int64_t column : {0, 2, 1, 3})
      order.push_back(i + column);
  b.forRange(b.index(0), b.index(shape.columns), kColumns, [&](Val column) {
    Val bytes = from.at(column).load(b.vec(kColumns, b.i8()), 1);
    Val wide = b.extendSigned(b.shuffle(bytes, bytes, order), b.i16());
    to.at(column * 2).store(wide);
  });
}

/// sums + products of four columns, unsigned \p codes by signed
/// \p activations, exact.
Val LinearEmitter::dot(Val sums, Val codes, Val activations) {
  if (target.dotsBytes())
    return b.dotBytes(sums, codes, activations);
  VectorType pairs = b.vec(2 * lanes, b.i16());
  if (shape.layout == LayoutKind::Int4) {
    // 2 * 15 * 128 fits into the int16 that pmaddubsw saturates to.
    Val products = b.intrinsic(target.avx512 ? "llvm.x86.avx512.pmaddubs.w.512"
                                             : "llvm.x86.avx2.pmadd.ub.sw",
                               pairs, {codes, activations});
    return sums + b.dotPairs(products, b.constant(pairs, int64_t(1)));
  }
  // Bytes 0 and 2, then 1 and 3 of each column quartet, as int16 pairs.
  Val u = b.bitcast(codes, pairs), x = b.bitcast(activations, pairs);
  Val even = b.dotPairs(u & 0xFF, b.shiftRightSigned(x << 8, 8));
  Val odd = b.dotPairs(u >> 8, b.shiftRightSigned(x, 8));
  return sums + (even + odd);
}

//===----------------------------------------------------------------------===//
// Outliers
//===----------------------------------------------------------------------===//

/// The products of the listed values of \p row with the codes of \p strips
/// strips from the block \p blockNumber, whose words are at \p block; f32, in
/// the list's order, not scaled. One packed word has four columns of a feature.
SmallVector<Val> LinearEmitter::sumOutliers(Ptr block, Val blockNumber, Val row,
                                            int64_t strips) {
  VectorType floats = b.vec(lanes, b.f32());
  SmallVector<Val> zeros;
  for (int64_t s = 0; s < strips; ++s)
    zeros.push_back(
        shape.zeroPoints
            ? b.toFloat(loadZeroPoint(blockNumber, b.index(0), s), b.f32())
            : b.constant(floats, static_cast<double>(shape.offset)));
  Ptr list = outliers.element(b.f32(), row * (1 + 2 * shape.columns));
  Val count = b.toInteger(list.load(b.f32()), b.i64());
  SmallVector<Val> none(strips, b.zero(floats));
  return b.forRange(
      b.index(0), count, 1, none, [&](Val j, ArrayRef<Val> before) {
        Ptr entry = list.at(4).element(b.f32(), j);
        Val column = b.toInteger(entry.load(b.f32()), b.i64());
        Val x = b.broadcast(entry.at(shape.columns * 4).load(b.f32()), lanes);
        Ptr word =
            block.at(column / shape.wordColumns * (16 * shape.wordBytes));
        Val shift = b.truncate(column % shape.wordColumns * 8, b.i32());
        shift = b.broadcast(shift, lanes);
        SmallVector<Val> after;
        for (int64_t s = 0; s < strips; ++s) {
          int64_t offset = stripOffset(s, shape.wordBytes, shape.blockBytes());
          Val words = word.at(offset).load(b.vec(lanes, b.i32()),
                                           lanes * shape.wordBytes);
          Val code = b.toFloat((words >> shift) & 0xFF, b.f32()) - zeros[s];
          after.push_back(b.fma(x, code, before[s]));
        }
        return after;
      });
}

//===----------------------------------------------------------------------===//
// Sums of activations
//===----------------------------------------------------------------------===//

/// sums, i32, plus those of signed bytes: two or four bytes a lane.
Val LinearEmitter::addBytes(Val sums, Val bytes) {
  if (bytes.lanes() == 4 * lanes && target.dotsBytes())
    return b.dotBytes(sums, b.constant(bytes.type(), int64_t(1)), bytes);
  auto add = [&](Val piece) {
    Val wide = b.extendSigned(piece, b.i16());
    sums = sums + b.dotPairs(wide, b.constant(wide.type(), int64_t(1)));
  };
  if (bytes.lanes() == 2 * lanes) {
    add(bytes);
    return sums;
  }
  for (int64_t first : {int64_t(0), 2 * lanes}) {
    SmallVector<int64_t> half;
    for (int64_t i = 0; i < 2 * lanes; ++i)
      half.push_back(first + i);
    add(b.shuffle(bytes, bytes, half));
  }
  return sums;
}

/// Sum of \p count signed bytes, i32. Reads whole vectors, up to 63 bytes past
/// the end, and blanks what is too much.
Val LinearEmitter::sumBytes(Ptr bytes, int64_t count) {
  int64_t width = target.dotsBytes() ? 4 * lanes : 2 * lanes;
  VectorType vector = b.vec(width, b.i8());
  Val sums = b.zero(b.vec(lanes, b.i32()));
  int64_t whole = count / width * width;
  if (whole)
    sums = b.forRange(b.index(0), b.index(whole), width, {sums},
                      [&](Val i, ArrayRef<Val> carried) -> SmallVector<Val> {
                        Val piece = bytes.at(i).load(vector, 1);
                        return {addBytes(carried[0], piece)};
                      })[0];
  if (int64_t rest = count - whole) {
    Val piece = bytes.at(whole).load(vector, 1);
    sums = addBytes(sums,
                    b.select(b.firstLanes(width, rest), piece, b.zero(vector)));
  }
  return b.reduceSum(sums);
}
