//===- QuantizationDefinitions.cpp - Definitions of codes and scales ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DefinitionBuilder.h"

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
static Value codeOf(DefinitionBuilder &d, SchemeAttr scheme, Value x,
                    Value scale, Value zeroPoint) {
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
  return Values{d.generate(cast<RankedTensorType>(getType()), {},
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
        Value code = codeOf(d, scheme, d.at(weight, i), scale, zero);
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
  return Values{
      d.generate(type, d.dynamicSizesLike(type, getInput()), [&](Indices i) {
        Value scale =
            d.at(getScales(), scaleIndices(d, getScheme(), i[0], i[1]));
        return codeOf(d, getScheme(), d.at(getInput(), i), scale,
                      zeroPointAt(d, getScheme(), getZeroPoints(), i[0], i[1]));
      })};
}

FailureOr<Values> DequantizeOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  return Values{
      d.generate(type, d.dynamicSizesLike(type, getCodes()), [&](Indices i) {
        Value code = d.toF32(d.at(getCodes(), i));
        Value zero = zeroPointAt(d, getScheme(), getZeroPoints(), i[0], i[1]);
        Value scale =
            d.at(getScales(), scaleIndices(d, getScheme(), i[0], i[1]));
        return d.mul(d.sub(code, zero), scale);
      })};
}

FailureOr<Values> DynamicQuantizeOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getCodes().getType());
  auto scaleType = cast<RankedTensorType>(getScales().getType());
  Value absmax = d.generate(
      scaleType, d.dynamicSizesLike(scaleType, getInput()), [&](Indices i) {
        return d.loop(d.index(0), d.dim(getInput(), 1), {d.f32(0)},
                      [&](Value k, ArrayRef<Value> carried) {
                        Value x = d.at(getInput(), {i[0], k});
                        return Values{d.maximum(carried[0], d.abs(x))};
                      })[0];
      });
  Value scales = d.generate(
      scaleType, d.dynamicSizesLike(scaleType, getInput()),
      [&](Indices i) { return d.divide(d.at(absmax, i), d.f32(127)); });
  Value codes =
      d.generate(type, d.dynamicSizesLike(type, getInput()), [&](Indices i) {
        Value largest = d.at(absmax, i[0]);
        Value inverse = d.divide(d.f32(127), largest);
        Value code =
            d.roundClamp(d.mul(d.at(getInput(), i), inverse), -127, 127);
        return d.select(d.isZero(largest), d.f32(0), code);
      });
  return Values{codes, scales};
}

/// Operands of a quantized product, however its weight is stored.
struct QuantizedProduct {
  Value input, inputScales, residual;
  int64_t groups, perScale;
  /// Code minus zero point of (n, k) as i32; scale of (n, group) and bias of
  /// n as f32 (bias may be empty).
  llvm::function_ref<Value(Value, Value)> difference;
  llvm::function_ref<Value(Value, Value)> scale;
  llvm::function_ref<Value(Value)> bias;
};

static Value buildQuantizedProduct(DefinitionBuilder &d, RankedTensorType type,
                                   const QuantizedProduct &p) {
  Values sizes = d.rowSizes(type, p.input);
  return d.generate(type, sizes, [&](Indices i) {
    Value sum =
        d.sum(d.index(0), d.index(p.groups), d.f32(0), [&](Value group) {
          Value first = d.mul(group, p.perScale);
          Value last = d.add(first, p.perScale);
          Value zero = p.inputScales ? d.i32(0) : d.f32(0);
          Value inner = d.sum(first, last, zero, [&](Value k) {
            Value difference = p.difference(i[1], k);
            if (!p.inputScales)
              difference = d.toF32(difference);
            return d.mul(d.at(p.input, {i[0], k}), difference);
          });
          if (p.inputScales)
            inner = d.toF32(inner);
          return d.mul(inner, p.scale(i[1], group));
        });
    if (p.inputScales)
      sum = d.mul(sum, d.at(p.inputScales, i[0]));
    if (p.bias)
      sum = d.add(sum, p.bias(i[1]));
    if (p.residual)
      sum = d.add(sum, d.at(p.residual, i));
    return sum;
  });
}

FailureOr<Values> QuantizedLinearOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  SchemeAttr scheme = getScheme();
  int64_t columns = getCodes().getType().getDimSize(1);
  int64_t perScale = scheme.getColumnsPerScale(columns);
  auto scaleAt = [&](Value values, Value n, Value group) {
    return d.at(values, scaleIndices(d, scheme, n, d.mul(group, perScale)));
  };
  auto difference = [&](Value n, Value k) {
    Value code = d.at(getCodes(), {n, k});
    if (!getZeroPoints())
      return code;
    return d.sub(code, scaleAt(getZeroPoints(), n, d.div(k, perScale)));
  };
  auto scale = [&](Value n, Value group) {
    return scaleAt(getScales(), n, group);
  };
  auto bias = [&](Value n) { return d.at(getBias(), n); };
  QuantizedProduct product{
      getInput(), getInputScales(), getResidual(), columns / perScale,
      perScale,   difference,       scale,         {}};
  if (getBias())
    product.bias = bias;
  return Values{
      buildQuantizedProduct(d, cast<RankedTensorType>(getType()), product)};
}

//===----------------------------------------------------------------------===//
// Packed weights
//===----------------------------------------------------------------------===//

/// How a packed matrix of one layout is indexed: within block b, line j holds
/// `perLine` columns of 16 rows.
struct PackedOrder {
  int64_t perLine;
  bool nibbles;
};

static PackedOrder packedOrder(LayoutKind kind) {
  switch (kind) {
  case LayoutKind::BFloat16:
    return {2, false};
  case LayoutKind::Int8:
    return {4, false};
  case LayoutKind::Int4:
    return {8, true};
  default:
    return {1, false};
  }
}

/// The offset that makes codes of \p storage unsigned.
static int64_t codeOffset(Type storage) {
  auto integer = dyn_cast<IntegerType>(storage);
  if (!integer || integer.isUnsigned())
    return 0;
  return int64_t(1) << (integer.getWidth() - 1);
}

FailureOr<Values> PackOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  auto inputType = cast<RankedTensorType>(getInput().getType());
  LayoutKind kind = getLayout().getKind();
  int64_t rows = inputType.getDimSize(0);
  bool matrix = inputType.getRank() == 2;
  int64_t columns = matrix ? inputType.getDimSize(1) : 1;
  int64_t offset = codeOffset(inputType.getElementType());
  bool integer = isa<IntegerType>(inputType.getElementType());

  // The stored value of (row, column): 0 outside the matrix.
  auto stored = [&](Value row, Value column) {
    Value inside =
        d.both(d.less(row, d.index(rows)), d.less(column, d.index(columns)));
    Value zero = integer ? d.i32(0) : d.f32(0);
    return d.guarded(
        inside,
        [&] {
          Values indices = {row};
          if (matrix)
            indices.push_back(column);
          Value value = d.at(getInput(), indices);
          return offset ? d.add(value, offset) : value;
        },
        zero);
  };
  if (kind == LayoutKind::Bias)
    return Values{d.generate(
        type, {}, [&](Indices i) { return stored(i[0], d.index(0)); })};
  PackedOrder order = packedOrder(kind);
  return Values{d.generate(type, {}, [&](Indices i) {
    int64_t bytes = order.nibbles ? 4 : order.perLine;
    Value row = d.add(d.mul(i[0], 16), d.div(i[2], bytes));
    Value column = d.add(d.mul(i[1], order.perLine), d.rem(i[2], bytes));
    Value low = stored(row, column);
    if (!order.nibbles)
      return low;
    return d.add(low, d.mul(stored(row, d.add(column, 4)), 16));
  })};
}

/// The stored value of (n, k) of a packed matrix, codes as unsigned i32.
static Value packedAt(DefinitionBuilder &d, Value packed, LayoutKind kind,
                      Value n, Value k) {
  PackedOrder order = packedOrder(kind);
  int64_t bytes = order.nibbles ? 4 : order.perLine;
  Value within = d.rem(k, order.perLine);
  Value lane = d.add(d.mul(d.rem(n, 16), bytes), d.rem(within, bytes));
  Value value = d.at(packed, {d.div(n, 16), d.div(k, order.perLine), lane});
  if (kind != LayoutKind::Int8 && kind != LayoutKind::Int4)
    return value;
  // Bytes were widened as signed i32.
  value = d.rem(value, 256);
  if (!order.nibbles)
    return value;
  Value low = d.rem(value, 16), high = d.div(value, 16);
  return d.select(d.less(within, d.index(4)), low, high);
}

FailureOr<Values> PackedLinearOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  LayoutKind kind = getLayout().getKind();
  int64_t columns = getInFeatures();
  auto bias = [&](Value n) { return d.at(getBias(), n); };
  if (!getScheme()) {
    Values sizes = d.rowSizes(type, getInput());
    return Values{d.generate(type, sizes, [&](Indices i) {
      Value sum = d.sum(d.index(0), d.index(columns), d.f32(0), [&](Value k) {
        return d.mul(d.at(getInput(), {i[0], k}),
                     packedAt(d, getWeight(), kind, i[1], k));
      });
      if (getBias())
        sum = d.add(sum, bias(i[1]));
      if (getResidual())
        sum = d.add(sum, d.at(getResidual(), i));
      return sum;
    })};
  }
  SchemeAttr scheme = *getScheme();
  int64_t perScale = scheme.getColumnsPerScale(columns);
  int64_t offset = codeOffset(scheme.getStorage());
  auto lane = [&](Value packed, Value n, Value group) {
    return d.at(packed, {d.div(n, 16), group, d.rem(n, 16)});
  };
  auto difference = [&](Value n, Value k) {
    Value code = packedAt(d, getWeight(), kind, n, k);
    if (!getZeroPoints())
      return d.sub(code, d.i32(offset));
    Value zero = d.rem(lane(getZeroPoints(), n, d.div(k, perScale)), 256);
    return d.sub(code, zero);
  };
  auto scale = [&](Value n, Value group) {
    return lane(getScales(), n, group);
  };
  QuantizedProduct product{
      getInput(), getInputScales(), getResidual(), columns / perScale,
      perScale,   difference,       scale,         {}};
  if (getBias())
    product.bias = bias;
  return Values{buildQuantizedProduct(d, type, product)};
}
