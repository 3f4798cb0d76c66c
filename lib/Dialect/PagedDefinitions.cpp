//===- PagedDefinitions.cpp - Definitions of the paged cache --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DefinitionBuilder.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;

using Values = SmallVector<Value>;
using Indices = ArrayRef<Value>;

double mlir::qlm::getCacheBound(Type codes) {
  return codes.isInteger(8) ? 127 : 448;
}

namespace {
/// Numbers as i8 codes and scales as four bytes.
struct CacheCodes {
  OpBuilder &builder;
  Location loc;
  DefinitionBuilder &d;
  /// i8 or f8E4M3FN.
  Type type;

  double bound() const { return getCacheBound(type); }
  /// The i8 code of an f32 that is within the bound but for rounding.
  Value encode(Value x) const;
  /// The f32 that an i8 code stands for.
  Value decode(Value code) const;
  Value encodeFloat8(Value x) const;
  Value decodeFloat8(Value bits) const;

  Value bits(Value x) const {
    return arith::BitcastOp::create(builder, loc, builder.getI32Type(), x);
  }
  Value fromBits(Value x) const {
    return arith::BitcastOp::create(builder, loc, builder.getF32Type(), x);
  }
  Value toByte(Value x) const {
    return arith::TruncIOp::create(builder, loc, builder.getI8Type(), x);
  }
  Value fromByte(Value x) const {
    return arith::ExtUIOp::create(builder, loc, builder.getI32Type(), x);
  }
  Value shiftRight(Value x, int64_t count) const {
    return arith::ShRUIOp::create(builder, loc, x, d.i32(count));
  }
  Value shiftLeft(Value x, int64_t count) const {
    return arith::ShLIOp::create(builder, loc, x, d.i32(count));
  }
  Value masked(Value x, int64_t mask) const {
    return arith::AndIOp::create(builder, loc, x, d.i32(mask));
  }
  Value either(Value a, Value b) const {
    return arith::OrIOp::create(builder, loc, a, b);
  }
};

/// E4M3FN beside f32: the exponents' biases differ by 120, the mantissas'
/// lengths by 20; below 2^-6 E4M3FN counts in units of 2^-9.
constexpr int64_t kBiasDifference = 120, kMantissaDifference = 20;
constexpr int64_t kMantissaBits = 3, kMantissaMask = 7, kMagnitudeMask = 0x7f;
constexpr int64_t kSignBit = 0x80, kSignShift = 24;
constexpr double kSmallestNormal = 0x1p-6, kSubnormalUnit = 0x1p-9;
} // namespace

Value CacheCodes::encodeFloat8(Value x) const {
  Value magnitude = d.minimum(d.abs(x), d.f32(bound()));
  // Half to even: a half, less one where the last bit kept is even.
  Value wide = bits(magnitude);
  Value last = masked(shiftRight(wide, kMantissaDifference), 1);
  Value half = d.i32((1 << (kMantissaDifference - 1)) - 1);
  Value rounded =
      shiftRight(d.add(d.add(wide, half), last), kMantissaDifference);
  Value normal = d.sub(rounded, d.i32(kBiasDifference << kMantissaBits));
  Value units = d.roundClamp(d.mul(magnitude, d.f32(1 / kSubnormalUnit)), 0, 8);
  Value subnormal =
      arith::FPToSIOp::create(builder, loc, builder.getI32Type(), units);
  Value code =
      d.select(d.less(magnitude, d.f32(kSmallestNormal)), subnormal, normal);
  return either(code, masked(shiftRight(bits(x), kSignShift), kSignBit));
}

Value CacheCodes::decodeFloat8(Value code) const {
  Value magnitude = masked(code, kMagnitudeMask);
  Value wide =
      shiftLeft(d.add(magnitude, d.i32(kBiasDifference << kMantissaBits)),
                kMantissaDifference);
  Value units =
      d.mul(d.toF32(masked(code, kMantissaMask)), d.f32(kSubnormalUnit));
  Value isSubnormal = d.less(magnitude, d.i32(1 << kMantissaBits));
  Value value = d.select(isSubnormal, units, fromBits(wide));
  return fromBits(
      either(bits(value), shiftLeft(masked(code, kSignBit), kSignShift)));
}

Value CacheCodes::encode(Value x) const {
  if (!type.isInteger(8))
    return toByte(encodeFloat8(x));
  Value rounded = d.roundClamp(x, -bound(), bound());
  return toByte(
      arith::FPToSIOp::create(builder, loc, builder.getI32Type(), rounded));
}

Value CacheCodes::decode(Value code) const {
  if (!type.isInteger(8))
    return decodeFloat8(fromByte(code));
  return arith::SIToFPOp::create(builder, loc, builder.getF32Type(), code);
}

namespace {
/// Where a step's tokens lie in the pages, and how.
struct PagedCache {
  OpBuilder &builder;
  Location loc;
  DefinitionBuilder &d;
  Value tokenSequences, blockTables;
  int64_t headDim, pageTokens;
  /// Null in a cache of floats.
  Type codeType;
  bool keysByToken;

  template <typename Op>
  PagedCache(OpBuilder &builder, DefinitionBuilder &d, Op op, int64_t headDim)
      : builder(builder), loc(op.getLoc()), d(d),
        tokenSequences(op.getTokenSequences()),
        blockTables(op.getBlockTables()), headDim(headDim),
        pageTokens(static_cast<int64_t>(op.getPageTokens())),
        codeType(op.getCodes().value_or(Type())),
        keysByToken(op.getKeysByToken()) {}

  CacheCodes codes() const { return {builder, loc, d, codeType}; }
  /// Page of position \p position of the sequence of token \p t.
  Value page(Value t, Value position) const {
    Value sequence = d.toIndex(d.at(tokenSequences, t));
    return d.toIndex(
        d.at(blockTables, {sequence, d.div(position, pageTokens)}));
  }
  /// Last index of a key's (or value's) element \p k in its page.
  Value element(bool isValue, Value position, Value k) const {
    Value slot = d.rem(position, pageTokens);
    return isValue || keysByToken ? d.add(d.mul(slot, headDim), k)
                                  : d.add(d.mul(k, pageTokens), slot);
  }
  /// Last index of byte \p i of the scale.
  Value scaleByte(Value position, int64_t i) const {
    Value slot = d.rem(position, pageTokens);
    return d.add(d.mul(slot, kCacheScaleBytes), headDim * pageTokens + i);
  }

  Value insert(Value cache, Value value, Indices at) const {
    return tensor::InsertOp::create(builder, loc, value, cache, at);
  }
  /// Writes the head `row(k)` of token \p t at \p position.
  Value write(Value cache, Value t, Value position, bool isValue, Value head,
              llvm::function_ref<Value(Value)> row) const;
  /// Reads element \p k of a head of the sequence of token \p t, as f32.
  Value read(Value cache, Value t, Value position, bool isValue, Value head,
             Value k) const;
};
} // namespace

Value PagedCache::write(Value cache, Value t, Value position, bool isValue,
                        Value head,
                        llvm::function_ref<Value(Value)> row) const {
  Value number = page(t, position), half = d.index(isValue);
  Type element = cast<RankedTensorType>(cache.getType()).getElementType();
  Value factor, scale;
  if (codeType) {
    Value largest =
        d.loop(d.index(0), d.index(headDim), {d.f32(0)},
               [&](Value k, ArrayRef<Value> carried) {
                 return Values{d.maximum(carried[0], d.abs(row(k)))};
               })[0];
    Value bound = d.f32(codes().bound());
    scale = d.divide(largest, bound);
    factor = d.select(d.isZero(largest), d.f32(0), d.divide(bound, largest));
  }
  cache = d.loop(d.index(0), d.index(headDim), {cache},
                 [&](Value k, ArrayRef<Value> carried) {
                   Value x = row(k);
                   if (codeType)
                     x = codes().encode(d.mul(x, factor));
                   else if (!element.isF32())
                     x = arith::TruncFOp::create(builder, loc, element, x);
                   return Values{insert(carried[0], x,
                                        {number, half, head,
                                         this->element(isValue, position, k)})};
                 })[0];
  if (!codeType)
    return cache;
  Value bits = codes().bits(scale);
  for (int64_t i = 0; i < kCacheScaleBytes; ++i)
    cache = insert(cache, codes().toByte(codes().shiftRight(bits, 8 * i)),
                   {number, half, head, scaleByte(position, i)});
  return cache;
}

Value PagedCache::read(Value cache, Value t, Value position, bool isValue,
                       Value head, Value k) const {
  Value number = page(t, position), half = d.index(isValue);
  Value at = element(isValue, position, k);
  if (!codeType)
    return d.at(cache, {number, half, head, at});
  auto extract = [&](Value last) -> Value {
    return tensor::ExtractOp::create(builder, loc, cache,
                                     ValueRange{number, half, head, last});
  };
  Value bits;
  for (int64_t i = 0; i < kCacheScaleBytes; ++i) {
    Value byte = codes().shiftLeft(
        codes().fromByte(extract(scaleByte(position, i))), 8 * i);
    bits = bits ? codes().either(bits, byte) : byte;
  }
  return d.mul(codes().decode(extract(at)), codes().fromBits(bits));
}

FailureOr<Values> RopeAppendOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  int64_t headDim = getHeadDim(), half = headDim / 2;
  int64_t heads = getHeads(), kvHeads = getKvHeads();
  PagedCache paged(builder, d, *this, headDim);
  auto position = [&](Value t) { return d.toIndex(d.at(getPositions(), t)); };
  // Feature `column` of qkv after rotation.
  auto rotated = [&](Value t, Value column) {
    Value within = d.rem(column, headDim), pair = d.rem(within, half);
    Value first = d.less(within, d.index(half));
    Value partner =
        d.select(first, d.add(column, half), d.sub(column, d.index(half)));
    Value kept = d.mul(d.at(getQkv(), {t, column}),
                       d.at(getTable(), {position(t), pair, d.index(0)}));
    Value share = d.mul(d.at(getQkv(), {t, partner}),
                        d.at(getTable(), {position(t), pair, d.index(1)}));
    return d.select(first, d.sub(kept, share), d.add(kept, share));
  };
  auto queryType = cast<RankedTensorType>(getQuery().getType());
  Value query = d.generate(queryType, d.dynamicSizesLike(queryType, getQkv()),
                           [&](Indices i) { return rotated(i[0], i[1]); });

  // Appending writes one element after the other.
  Value tokens = d.dim(getQkv(), 0);
  Value updated = d.loop(
      d.index(0), tokens, {getCache()}, [&](Value t, ArrayRef<Value> outer) {
        Value at = position(t);
        return d.loop(d.index(0), d.index(kvHeads), outer,
                      [&](Value j, ArrayRef<Value> carried) {
                        Value key = d.add(d.mul(j, headDim), heads * headDim);
                        Value value = d.add(key, kvHeads * headDim);
                        Value cache = paged.write(
                            carried[0], t, at, /*isValue=*/false, j,
                            [&](Value k) { return rotated(t, d.add(key, k)); });
                        cache = paged.write(
                            cache, t, at, /*isValue=*/true, j, [&](Value k) {
                              return d.at(getQkv(), {t, d.add(value, k)});
                            });
                        return Values{cache};
                      });
      })[0];
  return Values{query, updated};
}

FailureOr<Values> PagedAttentionOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getResult().getType());
  int64_t heads = getHeads(), headDim = type.getDimSize(1) / heads;
  int64_t group = heads / static_cast<int64_t>(getKvHeads());
  PagedCache paged(builder, d, *this, headDim);
  auto score = [&](Value t, Value h, Value u) {
    Value j = d.div(h, group);
    Value dot = d.sum(d.index(0), d.index(headDim), d.f32(0), [&](Value k) {
      return d.mul(d.at(getQuery(), {t, d.add(d.mul(h, headDim), k)}),
                   paged.read(getCache(), t, u, /*isValue=*/false, j, k));
    });
    return d.mul(dot, d.f32(getScale().convertToFloat()));
  };
  return Values{
      d.generate(type, d.dynamicSizesLike(type, getQuery()), [&](Indices i) {
        Value t = i[0], h = d.div(i[1], headDim), k = d.rem(i[1], headDim);
        Value end = d.add(d.toIndex(d.at(getPositions(), t)), 1);
        Value start = d.windowStart(end, getWindow());
        Value largest =
            d.loop(start, end, {d.f32(-std::numeric_limits<float>::infinity())},
                   [&](Value u, ArrayRef<Value> carried) {
                     return Values{d.maximum(carried[0], score(t, h, u))};
                   })[0];
        Values sums =
            d.loop(start, end, {d.f32(0), d.f32(0)},
                   [&](Value u, ArrayRef<Value> carried) {
                     Value w = d.exp(d.sub(score(t, h, u), largest));
                     Value v = paged.read(getCache(), t, u, /*isValue=*/true,
                                          d.div(h, group), k);
                     return Values{d.add(carried[0], w),
                                   d.add(carried[1], d.mul(w, v))};
                   });
        return d.divide(sums[1], sums[0]);
      })};
}
