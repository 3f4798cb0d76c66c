//===- PackedDefinitions.cpp - Definitions of packed weights --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "QuantizedProduct.h"
#include "qlm/Dialect/GatedLinear.h"

using namespace mlir;
using namespace mlir::qlm;

using Values = SmallVector<Value>;
using Indices = ArrayRef<Value>;

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
  case LayoutKind::Float8:
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
  bool isFloat8 = isa<Float8E4M3FNType>(inputType.getElementType());
  bool integer = isFloat8 || isa<IntegerType>(inputType.getElementType());
  // One scale of a whole tensor is given to every row.
  bool repeats = (kind == LayoutKind::Scale || kind == LayoutKind::ZeroPoint) &&
                 !matrix && rows == 1;
  if (repeats)
    rows = type.getDimSize(0) * 16;

  // The stored value of (row, column): 0 outside the matrix.
  auto stored = [&](Value row, Value column) {
    Value inside =
        d.both(d.less(row, d.index(rows)), d.less(column, d.index(columns)));
    Value zero = integer ? d.i32(0) : d.f32(0);
    return d.guarded(
        inside,
        [&] {
          Values indices = {repeats ? d.index(0) : row};
          if (matrix)
            indices.push_back(column);
          if (isFloat8)
            return d.bitsAt(getInput(), indices);
          Value value = d.at(getInput(), indices);
          return offset ? d.add(value, offset) : value;
        },
        zero);
  };
  if (kind == LayoutKind::Plain)
    return Values{getInput()};
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
  if (kind != LayoutKind::Int8 && kind != LayoutKind::Int4 &&
      kind != LayoutKind::Float8)
    return value;
  // Bytes were widened as signed i32.
  value = d.rem(value, 256);
  if (!order.nibbles)
    return value;
  Value low = d.rem(value, 16), high = d.div(value, 16);
  return d.select(d.less(within, d.index(4)), low, high);
}

/// The product of a gated linear, in f32, gated.
static FailureOr<Values> decomposeGated(PackedLinearOp op, OpBuilder &builder) {
  auto type = cast<RankedTensorType>(op.getType());
  auto product = cast<PackedLinearOp>(builder.clone(*op));
  product->removeAttr(kGatedAttr);
  product.getResult().setType(
      RankedTensorType::get({type.getDimSize(0), 2 * type.getDimSize(1)},
                            Float32Type::get(op.getContext())));
  FailureOr<Values> sums = product.decompose(builder);
  product->erase();
  auto gate = SwigluOp::create(builder, op.getLoc(), type, sums->front());
  FailureOr<Values> values = gate.decompose(builder);
  gate->erase();
  return values;
}

FailureOr<Values> PackedLinearOp::decompose(OpBuilder &builder) {
  if (isGated(*this))
    return decomposeGated(*this, builder);
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  LayoutKind kind = getLayout().getKind();
  int64_t columns = getInFeatures();
  if (!getScheme()) {
    Values sizes = d.rowSizes(type, getInput());
    return Values{d.generate(type, sizes, [&](Indices i) {
      Value sum = d.sum(d.index(0), d.index(columns), d.f32(0), [&](Value k) {
        return d.mul(d.at(getInput(), {i[0], k}),
                     packedAt(d, getWeight(), kind, i[1], k));
      });
      if (getBias())
        sum = d.add(sum, d.at(getBias(), i[1]));
      if (getResidual())
        sum = d.add(sum, d.at(getResidual(), i));
      return sum;
    })};
  }
  SchemeAttr scheme = *getScheme();
  int64_t perScale = scheme.getColumnsPerScale(columns);
  int64_t offset = codeOffset(scheme.getStorage());
  TableValues table = TableValues::get(d, scheme);
  TableValues map;
  if (getSuperScales())
    map = TableValues::get(d, ::qlm::format::kDynamicMap);
  auto lane = [&](Value packed, Value n, Value group) {
    return d.at(packed, {d.div(n, 16), group, d.rem(n, 16)});
  };
  auto difference = [&](Value n, Value k) {
    Value code = packedAt(d, getWeight(), kind, n, k);
    if (table.size)
      return table.valueOf(d, code);
    if (kind == LayoutKind::Float8)
      return d.fromFloat8(code);
    if (!getZeroPoints())
      return d.sub(code, d.i32(offset));
    Value zero = d.rem(lane(getZeroPoints(), n, d.div(k, perScale)), 256);
    return d.sub(code, zero);
  };
  auto scale = [&](Value n, Value group) {
    Value stored = lane(getScales(), n, group);
    if (!getSuperScales())
      return stored;
    Value flat = d.add(d.mul(n, columns / perScale), group);
    return doubleScale(d, map, d.rem(stored, 256), getSuperScales(), flat);
  };
  return Values{buildProductOf(d, *this, columns, perScale, difference, scale)};
}
