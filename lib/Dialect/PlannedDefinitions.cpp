//===- PlannedDefinitions.cpp - Definitions of the planned step -----------===//
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
                                   getScheme(), getThresholdAttr());
}

FailureOr<Values> SwigluQuantizeOp::decompose(OpBuilder &builder) {
  Value gated = define<SwigluOp>(builder, getLoc(), getRoundedType(getCodes()),
                                 getInput())
                    ->front();
  return define<DynamicQuantizeOp>(builder, getLoc(), getResultTypes(), gated,
                                   getScheme(), getThresholdAttr());
}
