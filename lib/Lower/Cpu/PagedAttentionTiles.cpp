//===- PagedAttentionTiles.cpp - Attention in matrix registers ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PagedAttentionTiles.h"

#include "llvm/Support/MathExtras.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

/// bf16 is the upper half of f32.
static constexpr int64_t kHalfBits = 16, kUpperHalf = 0xFFFF0000;
/// Its exponent; all ones in infinity and NaN.
static constexpr int64_t kExponent = 0x7F80;
/// Tiles of sums held at once, beside two of queries and one of keys.
static constexpr int64_t kSumTiles = 4;
static constexpr int64_t kWeightStride = kBlockKeys * 2;

/// f32 numbers as a sum of two bf16.
std::pair<Val, Val> AttentionTiles::split(Val values) {
  auto round = [&](Val x) {
    if (!hasBf16Vectors || x.lanes() != 16)
      return b.fromF32(x, b.bf16());
    return b.intrinsic("llvm.x86.avx512bf16.cvtneps2bf16.512",
                       b.vec(16, b.bf16()), {x});
  };
  Val high = round(values);
  return {high, round(values - b.toF32(high))};
}

/// The same of two vectors, which follow each other. With the instruction that
/// rounds both, the higher parts are cut off, not rounded: they take no
/// rounding back then, and the lower ones have a bit more to say.
std::pair<Val, Val> AttentionTiles::splitTwo(Val first, Val second) {
  if (!hasBf16Vectors) {
    auto [firstHigh, firstLow] = split(first);
    auto [secondHigh, secondLow] = split(second);
    return {b.concat(firstHigh, secondHigh), b.concat(firstLow, secondLow)};
  }
  auto pack = [&](Val lower, Val upper) {
    return b.intrinsic("llvm.x86.avx512bf16.cvtne2ps2bf16.512",
                       b.vec(2 * kTileColumns, b.bf16()), {upper, lower});
  };
  VectorType bits = b.vec(kTileColumns, b.i32());
  auto cut = [&](Val x) {
    return b.bitcast(b.bitcast(x, bits) & kUpperHalf, x.type());
  };
  Val firstHigh = cut(first), secondHigh = cut(second);
  return {pack(firstHigh, secondHigh),
          pack(first - firstHigh, second - secondHigh)};
}

void AttentionTiles::emitPadding(Val rows) {
  VectorType line = b.vec(kTileColumns, b.i32());
  int64_t used = shape.pages.headDim / 2 * kTileBytes;
  int64_t bytes = shape.keyTiles() * kTileSize;
  b.forRange(b.index(0), b.index(kBlockSlices), 1, [&](Val slice) {
    b.forRange(b.index(used), b.index(bytes), kTileBytes, [&](Val offset) {
      keyTile(slice, 0).at(offset).store(b.zero(line));
    });
  });
  // Features past the last chunk, and rows that a register holds beside those
  // of the run.
  int64_t stride = shape.tileDim() * 2;
  int64_t written = llvm::alignTo(shape.pages.headDim, shape.lanes);
  Val first = shape.tileDim() == written ? rows : b.index(0);
  for (int64_t queries : {layout.highQueries, layout.lowQueries})
    b.forRange(first * stride, (rows + kTileRows) * stride, kTileBytes,
               [&](Val offset) { at(queries).at(offset).store(b.zero(line)); });
}

void AttentionTiles::storeQuery(Val row, Val first, Val values) {
  auto [high, low] = split(values);
  Val place = (row * shape.tileDim() + first) * 2;
  at(layout.highQueries).at(place).store(high);
  at(layout.lowQueries).at(place).store(low);
}

/// Element i of the lower half beside element i of the upper one: one
/// permutation.
Val AttentionTiles::interleave(Val both) {
  SmallVector<int64_t> lanes;
  for (int64_t i = 0; i < kTileColumns; ++i)
    lanes.append({i, kTileColumns + i});
  return b.bitcast(b.shuffle(both, both, lanes), b.vec(kTileColumns, b.i32()));
}

/// 16 pairs of elements, as bf16.
Val AttentionTiles::loadPair(Ptr even, Ptr odd) {
  const PageLayout &pages = shape.pages;
  if (!pages.codes) {
    VectorType half = b.vec(kTileColumns, b.i16());
    return interleave(b.concat(even.load(half), odd.load(half)));
  }
  auto load = [&](Ptr place) {
    return b.bitcast(pages.load(b, place, kTileColumns),
                     b.vec(kTileColumns, b.i32()));
  };
  return (load(even) >> kHalfBits) | (load(odd) & kUpperHalf);
}

/// The same of two rows of 16 that follow each other.
Val AttentionTiles::loadNeighbours(Ptr rows) {
  return interleave(rows.load(b.vec(2 * kTileColumns, b.i16())));
}

void AttentionTiles::copyKeys() {
  const PageLayout &pages = shape.pages;
  int64_t rowBytes = pages.pageTokens * pages.elementBytes();
  b.forRange(b.index(0), b.index(kBlockSlices), 1, [&](Val slice) {
    Ptr from = Ptr(keySlice(slice).load(b.ptr()).get(), &b).readOnly();
    Ptr next = Ptr(nextKeySlice(slice).load(b.ptr()).get(), &b);
    b.forRange(b.index(0), b.index(pages.headDim / 2), 1, [&](Val pair) {
      Val offset = pair * (2 * rowBytes);
      next.at(offset).prefetch();
      if (2 * rowBytes > kTileBytes)
        next.at(offset + rowBytes).prefetch();
      Ptr even = from.at(offset);
      bool areNeighbours = !pages.codes && 2 * rowBytes == kTileBytes;
      Val keys = areNeighbours ? loadNeighbours(even)
                               : loadPair(even, even.at(rowBytes));
      keyTile(slice, 0).at(pair * kTileBytes).store(keys, kTileBytes);
    });
  });
}

Val AttentionTiles::copyValues(Val count, Val hidden) {
  const PageLayout &pages = shape.pages;
  int64_t rowBytes = pages.headDim * pages.elementBytes();
  VectorType line = b.vec(kTileColumns, b.i32());
  constexpr int64_t kSlicePairs = kSliceKeys / 2;
  auto copySlice = [&](Val slice, Val largest) {
    Ptr from = Ptr(valueSlice(slice).load(b.ptr()).get(), &b).readOnly();
    Ptr next = Ptr(nextValueSlice(slice).load(b.ptr()).get(), &b);
    Ptr to = at(layout.valueTiles)
                 .at(slice / 2 * (shape.valueTiles() * kTileSize))
                 .at(slice % 2 * (kSlicePairs * kTileBytes));
    return b.forRange(
        b.index(0), b.index(kSlicePairs), 1, {largest},
        [&](Val pair, ArrayRef<Val> before) {
          Val keep;
          if (count) {
            // Of each pair, the lower half is the even key's.
            Val key = slice * kSliceKeys + pair * 2;
            auto bits = [&](Val isSeen, int64_t half) {
              return b.select(isSeen, b.constant(b.i32(), half),
                              b.constant(b.i32(), int64_t(0)));
            };
            auto isKept = [&](Val at) {
              return hidden ? (at < count) & (at >= hidden) : at < count;
            };
            keep = b.broadcast(bits(isKept(key), ~kUpperHalf & 0xFFFFFFFF) |
                                   bits(isKept(key + 1), kUpperHalf),
                               kTileColumns);
          }
          Val after = before[0], offset = pair * (2 * rowBytes);
          for (int64_t byte = 0; byte < 2 * rowBytes; byte += kTileBytes)
            next.at(offset + byte).prefetch();
          for (int64_t n = 0; n < shape.valueTiles(); ++n) {
            Ptr even =
                from.at(offset + n * kTileColumns * pages.elementBytes());
            Val values = loadPair(even, even.at(rowBytes));
            if (count) {
              values = values & keep;
              after = b.max(after, b.max(values & kExponent,
                                         (values >> kHalfBits) & kExponent));
            }
            to.at(n * kTileSize + pair * kTileBytes).store(values, kTileBytes);
          }
          return SmallVector<Val>{after};
        })[0];
  };
  Val largest =
      b.forRange(b.index(0), b.index(kBlockSlices), 1, {b.zero(line)},
                 [&](Val slice, ArrayRef<Val> before) {
                   return SmallVector<Val>{copySlice(slice, before[0])};
                 })[0];
  return count ? b.reduceMax(largest) : Val();
}

void AttentionTiles::emitTileScores(Val firstRow) {
  int64_t stride = shape.tileDim() * 2;
  Ptr high = at(layout.highQueries).at(firstRow * stride);
  Ptr low = at(layout.lowQueries).at(firstRow * stride);
  SmallVector<Val> sums;
  for (int64_t s = 0; s < kBlockSlices; ++s)
    sums.push_back(unit.zero());
  for (int64_t j = 0; j < shape.keyTiles(); ++j) {
    Val q1 = unit.load(high.at(j * kTileBytes), stride);
    Val q2 = unit.load(low.at(j * kTileBytes), stride);
    for (int64_t s = 0; s < kBlockSlices; ++s) {
      Val keys = unit.load(keyTile(b.index(s), j), kTileBytes);
      sums[s] = unit.multiply(sums[s], q1, keys);
      sums[s] = unit.multiply(sums[s], q2, keys);
    }
  }
  for (int64_t s = 0; s < kBlockSlices; ++s)
    unit.store(sums[s], weightSlice(b.index(0), s), kBlockKeys * 4);
  if (!shape.pages.codes)
    return;
  b.forRange(b.index(0), b.index(kBlockSlices), 1, [&](Val slice) {
    Val scales = loadScales(keyScales(slice));
    b.forRange(b.index(0), b.index(kTileRows), 1, [&](Val row) {
      Ptr place = weights(row).element(b.f32(), slice * kSliceKeys);
      place.store(place.load(scales.type()) * scales);
    });
  });
}

/// The scores of one slice, for the rows of s from \p slot on: the same sums in
/// the same order.
void AttentionTiles::emitSliceScores(Val firstRow, int64_t slice, Val slot) {
  int64_t stride = shape.tileDim() * 2;
  Ptr high = at(layout.highQueries).at(firstRow * stride);
  Ptr low = at(layout.lowQueries).at(firstRow * stride);
  Val sum = unit.zero();
  for (int64_t j = 0; j < shape.keyTiles(); ++j) {
    Val keys = unit.load(keyTile(b.index(slice), j), kTileBytes);
    sum = unit.multiply(sum, unit.load(high.at(j * kTileBytes), stride), keys);
    sum = unit.multiply(sum, unit.load(low.at(j * kTileBytes), stride), keys);
  }
  unit.store(sum, weightSlice(slot, slice), kBlockKeys * 4);
}

/// The largest s of each row in each of 16 lanes.
void AttentionTiles::emitLaneMaxima(Val firstRow, Val rows, Val base,
                                    Val slot) {
  VectorType type = b.vec(kSliceKeys, b.f32());
  Val hidden = b.constant(type, -std::numeric_limits<double>::infinity());
  b.forRange(b.index(0), rows, 1, [&](Val i) {
    Val slices[kBlockSlices];
    for (int64_t j = 0; j < kBlockSlices; ++j) {
      slices[j] = weightSlice(slot + i, j).load(type, /*alignment=*/64);
      if (base)
        slices[j] =
            b.select(maskSeen(firstRow + i, base, j), slices[j], hidden);
    }
    Val largest = larger(b, larger(b, slices[0], slices[1]),
                         larger(b, slices[2], slices[3]));
    at(layout.laneMaxima).at(i * kTileBytes).store(largest, kTileBytes);
  });
}

/// The largest s of 16 rows, a lane a row: of two vectors the halves of each
/// row's lanes meet, until one lane of each row is left.
Val AttentionTiles::emitMaxima() {
  SmallVector<Val> vectors;
  for (int64_t i = 0; i < kTileRows; ++i)
    vectors.push_back(at(layout.laneMaxima)
                          .at(i * kTileBytes)
                          .load(b.vec(kSliceKeys, b.f32()), kTileBytes));
  for (int64_t width = kSliceKeys; width > 1; width /= 2) {
    SmallVector<int64_t> lower, upper;
    for (int64_t lane = 0; lane < 2 * kSliceKeys; ++lane)
      (lane % width < width / 2 ? lower : upper).push_back(lane);
    SmallVector<Val> joined;
    for (size_t i = 0; i < vectors.size(); i += 2)
      joined.push_back(larger(b, b.shuffle(vectors[i], vectors[i + 1], lower),
                              b.shuffle(vectors[i], vectors[i + 1], upper)));
    vectors = joined;
  }
  return vectors[0];
}

/// Turns a row's s into p and adds them to l; m and c are known.
void AttentionTiles::emitRowWeights(Val i, Val row, Val base, Val slot) {
  VectorType type = b.vec(kSliceKeys, b.f32());
  Val shift = b.broadcast(maximum(row).load(b.f32()), kSliceKeys);
  Val slices[kBlockSlices];
  for (int64_t j = 0; j < kBlockSlices; ++j) {
    Val s = weightSlice(slot + i, j).load(type, /*alignment=*/64);
    slices[j] = powerOfTwo(s - shift);
    if (base)
      slices[j] =
          b.select(maskSeen(row, base, j), slices[j], b.zero(slices[j].type()));
  }
  Val sum = (slices[0] + slices[1]) + (slices[2] + slices[3]);
  Val factor = b.broadcast(correction(i).load(b.f32()), kSliceKeys);
  Val total = sums(row).load(type, /*alignment=*/64);
  sums(row).store(b.fma(total, factor, sum), /*alignment=*/64);
  for (int64_t j = 0; j < kBlockSlices; j += 2) {
    for (int64_t k = j; shape.pages.codes && k < j + 2; ++k) {
      slices[k] = slices[k] * loadScales(valueScales(b.index(k)));
      // The scale of a later token may be NaN.
      if (base)
        slices[k] = b.select(maskSeen(row, base, k), slices[k],
                             b.zero(slices[k].type()));
    }
    auto [high, low] = splitTwo(slices[j], slices[j + 1]);
    Val place = (slot + i) * kWeightStride + j * kSliceKeys * 2;
    at(layout.highWeights).at(place).store(high);
    at(layout.lowWeights).at(place).store(low);
  }
}

/// o * c. Most blocks have no larger s than those before.
void AttentionTiles::emitRescaled(Val firstRow, Val rows, Val factors) {
  VectorType type = b.vec(shape.lanes, b.f32());
  Val rowsHere = b.firstLanes(kTileRows, rows);
  Val changes =
      b.select(rowsHere, b.abs(factors - 1.0), b.zero(factors.type()));
  // A row of NaN has a factor of NaN.
  Val isChanged = b.reduceMax(b.bitcast(changes, b.vec(kTileRows, b.i32())));
  b.ifThen(isChanged != 0, [&] {
    b.forRange(b.index(0), rows, 1, [&](Val i) {
      Val factor = b.broadcast(correction(i).load(b.f32()), shape.lanes);
      for (int64_t d = 0; d < shape.paddedDim(); d += shape.lanes) {
        Ptr place = output(firstRow + i).at(d * 4);
        place.store(place.load(type) * factor);
      }
    });
  });
}

/// Finds m and c. Those of 16 rows are found at once, in the lanes of a vector;
/// lanes past the last row hold anything.
Val AttentionTiles::emitFactors(Val firstRow, Val rows, Val base, Val slot) {
  VectorType type = b.vec(kTileRows, b.f32());
  emitLaneMaxima(firstRow, rows, base, slot);
  Val before = maximum(firstRow).load(type);
  Val after = larger(b, before, emitMaxima());
  Val factors = powerOfTwo(before - after);
  maximum(firstRow).store(after);
  correction(b.index(0)).store(factors);
  return factors;
}

/// Turns s into p and o into o * c.
void AttentionTiles::emitTileSoftmax(Val firstRow, Val rows, Val base) {
  Val slot = b.index(0);
  Val factors = emitFactors(firstRow, rows, base, slot);
  b.forRange(b.index(0), rows, 1,
             [&](Val i) { emitRowWeights(i, firstRow + i, base, slot); });
  emitRescaled(firstRow, rows, factors);
}

/// Adds to 16 rows of \p tiles tiles of features, from \p firstTile on, at
/// \p outputs; \p weightRow is the first row of p.
void AttentionTiles::emitProducts(Ptr outputs, int64_t stride, Val weightRow,
                                  int64_t firstTile, int64_t tiles) {
  SmallVector<Val> sums;
  for (int64_t n = 0; n < tiles; ++n)
    sums.push_back(unit.load(outputs.at(n * kTileBytes), stride));
  for (int64_t depth = 0; depth < kBlockDepths; ++depth) {
    Val offset = weightRow * kWeightStride + depth * kTileBytes;
    Val p1 = unit.load(at(layout.highWeights).at(offset), kWeightStride);
    Val p2 = unit.load(at(layout.lowWeights).at(offset), kWeightStride);
    for (int64_t n = 0; n < tiles; ++n) {
      Val values = unit.load(valueTile(depth, firstTile + n), kTileBytes);
      sums[n] = unit.multiply(sums[n], p1, values);
      sums[n] = unit.multiply(sums[n], p2, values);
    }
  }
  for (int64_t n = 0; n < tiles; ++n)
    unit.store(sums[n], outputs.at(n * kTileBytes), stride);
}

void AttentionTiles::emitTileValues(Val firstRow) {
  for (int64_t n = 0; n < shape.valueTiles(); n += kSumTiles)
    emitProducts(output(firstRow).at(n * kTileBytes), shape.paddedDim() * 4,
                 b.index(0), n, std::min(kSumTiles, shape.valueTiles() - n));
}

/// Values of which some aren't finite: each query with those that it sees.
void AttentionTiles::emitOneByOne(Val firstRow, Val rows, Val base) {
  b.forRange(b.index(0), rows, 1, [&](Val i) {
    Val row = firstRow + i;
    copyValues(countKeys(row, base),
               shape.window ? countHidden(row, base) : Val());
    for (int64_t n = 0; n < shape.valueTiles(); ++n) {
      Ptr place = output(firstRow + i).at(n * kTileBytes);
      Ptr result = at(layout.oneResult);
      VectorType line = b.vec(kTileColumns, b.f32());
      result.store(place.load(line));
      emitProducts(result, kTileBytes, i, n, 1);
      place.store(result.load(line));
    }
  });
}

/// A block of finite values for more than 16 queries. While vectors work on the
/// softmax of 16 of them, the matrix unit does the products of their
/// neighbours, a few after each row: the scores of the next 16 and the values
/// of the 16 before, which are in the other half of s and p.
void AttentionTiles::emitBeside(Val rows, Val base) {
  Val lastRow = (rows - 1) / kTileRows * kTileRows;
  auto getSlot = [&](Val firstRow) { return firstRow % (2 * kTileRows); };
  auto emitValues = [&](Val firstRow, int64_t lo, int64_t hi) {
    for (int64_t n = lo; n < hi; ++n)
      emitProducts(output(firstRow).at(n * kTileBytes), shape.paddedDim() * 4,
                   getSlot(firstRow), n, 1);
  };
  emitTileScores(b.index(0));
  b.forRange(b.index(0), rows, kTileRows, [&](Val firstRow) {
    Val slot = getSlot(firstRow), here = b.min(rows - firstRow, b.index(16));
    Val factors = emitFactors(firstRow, here, base, slot);
    // Rows past the last one come to nothing.
    constexpr int64_t kQuarter = kTileRows / kBlockSlices;
    for (int64_t quarter = 0; quarter < kBlockSlices; ++quarter) {
      b.ifThen(firstRow < lastRow, [&] {
        Val next = firstRow + kTileRows;
        emitSliceScores(next, quarter, getSlot(next));
      });
      b.ifThen(firstRow > 0, [&] {
        int64_t tiles = shape.valueTiles();
        emitValues(firstRow - kTileRows, quarter * tiles / kBlockSlices,
                   (quarter + 1) * tiles / kBlockSlices);
      });
      for (int64_t i = quarter * kQuarter; i < (quarter + 1) * kQuarter; ++i)
        emitRowWeights(b.index(i), firstRow + i, base, slot);
    }
    emitRescaled(firstRow, here, factors);
  });
  emitValues(lastRow, 0, shape.valueTiles());
}

void AttentionTiles::emitBlock(Val rows, Val base, Val keys) {
  copyKeys();
  Val count = base ? b.min(keys, b.index(kBlockKeys)) : Val();
  // What none of the queries sees: the first one sees least.
  Val hidden = base && shape.window ? countHidden(b.index(0), base) : Val();
  Val exponent = copyValues(count, hidden);
  auto emitInTurn = [&] {
    b.forRange(b.index(0), rows, kTileRows, [&](Val firstRow) {
      Val here = b.min(rows - firstRow, b.index(kTileRows));
      emitTileScores(firstRow);
      emitTileSoftmax(firstRow, here, base);
      if (!base || shape.pages.codes)
        return emitTileValues(firstRow);
      b.ifElse(
          exponent < kExponent, [&] { emitTileValues(firstRow); },
          [&] { emitOneByOne(firstRow, here, base); });
    });
  };
  // Codes' scores take their scales first.
  if (shape.pages.codes)
    return emitInTurn();
  Val isMany = rows > kTileRows;
  if (base)
    isMany = isMany & (exponent < kExponent);
  b.ifElse(isMany, [&] { emitBeside(rows, base); }, emitInTurn);
}
