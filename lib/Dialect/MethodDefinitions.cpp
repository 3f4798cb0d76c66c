//===- MethodDefinitions.cpp - Definitions of calibrated methods' ops -----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The searches (qlm.awq_scales, qlm.clip) and qlm.smooth_scales, which takes
// powers, are defined by qlm/Quantize/Awq.h.
//
//===----------------------------------------------------------------------===//

#include "DefinitionBuilder.h"
#include "qlm/Dialect/MethodOps.h"

using namespace mlir;
using namespace mlir::qlm;

using Values = SmallVector<Value>;
using Indices = ArrayRef<Value>;

/// The scale of \p column.
static Value scaleAt(DefinitionBuilder &d, Value scales,
                     std::optional<ArrayRef<int64_t>> heads, Value column) {
  ScaleOrder order = ScaleOrder::get(heads);
  Value first =
      d.mul(d.div(column, order.shared * order.headDim), order.headDim);
  return d.at(scales, {d.add(first, d.rem(column, order.headDim))});
}

FailureOr<Values> ScaleColumnsOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  return Values{
      d.generate(cast<RankedTensorType>(getType()), {}, [&](Indices i) {
        return d.mul(d.at(getWeight(), i),
                     scaleAt(d, getScales(), getHeads(), i[1]));
      })};
}

FailureOr<Values> TransposeOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  return Values{
      d.generate(cast<RankedTensorType>(getType()), {},
                 [&](Indices i) { return d.at(getWeight(), {i[1], i[0]}); })};
}

FailureOr<Values> ScaleRowsOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  int64_t first = getFirstRow();
  int64_t size = cast<RankedTensorType>(getScales().getType()).getDimSize(0);
  return Values{
      d.generate(cast<RankedTensorType>(getType()), {}, [&](Indices i) {
        Value inside = d.both(d.lessEqual(d.index(first), i[0]),
                              d.less(i[0], d.index(first + size)));
        Value scale = d.guarded(
            inside,
            [&] { return d.at(getScales(), {d.sub(i[0], d.index(first))}); },
            d.f32(1));
        return d.divide(d.at(getWeight(), i), scale);
      })};
}

FailureOr<Values> ScaleMomentsOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  return Values{
      d.generate(cast<RankedTensorType>(getType()), {}, [&](Indices i) {
        Value row = scaleAt(d, getScales(), getHeads(), i[0]);
        Value column = scaleAt(d, getScales(), getHeads(), i[1]);
        return d.divide(d.at(getMoments(), i), d.mul(row, column));
      })};
}

FailureOr<Values> StaticScaleOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getMagnitudes().getType());
  int64_t first = getElement().value_or(0);
  int64_t last = getElement() ? first + 1 : type.getDimSize(0);
  return Values{d.generate(cast<RankedTensorType>(getType()), {}, [&](Indices) {
    Value largest =
        d.loop(d.index(first), d.index(last), {d.f32(0)},
               [&](Value k, ArrayRef<Value> carried) {
                 Value x = d.abs(d.at(getMagnitudes(), {k}));
                 if (getScales())
                   x = d.divide(x, scaleAt(d, getScales(), getHeads(), k));
                 return Values{d.maximum(carried[0], x)};
               })[0];
    return d.select(d.isZero(largest), d.f32(1), d.divide(largest, d.f32(127)));
  })};
}

FailureOr<Values> StaticQuantizeOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getCodes().getType());
  auto scaleType = cast<RankedTensorType>(getScales().getType());
  Value scale = d.at(getScale(), {d.index(0)});
  Value scales =
      d.generate(scaleType, d.dynamicSizesLike(scaleType, getInput()),
                 [&](Indices) { return scale; });
  Value codes =
      d.generate(type, d.dynamicSizesLike(type, getInput()), [&](Indices i) {
        return d.roundClamp(d.divide(d.at(getInput(), i), scale), -127, 127);
      });
  return Values{codes, scales};
}
