//===- QuantizationDefinitions.cpp - Definitions of codes and scales ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "QuantizedProduct.h"

using namespace mlir;
using namespace mlir::qlm;

using Values = SmallVector<Value>;
using Indices = ArrayRef<Value>;

/// Indices of the scale of the value at row \p i, column \p k.
static Values scaleIndices(DefinitionBuilder &d, SchemeAttr scheme, Value i,
                           Value k) {
  switch (scheme.getGranularity()) {
  case Granularity::Tensor:
    return {d.index(0)};
  case Granularity::Channel:
  case Granularity::Row:
    return {i};
  case Granularity::Group:
    return {i, d.div(k, scheme.getGroupSize())};
  }
  llvm_unreachable("unknown granularity");
}

/// clamp(round(x / scale) + zeroPoint, lo, hi) as f32; the zero point where
/// the scale is 0.
static Value codeOf(DefinitionBuilder &d, SchemeAttr scheme,
                    const TableValues &table, Value x, Value scale,
                    Value zeroPoint) {
  if (table.size)
    return table.codeOf(d, x, scale);
  if (scheme.getCodebook() == Codebook::Float8)
    return d.select(d.isZero(scale), d.f32(0), d.divide(x, scale));
  Value rounded = d.roundClamp(d.divide(x, scale), -65536, 65536);
  Value code =
      d.maximum(d.minimum(d.add(rounded, zeroPoint), d.f32(scheme.getHi())),
                d.f32(scheme.getLo()));
  return d.select(d.isZero(scale), zeroPoint, code);
}

/// The zero point of the value at (i, k), as f32; 0 without zero points.
static Value zeroPointAt(DefinitionBuilder &d, SchemeAttr scheme,
                         Value zeroPoints, Value i, Value k) {
  if (!zeroPoints)
    return d.f32(0);
  return d.toF32(d.at(zeroPoints, scaleIndices(d, scheme, i, k)));
}

FailureOr<Values> ConvertOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  return Values{d.generate(type, d.dynamicSizesLike(type, getInput()),
                           [&](Indices i) { return d.at(getInput(), i); })};
}

FailureOr<Values> RopeTableOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  return Values{
      d.generate(cast<RankedTensorType>(getType()), {}, [&](Indices i) {
        Value angle = d.mul(d.toF32(i[0]), d.at(getInverseFrequencies(), i[1]));
        return d.select(d.less(i[2], d.index(1)), d.cosine(angle),
                        d.sine(angle));
      })};
}

FailureOr<Values> RtnOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  SchemeAttr scheme = getScheme();
  Value weight = getWeight();
  int64_t rows = getWeight().getType().getDimSize(0);
  int64_t columns = getWeight().getType().getDimSize(1);
  int64_t perScale = scheme.getColumnsPerScale(columns);
  TableValues table = TableValues::get(d, scheme);
  bool perTensor = scheme.getGranularity() == Granularity::Tensor;

  // Smallest and largest value that share the scale at `i`, with 0.
  auto rangeAt = [&](Indices i) {
    Value firstRow = perTensor ? d.index(0) : i[0];
    Value lastRow = perTensor ? d.index(rows) : d.add(i[0], 1);
    Value first = i.size() == 2 ? d.mul(i[1], perScale) : d.index(0);
    Value last = d.add(first, perScale);
    return d.loop(firstRow, lastRow, {d.f32(0), d.f32(0)},
                  [&](Value row, ArrayRef<Value> outer) {
                    return d.loop(first, last, outer,
                                  [&](Value k, ArrayRef<Value> carried) {
                                    Value x = d.at(weight, {row, k});
                                    return Values{d.minimum(carried[0], x),
                                                  d.maximum(carried[1], x)};
                                  });
                  });
  };
  auto scaleType = cast<RankedTensorType>(getScales().getType());
  Value scales = d.generate(scaleType, {}, [&](Indices i) {
    Values range = rangeAt(i);
    if (scheme.getZeroPoints())
      return d.divide(d.sub(range[1], range[0]), d.f32(scheme.getHi()));
    Value absmax = d.maximum(d.sub(d.f32(0), range[0]), range[1]);
    if (table.size)
      return absmax;
    return d.divide(absmax, d.f32(scheme.getBoundValue()));
  });

  Values results;
  Value zeroPoints;
  if (scheme.getZeroPoints()) {
    zeroPoints = d.generate(
        cast<RankedTensorType>(getZeroPoints().getType()), {}, [&](Indices i) {
          Value scale = d.at(scales, i);
          Value negative = d.sub(d.f32(0), rangeAt(i)[0]);
          Value rounded =
              d.roundClamp(d.divide(negative, scale), 0, scheme.getHi());
          return d.select(d.isZero(scale), d.f32(0), rounded);
        });
  }
  Value codes = d.generate(
      cast<RankedTensorType>(getCodes().getType()), {}, [&](Indices i) {
        Value scale = d.at(scales, scaleIndices(d, scheme, i[0], i[1]));
        Value zero = zeroPointAt(d, scheme, zeroPoints, i[0], i[1]);
        Value code = codeOf(d, scheme, table, d.at(weight, i), scale, zero);
        if (table.size)
          return code;
        return d.select(d.isZero(scale), d.f32(0), code);
      });
  results = {codes, scales};
  if (zeroPoints)
    results.push_back(zeroPoints);
  return results;
}

FailureOr<Values> QuantizeOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getCodes().getType());
  TableValues table = TableValues::get(d, getScheme());
  return Values{
      d.generate(type, d.dynamicSizesLike(type, getInput()), [&](Indices i) {
        Value scale =
            d.at(getScales(), scaleIndices(d, getScheme(), i[0], i[1]));
        return codeOf(d, getScheme(), table, d.at(getInput(), i), scale,
                      zeroPointAt(d, getScheme(), getZeroPoints(), i[0], i[1]));
      })};
}

/// \p value, or what the list has for row \p i and column \p k.
static Value replaceOutlier(DefinitionBuilder &d, const OutlierList &list,
                            Value i, Value k, Value value) {
  return d.loop(
      d.index(0), list.count(d, i), {value},
      [&](Value j, ArrayRef<Value> carried) {
        Value column = list.column(d, i, j);
        Value isHere = d.both(d.lessEqual(column, k), d.lessEqual(k, column));
        return Values{d.select(isHere, list.value(d, i, j), carried[0])};
      })[0];
}

FailureOr<Values> DequantizeOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  TableValues table = TableValues::get(d, getScheme());
  return Values{
      d.generate(type, d.dynamicSizesLike(type, getCodes()), [&](Indices i) {
        Value code = d.at(getCodes(), i);
        Value scale =
            d.at(getScales(), scaleIndices(d, getScheme(), i[0], i[1]));
        if (table.size)
          return d.mul(table.valueOf(d, code), scale);
        if (!getScheme().isUniform())
          return d.mul(code, scale);
        Value zero = zeroPointAt(d, getScheme(), getZeroPoints(), i[0], i[1]);
        Value value = d.mul(d.sub(d.toF32(code), zero), scale);
        if (!getOutliers())
          return value;
        return replaceOutlier(d, OutlierList(getOutliers()), i[0], i[1], value);
      })};
}

/// The mean of \p scales, summed in f64 in row-major order, as f32.
static Value meanOf(DefinitionBuilder &d, Value scales) {
  auto type = cast<RankedTensorType>(scales.getType());
  int64_t rows = type.getDimSize(0), groups = type.getDimSize(1);
  Value total =
      d.loop(d.index(0), d.index(rows), {d.f64(0)},
             [&](Value n, ArrayRef<Value> outer) {
               return d.loop(d.index(0), d.index(groups), outer,
                             [&](Value g, ArrayRef<Value> carried) {
                               Value scale = d.widen(d.at(scales, {n, g}));
                               return Values{d.add(carried[0], scale)};
                             });
             })[0];
  double count = static_cast<double>(rows * groups);
  return d.truncate(d.divide(total, d.f64(count)));
}

FailureOr<Values> QuantizeScalesOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getScales().getType());
  int64_t groups = type.getDimSize(1), count = type.getNumElements();
  constexpr int64_t kBlock = ::qlm::format::kDoubleBlock;
  Value offset = meanOf(d, getScales());
  auto centred = [&](Value flat) {
    Value scale = d.at(getScales(), {d.div(flat, groups), d.rem(flat, groups)});
    return d.sub(scale, offset);
  };
  Value super = d.generate(
      cast<RankedTensorType>(getSuper().getType()), {}, [&](Indices i) {
        Value isBlock = d.less(d.index(0), i[0]);
        return d.guarded(
            isBlock,
            [&] {
              Value first = d.mul(d.sub(i[0], d.index(1)), kBlock);
              Value end = d.smaller(d.add(first, kBlock), d.index(count));
              return d.loop(first, end, {d.f32(0)},
                            [&](Value k, ArrayRef<Value> carried) {
                              Value magnitude = d.abs(centred(k));
                              return Values{d.maximum(carried[0], magnitude)};
                            })[0];
            },
            offset);
      });
  TableValues map = TableValues::get(d, ::qlm::format::kDynamicMap);
  Value codes = d.generate(
      cast<RankedTensorType>(getCodes().getType()), {}, [&](Indices i) {
        Value flat = d.add(d.mul(i[0], groups), i[1]);
        Value absmax = d.at(super, {d.add(d.div(flat, kBlock), 1)});
        return map.codeOf(d, centred(flat), absmax);
      });
  return Values{codes, super};
}

FailureOr<Values> DequantizeScalesOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  TableValues map = TableValues::get(d, ::qlm::format::kDynamicMap);
  return Values{d.generate(type, {}, [&](Indices i) {
    Value flat = d.add(d.mul(i[0], type.getDimSize(1)), i[1]);
    return doubleScale(d, map, d.at(getCodes(), i), getSuper(), flat);
  })};
}

/// The lists of what reaches \p threshold in \p input, of type \p type.
static Value listOutliers(DefinitionBuilder &d, RankedTensorType type,
                          Value input,
                          llvm::function_ref<Value(Value)> isOutlier) {
  int64_t features = (type.getDimSize(1) - 1) / 2;
  return d.generate(type, d.dynamicSizesLike(type, input), [&](Indices i) {
    // The place in the list that this element tells the column or value of.
    Value isColumn = d.less(i[1], d.index(1 + features));
    Value place = d.select(isColumn, d.sub(i[1], d.index(1)),
                           d.sub(i[1], d.index(1 + features)));
    Values found =
        d.loop(d.index(0), d.index(features), {d.index(0), d.f32(0)},
               [&](Value k, ArrayRef<Value> carried) {
                 Value x = d.at(input, {i[0], k}), count = carried[0];
                 Value is = isOutlier(x);
                 Value isHere = d.both(is, d.both(d.lessEqual(count, place),
                                                  d.lessEqual(place, count)));
                 Value told = d.select(isColumn, d.toF32(k), x);
                 return Values{d.select(is, d.add(count, 1), count),
                               d.select(isHere, told, carried[1])};
               });
    return d.select(d.less(i[1], d.index(1)), d.toF32(found[0]), found[1]);
  });
}

FailureOr<Values> DynamicQuantizeOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  Value bound = d.f32(getScheme().getBoundValue());
  auto isOutlier = [&](Value x) {
    return d.lessEqual(d.f32(getThreshold()->convertToFloat()), d.abs(x));
  };
  // What is left of an element when outliers are taken out.
  auto rest = [&](Value x) {
    return getThreshold() ? d.select(isOutlier(x), d.f32(0), x) : x;
  };
  auto type = cast<RankedTensorType>(getCodes().getType());
  auto scaleType = cast<RankedTensorType>(getScales().getType());
  Value absmax = d.generate(
      scaleType, d.dynamicSizesLike(scaleType, getInput()), [&](Indices i) {
        return d.loop(d.index(0), d.dim(getInput(), 1), {d.f32(0)},
                      [&](Value k, ArrayRef<Value> carried) {
                        Value x = rest(d.at(getInput(), {i[0], k}));
                        return Values{d.maximum(carried[0], d.abs(x))};
                      })[0];
      });
  Value scales =
      d.generate(scaleType, d.dynamicSizesLike(scaleType, getInput()),
                 [&](Indices i) { return d.divide(d.at(absmax, i), bound); });
  Value codes =
      d.generate(type, d.dynamicSizesLike(type, getInput()), [&](Indices i) {
        Value largest = d.at(absmax, i[0]);
        Value code = d.mul(rest(d.at(getInput(), i)), d.divide(bound, largest));
        // An f8E4M3FN is rounded as it is stored.
        if (getScheme().isUniform())
          code = d.roundClamp(code, getScheme().getLo(), getScheme().getHi());
        return d.select(d.isZero(largest), d.f32(0), code);
      });
  Values results = {codes, scales};
  if (getOutliers())
    results.push_back(
        listOutliers(d, cast<RankedTensorType>(getOutliers().getType()),
                     getInput(), isOutlier));
  return results;
}

FailureOr<Values> QuantizedLinearOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  SchemeAttr scheme = getScheme();
  int64_t columns = getCodes().getType().getDimSize(1);
  int64_t perScale = scheme.getColumnsPerScale(columns);
  TableValues table = TableValues::get(d, scheme);
  auto scaleAt = [&](Value values, Value n, Value group) {
    return d.at(values, scaleIndices(d, scheme, n, d.mul(group, perScale)));
  };
  auto difference = [&](Value n, Value k) {
    Value code = d.at(getCodes(), {n, k});
    if (table.size)
      return table.valueOf(d, code);
    if (!getZeroPoints())
      return code;
    return d.sub(code, scaleAt(getZeroPoints(), n, d.div(k, perScale)));
  };
  auto scale = [&](Value n, Value group) {
    return scaleAt(getScales(), n, group);
  };
  return Values{buildProductOf(d, *this, columns, perScale, difference, scale)};
}
