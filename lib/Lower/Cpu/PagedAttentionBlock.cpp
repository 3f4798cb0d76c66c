//===- PagedAttentionBlock.cpp - Attention to a block of keys -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PagedAttentionBlock.h"

#include "llvm/Support/MathExtras.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

AttentionScratch::AttentionScratch(const AttentionShape &shape) {
  int64_t next = 0;
  auto take = [&](int64_t elements, int64_t elementBytes) {
    int64_t offset = next;
    next = llvm::alignTo(next + elements * elementBytes, 64);
    return offset;
  };
  // Matrix registers read whole groups of rows, from any first row.
  int64_t rows = shape.maxRows() + (shape.tiles ? kTileRows : 0);
  int64_t atOnce = std::max(shape.rowsAtOnce(), shape.headsAtOnce());
  queries = take(rows * shape.paddedDim(), shape.tiles ? 0 : 4);
  outputs = take(rows * shape.paddedDim(), 4);
  sums = take(rows * kSliceKeys, 4);
  maxima = take(rows, 4);
  keys = take(rows, 8);
  weights = take((shape.tiles ? 2 * kTileRows : atOnce) * kBlockKeys, 4);
  corrections = take(atOnce, 4);
  // Copied together, from those of the next block.
  addresses = (shape.pages.codes ? 4 : 2) * kBlockSlices;
  auto part = [](int64_t first, int64_t number) {
    return first + number * kBlockSlices * 8;
  };
  keySlices = take(addresses, 8);
  valueSlices = part(keySlices, 1);
  keyScales = part(keySlices, 2);
  valueScales = part(keySlices, 3);
  nextKeySlices = take(addresses, 8);
  nextValueSlices = part(nextKeySlices, 1);
  nextKeyScales = part(nextKeySlices, 2);
  nextValueScales = part(nextKeySlices, 3);
  if (shape.tiles) {
    highQueries = take(rows * shape.tileDim(), 2);
    lowQueries = take(rows * shape.tileDim(), 2);
    keyTiles = take(kBlockSlices * shape.keyTiles(), kTileSize);
    valueTiles = take(kBlockDepths * shape.valueTiles(), kTileSize);
    highWeights = take(2 * kTileRows * kBlockKeys, 2);
    lowWeights = take(2 * kTileRows * kBlockKeys, 2);
    laneMaxima = take(kTileRows * kSliceKeys, 4);
    oneResult = take(1, kTileSize);
  }
  bytes = next;
}

/// The bits of p where a query doesn't see the key: a NaN that no arithmetic
/// makes.
static constexpr int64_t kHiddenMark = -1;

/// What a prefetch brings.
static constexpr int64_t kLineBytes = 64;

/// The larger of two floats in one instruction; \p b where one is NaN.
Val mlir::qlm::cpu::larger(KernelBuilder &builder, Val a, Val b) {
  return builder.select(a > b, a, b);
}

static Val largestLane(KernelBuilder &b, Val v) {
  while (v.lanes() > 1) {
    int64_t half = v.lanes() / 2;
    v = larger(b, b.slice(v, 0, half), b.slice(v, half, half));
  }
  return v.lane(0);
}

/// 2^x of f32 x <= 0, 16 lanes: relative error below 2e-7, exactly 1 at 0; NaN
/// stays; below -126 what the processor makes of it, or 0. x = n + r with
/// |r| <= 1/2; 2^r by a polynomial that is minimax in the relative error.
Val AttentionBlock::powerOfTwo(Val x) {
  constexpr double kPolynomial[] = {1.3264727124e-03, 9.6715126448e-03,
                                    5.5507337435e-02, 2.4022242085e-01,
                                    6.9314697760e-01, 1.0};
  auto evaluate = [&](Val r) {
    Val y = constantLike(x, kPolynomial[0]);
    for (double coefficient : ArrayRef<double>(kPolynomial).drop_front())
      y = b.fma(y, r, constantLike(x, coefficient));
    return y;
  };
  if (shape.lanes == 16) {
    // Infinities have no r; far below all exponents is as good.
    constexpr double kSmallest = -1000.0;
    constexpr int64_t kAllLanes = -1, kCurrentRounding = 4;
    Val bounded = larger(b, constantLike(x, kSmallest), x);
    Val n = b.roundEven(bounded);
    Val y = evaluate(bounded - n);
    return b.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", x.type(),
                       {y, n, y, b.constant(b.i16(), kAllLanes),
                        b.constant(b.i32(), kCurrentRounding)});
  }
  constexpr double kSmallest = -126.0;
  /// 1.5 * 2^23: the sum with it is rounded to an integer, which its low bits
  /// hold.
  constexpr double kRounder = 12582912.0;
  constexpr int64_t kMantissaBits = 23;
  Val bounded = larger(b, constantLike(x, kSmallest), x);
  Val sum = bounded + kRounder;
  Val y = evaluate(bounded - (sum - kRounder));
  Type bits = cast<VectorType>(x.type()).clone(b.i32());
  Val n = b.bitcast(sum, bits) << kMantissaBits;
  Val power = b.bitcast(b.bitcast(y, bits) + n, x.type());
  return b.select(x < kSmallest, b.zero(x.type()), power);
}

void AttentionBlock::emitWhole(Val firstRow, int64_t rows, bool fetchNext) {
  int64_t slices = kBlockSlices;
  while (slices > 1 &&
         rows * slices * (kSliceKeys / shape.lanes) > shape.sums())
    slices /= 2;
  b.forRange(b.index(0), b.index(kBlockSlices), slices, [&](Val slice) {
    emitScores(firstRow, rows, slice, slices, fetchNext);
  });
  emitSoftmax(firstRow, rows, /*base=*/Val());
  Val all = b.index(kBlockKeys);
  emitValues(firstRow, rows, all, all, fetchNext);
}

void AttentionBlock::emitPartial(Val firstRow, int64_t rows, Val base,
                                 bool samePosition) {
  Val least = countKeys(firstRow, base);
  Val most = samePosition ? least : countKeys(firstRow + (rows - 1), base);
  Val slices = (most + (kSliceKeys - 1)) / kSliceKeys, first = b.index(0);
  if (shape.window) {
    // What the first query doesn't see of its window none of them sees. All
    // keys are some query's alone.
    least = countHidden(firstRow, base);
    first = least / kSliceKeys;
  }
  b.forRange(first, slices, 1, [&](Val slice) {
    emitScores(firstRow, rows, slice, 1, /*fetchNext=*/false);
  });
  emitSoftmax(firstRow, rows, base);
  emitValues(firstRow, rows, least, most, /*fetchNext=*/false);
}

/// Scores of \p rows queries with `slices` times 16 keys.
void AttentionBlock::emitScores(Val firstRow, int64_t rows, Val firstSlice,
                                int64_t slices, bool fetchNext) {
  const PageLayout &pages = shape.pages;
  VectorType type = b.vec(kSliceKeys, b.f32());
  SmallVector<Ptr> columns, nextColumns;
  for (int64_t j = 0; j < slices; ++j) {
    columns.push_back(
        Ptr(keySlice(firstSlice + j).load(b.ptr()).get(), &b).readOnly());
    if (fetchNext)
      nextColumns.push_back(
          Ptr(nextKeySlice(firstSlice + j).load(b.ptr()).get(), &b));
  }
  Ptr first = query(firstRow);
  SmallVector<Val> sums = b.forRange(
      b.index(0), b.index(pages.headDim), 1,
      SmallVector<Val>(rows * slices, b.zero(type)),
      [&](Val feature, ArrayRef<Val> before) {
        SmallVector<Val> keys, after;
        for (Ptr next : nextColumns)
          next.element(pages.element, feature * pages.pageTokens).prefetch();
        for (Ptr column : columns)
          keys.push_back(pages.load(
              b, column.element(pages.element, feature * pages.pageTokens),
              kSliceKeys));
        for (int64_t i = 0; i < rows; ++i) {
          Ptr place = first.at(i * shape.paddedDim() * 4);
          Val scaled = b.broadcast(
              place.element(b.f32(), feature).load(b.f32()), kSliceKeys);
          for (int64_t j = 0; j < slices; ++j)
            after.push_back(b.fma(scaled, keys[j], before[i * slices + j]));
        }
        return after;
      });
  for (int64_t j = 0; j < slices; ++j) {
    Val scales;
    if (pages.codes)
      scales = loadScales(keyScales(firstSlice + j));
    for (int64_t i = 0; i < rows; ++i) {
      Val sum = sums[i * slices + j];
      weights(b.index(i))
          .element(b.f32(), (firstSlice + j) * kSliceKeys)
          .store(scales ? sum * scales : sum, /*alignment=*/64);
    }
  }
}

Val AttentionBlock::loadScales(Ptr place) {
  Ptr scales = Ptr(place.load(b.ptr()).get(), &b).readOnly();
  Val loaded = scales.load(b.vec(kSliceKeys, b.f32()));
  double unit = shape.pages.unit();
  return unit == 1.0 ? loaded : loaded * unit;
}

/// How many of the block's keys a query sees, 0 to 64.
Val AttentionBlock::countKeys(Val row, Val base) {
  Val seen = keys(row).load(b.i64()) - base;
  return b.max(b.min(seen, b.index(kBlockKeys)), b.index(0));
}

/// How many of the block's keys lie before a query's window, 0 to 64.
Val AttentionBlock::countHidden(Val row, Val base) {
  Val before = keys(row).load(b.i64()) - base - shape.window;
  return b.max(b.min(before, b.index(kBlockKeys)), b.index(0));
}

/// The keys of a slice that a query sees.
Val AttentionBlock::maskSeen(Val row, Val base, int64_t slice) {
  int64_t first = slice * kSliceKeys;
  Val seen = b.firstLanes(kSliceKeys, countKeys(row, base) - first);
  if (!shape.window)
    return seen;
  Val hidden = b.firstLanes(kSliceKeys, countHidden(row, base) - first);
  return b.select(hidden, b.zero(hidden.type()), seen);
}

/// Updates m and l of a row, and gives c and the p of its keys; without
/// \p base, of a whole block. Hidden keys have the weight 0 in l, and any p.
AttentionBlock::RowWeights AttentionBlock::emitRowSoftmax(Val i, Val row,
                                                          Val base) {
  VectorType type = b.vec(kSliceKeys, b.f32());
  Val hidden = b.constant(type, -std::numeric_limits<double>::infinity());
  RowWeights result;
  SmallVector<Val> &slices = result.slices;
  for (int64_t j = 0; j < kBlockSlices; ++j)
    slices.push_back(weightSlice(i, j).load(type, /*alignment=*/64));
  if (base) {
    for (int64_t j = 0; j < kBlockSlices; ++j) {
      result.seen.push_back(maskSeen(row, base, j));
      slices[j] = b.select(result.seen[j], slices[j], hidden);
    }
  }
  Val largest = larger(b, larger(b, slices[0], slices[1]),
                       larger(b, slices[2], slices[3]));
  Val before = maximum(row).load(b.f32());
  Val after = larger(b, before, largestLane(b, largest));
  maximum(row).store(after);
  Val shift = b.broadcast(after, kSliceKeys);
  result.factor = powerOfTwo(b.broadcast(before, kSliceKeys) - shift);
  for (Val &slice : slices)
    slice = powerOfTwo(slice - shift);
  Val sum = (slices[0] + slices[1]) + (slices[2] + slices[3]);
  Val total = sums(row).load(type, /*alignment=*/64);
  sums(row).store(b.fma(total, result.factor, sum), /*alignment=*/64);
  if (shape.pages.codes)
    for (int64_t j = 0; j < kBlockSlices; ++j)
      slices[j] = slices[j] * loadScales(valueScales(b.index(j)));
  return result;
}

/// Turns s into p, and keeps c. Hidden keys get a mark in p.
void AttentionBlock::emitSoftmax(Val firstRow, int64_t rows, Val base) {
  Val mark = b.bitcast(b.constant(b.vec(kSliceKeys, b.i32()), kHiddenMark),
                       b.vec(kSliceKeys, b.f32()));
  b.forRange(b.index(0), b.index(rows), 1, [&](Val i) {
    RowWeights weights = emitRowSoftmax(i, firstRow + i, base);
    correction(i).store(weights.factor.lane(0));
    for (auto [j, slice] : llvm::enumerate(weights.slices))
      weightSlice(i, j).store(base ? b.select(weights.seen[j], slice, mark)
                                   : slice,
                              /*alignment=*/64);
  });
}

/// Visits a row's vectors, as many at once as registers hold for \p rows.
void AttentionBlock::forFeatures(int64_t rows,
                                 function_ref<void(Val, int64_t)> body) {
  int64_t vectors = shape.paddedValueDim() / shape.lanes, atOnce = 4;
  while (atOnce > 1 && rows * atOnce > shape.sums())
    atOnce /= 2;
  int64_t looped = vectors - vectors % atOnce;
  b.forRange(b.index(0), b.index(looped * shape.lanes), atOnce * shape.lanes,
             [&](Val feature) { body(feature, atOnce); });
  if (looped < vectors)
    body(b.index(looped * shape.lanes), vectors - looped);
}

/// o = o * c, then the values of the first \p least keys for all queries (of a
/// window for none), then those up to \p most for the queries that see them.
void AttentionBlock::emitValues(Val firstRow, int64_t rows, Val least, Val most,
                                bool fetchNext) {
  VectorType type = b.vec(shape.lanes, b.f32());
  forFeatures(rows, [&](Val feature, int64_t vectors) {
    SmallVector<Ptr> places;
    SmallVector<Val> outputs;
    for (int64_t i = 0; i < rows; ++i) {
      Val factor =
          b.broadcast(correction(b.index(i)).load(b.f32()), shape.lanes);
      for (int64_t j = 0; j < vectors; ++j) {
        places.push_back(
            output(firstRow + i).element(b.f32(), feature + j * shape.lanes));
        outputs.push_back(places.back().load(type) * factor);
      }
    }
    if (!shape.window || most.get() == least.get())
      outputs = emitProducts(least, feature, rows, vectors, outputs, fetchNext);
    if (most.get() != least.get())
      outputs = emitMarked(least, most, feature, rows, vectors, outputs);
    for (auto [place, sum] : llvm::zip_equal(places, outputs))
      place.store(sum);
  });
}

/// The products of p and values of the block's first \p count keys, for
/// `vectors` registers of features. Lanes past headDim hold whatever follows
/// the values; they stay in the padding of o.
SmallVector<Val> AttentionBlock::emitProducts(Val count, Val feature,
                                              int64_t rows, int64_t vectors,
                                              ArrayRef<Val> init,
                                              bool fetchNext) {
  const PageLayout &pages = shape.pages;
  Val slices = (count + (kSliceKeys - 1)) / kSliceKeys;
  return b.forRange(
      b.index(0), slices, 1, init, [&](Val slice, ArrayRef<Val> outer) {
        Ptr first = Ptr(valueSlice(slice).load(b.ptr()).get(), &b).readOnly();
        Ptr next;
        if (fetchNext)
          next = Ptr(nextValueSlice(slice).load(b.ptr()).get(), &b);
        Val firstKey = slice * kSliceKeys;
        Val here = b.min(count - firstKey, b.index(kSliceKeys));
        return b.forRange(
            b.index(0), here, 1, outer, [&](Val key, ArrayRef<Val> before) {
              SmallVector<Val> values, after;
              int64_t bytes = vectors * shape.lanes * pages.elementBytes();
              for (int64_t line = 0; next && line < bytes; line += kLineBytes)
                next.element(pages.element,
                             key * shape.elementsPerValue() + feature)
                    .at(line)
                    .prefetch();
              for (int64_t j = 0; j < vectors; ++j)
                values.push_back(
                    pages.load(b,
                               first.element(pages.element,
                                             key * shape.elementsPerValue() +
                                                 feature + j * shape.lanes),
                               shape.lanes));
              for (int64_t i = 0; i < rows; ++i) {
                Val weight = b.broadcast(weights(b.index(i))
                                             .element(b.f32(), firstKey + key)
                                             .load(b.f32()),
                                         shape.lanes);
                for (int64_t j = 0; j < vectors; ++j)
                  after.push_back(
                      b.fma(weight, values[j], before[i * vectors + j]));
              }
              return after;
            });
      });
}

/// The same for keys that some queries don't see. What such a query would add
/// may be anything, and 0 * NaN is NaN: the mark in p says to leave it out.
SmallVector<Val> AttentionBlock::emitMarked(Val from, Val to, Val feature,
                                            int64_t rows, int64_t vectors,
                                            ArrayRef<Val> init) {
  const PageLayout &pages = shape.pages;
  return b.forRange(from, to, 1, init, [&](Val key, ArrayRef<Val> before) {
    Ptr slice = Ptr(valueSlice(key / kSliceKeys).load(b.ptr()).get(), &b);
    Ptr first = slice.readOnly().element(
        pages.element, (key % kSliceKeys) * shape.elementsPerValue() + feature);
    SmallVector<Val> values, after;
    for (int64_t j = 0; j < vectors; ++j)
      values.push_back(pages.load(
          b, first.at(j * shape.lanes * pages.elementBytes()), shape.lanes));
    for (int64_t i = 0; i < rows; ++i) {
      Val weight = b.broadcast(
          weights(b.index(i)).element(b.f32(), key).load(b.f32()), shape.lanes);
      Val seen = b.bitcast(weight, b.vec(shape.lanes, b.i32())) != kHiddenMark;
      for (int64_t j = 0; j < vectors; ++j) {
        Val sum = before[i * vectors + j];
        after.push_back(b.select(seen, b.fma(weight, values[j], sum), sum));
      }
    }
    return after;
  });
}
