//===- PlannedDefinitions.cpp - Definitions of the planned step -----------===//
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

FailureOr<Values> SelectRowsOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  Values sizes = d.rowSizes(type, getRows());
  return Values{d.generate(type, sizes, [&](Indices i) {
    return d.at(getInput(), {d.toIndex(d.at(getRows(), i[0])), i[1]});
  })};
}

/// The definition of an operation that is made for nothing else.
template <typename Op, typename... Arguments>
static FailureOr<Values> define(OpBuilder &builder, Location loc,
                                Arguments &&...arguments) {
  auto op = Op::create(builder, loc, std::forward<Arguments>(arguments)...);
  FailureOr<Values> values = op.decompose(builder);
  op->erase();
  return values;
}

/// The type of the f32 values that \p codes are made of.
static RankedTensorType getRoundedType(Value codes) {
  return cast<RankedTensorType>(codes.getType())
      .clone(Float32Type::get(codes.getContext()));
}

FailureOr<Values> RmsNormQuantizeOp::decompose(OpBuilder &builder) {
  RankedTensorType type = getRoundedType(getCodes());
  Value input = getInput();
  if (getRows())
    input = define<SelectRowsOp>(builder, getLoc(), type, input, getRows())
                ->front();
  Value normal = define<RmsNormOp>(builder, getLoc(), type, input, getWeight(),
                                   getEpsilonAttr())
                     ->front();
  return define<DynamicQuantizeOp>(builder, getLoc(), getResultTypes(), normal,
                                   getScheme());
}

FailureOr<Values> SwigluQuantizeOp::decompose(OpBuilder &builder) {
  Value gated = define<SwigluOp>(builder, getLoc(), getRoundedType(getCodes()),
                                 getInput())
                    ->front();
  return define<DynamicQuantizeOp>(builder, getLoc(), getResultTypes(), gated,
                                   getScheme());
}

namespace {
/// Where a step's tokens lie in the pages.
struct PageOrder {
  DefinitionBuilder &d;
  Value tokenSequences, blockTables;
  int64_t headDim, pageTokens;

  /// Page of position \p position of the sequence of token \p t.
  Value page(Value t, Value position) const {
    Value sequence = d.toIndex(d.at(tokenSequences, t));
    return d.toIndex(
        d.at(blockTables, {sequence, d.div(position, pageTokens)}));
  }
  /// Last index of a key's or value's element \p k in its page.
  Value keyElement(Value position, Value k) const {
    return d.add(d.mul(k, pageTokens), d.rem(position, pageTokens));
  }
  Value valueElement(Value position, Value k) const {
    return d.add(d.mul(d.rem(position, pageTokens), headDim), k);
  }
};
} // namespace

FailureOr<Values> RopeAppendOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  int64_t headDim = getHeadDim(), half = headDim / 2;
  int64_t heads = getHeads(), kvHeads = getKvHeads();
  PageOrder pages{d, getTokenSequences(), getBlockTables(), headDim,
                  static_cast<int64_t>(getPageTokens())};
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
  auto cacheType = cast<RankedTensorType>(getCache().getType());
  auto write = [&](Value cache, Value value, Indices at) -> Value {
    Type element = cacheType.getElementType();
    if (!element.isF32())
      value = arith::TruncFOp::create(builder, getLoc(), element, value);
    return tensor::InsertOp::create(builder, getLoc(), value, cache, at);
  };
  Value tokens = d.dim(getQkv(), 0);
  Value updated = d.loop(
      d.index(0), tokens, {getCache()}, [&](Value t, ArrayRef<Value> outer) {
        Value at = position(t), page = pages.page(t, at);
        return d.loop(
            d.index(0), d.index(kvHeads), outer,
            [&](Value j, ArrayRef<Value> middle) {
              return d.loop(
                  d.index(0), d.index(headDim), middle,
                  [&](Value k, ArrayRef<Value> carried) {
                    Value keyColumn =
                        d.add(d.add(d.mul(j, headDim), k), heads * headDim);
                    Value valueColumn = d.add(keyColumn, kvHeads * headDim);
                    Value cache =
                        write(carried[0], rotated(t, keyColumn),
                              {page, d.index(0), j, pages.keyElement(at, k)});
                    cache =
                        write(cache, d.at(getQkv(), {t, valueColumn}),
                              {page, d.index(1), j, pages.valueElement(at, k)});
                    return Values{cache};
                  });
            });
      })[0];
  return Values{query, updated};
}

FailureOr<Values> PagedAttentionOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getResult().getType());
  int64_t heads = getHeads(), headDim = type.getDimSize(1) / heads;
  int64_t group = heads / static_cast<int64_t>(getKvHeads());
  PageOrder pages{d, getTokenSequences(), getBlockTables(), headDim,
                  static_cast<int64_t>(getPageTokens())};
  auto score = [&](Value t, Value h, Value u) {
    Value page = pages.page(t, u), j = d.div(h, group);
    Value dot = d.sum(d.index(0), d.index(headDim), d.f32(0), [&](Value k) {
      return d.mul(
          d.at(getQuery(), {t, d.add(d.mul(h, headDim), k)}),
          d.at(getCache(), {page, d.index(0), j, pages.keyElement(u, k)}));
    });
    return d.mul(dot, d.f32(getScale().convertToFloat()));
  };
  return Values{
      d.generate(type, d.dynamicSizesLike(type, getQuery()), [&](Indices i) {
        Value t = i[0], h = d.div(i[1], headDim), k = d.rem(i[1], headDim);
        Value end = d.add(d.toIndex(d.at(getPositions(), t)), 1);
        Value largest = d.loop(
            d.index(0), end, {d.f32(-std::numeric_limits<float>::infinity())},
            [&](Value u, ArrayRef<Value> carried) {
              return Values{d.maximum(carried[0], score(t, h, u))};
            })[0];
        Values sums =
            d.loop(d.index(0), end, {d.f32(0), d.f32(0)},
                   [&](Value u, ArrayRef<Value> carried) {
                     Value w = d.exp(d.sub(score(t, h, u), largest));
                     Value v = d.at(getCache(), {pages.page(t, u), d.index(1),
                                                 d.div(h, group),
                                                 pages.valueElement(u, k)});
                     return Values{d.add(carried[0], w),
                                   d.add(carried[1], d.mul(w, v))};
                   });
        return d.divide(sums[1], sums[0]);
      })};
}
