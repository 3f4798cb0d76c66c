//===- DefinitionBuilder.cpp - How definitions are spelled ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DefinitionBuilder.h"

using namespace mlir;
using namespace mlir::qlm;

//===----------------------------------------------------------------------===//
// Constants and sizes
//===----------------------------------------------------------------------===//

Value DefinitionBuilder::index(int64_t value) {
  return arith::ConstantIndexOp::create(builder, loc, value);
}

Value DefinitionBuilder::f32(double value) {
  return arith::ConstantOp::create(
      builder, loc, builder.getF32FloatAttr(static_cast<float>(value)));
}

Value DefinitionBuilder::i32(int64_t value) {
  return arith::ConstantOp::create(builder, loc,
                                   builder.getI32IntegerAttr(value));
}

Value DefinitionBuilder::constantLike(Value like, int64_t value) {
  return isa<IndexType>(like.getType()) ? index(value) : i32(value);
}

Value DefinitionBuilder::dim(Value tensor, int64_t i) {
  auto type = cast<RankedTensorType>(tensor.getType());
  if (!type.isDynamicDim(i))
    return index(type.getDimSize(i));
  return tensor::DimOp::create(builder, loc, tensor, i);
}

SmallVector<Value> DefinitionBuilder::dynamicSizesLike(RankedTensorType type,
                                                       Value like) {
  SmallVector<Value> sizes;
  for (int64_t i = 0; i < type.getRank(); ++i)
    if (type.isDynamicDim(i))
      sizes.push_back(dim(like, i));
  return sizes;
}

SmallVector<Value> DefinitionBuilder::rowSizes(RankedTensorType type,
                                               Value like, int64_t i) {
  if (!type.isDynamicDim(0))
    return {};
  return {dim(like, i)};
}

//===----------------------------------------------------------------------===//
// Arithmetic of indices, i32 and f32
//===----------------------------------------------------------------------===//

Value DefinitionBuilder::add(Value a, Value b) {
  if (isa<FloatType>(a.getType()))
    return arith::AddFOp::create(builder, loc, a, b);
  return arith::AddIOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::mul(Value a, Value b) {
  if (isa<FloatType>(a.getType()))
    return arith::MulFOp::create(builder, loc, a, b);
  return arith::MulIOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::sub(Value a, Value b) {
  if (isa<FloatType>(a.getType()))
    return arith::SubFOp::create(builder, loc, a, b);
  return arith::SubIOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::div(Value a, Value b) {
  return arith::DivUIOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::rem(Value a, Value b) {
  return arith::RemUIOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::less(Value a, Value b) {
  if (isa<FloatType>(a.getType()))
    return arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OLT, a, b);
  return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt, a, b);
}

Value DefinitionBuilder::lessEqual(Value a, Value b) {
  if (isa<FloatType>(a.getType()))
    return arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OLE, a, b);
  return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::sle, a, b);
}

Value DefinitionBuilder::both(Value a, Value b) {
  return arith::AndIOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::select(Value condition, Value a, Value b) {
  return arith::SelectOp::create(builder, loc, condition, a, b);
}

Value DefinitionBuilder::smaller(Value a, Value b) {
  return arith::MinUIOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::windowStart(Value end, std::optional<uint64_t> keys) {
  if (!keys)
    return index(0);
  Value width = index(static_cast<int64_t>(*keys));
  return sub(end, smaller(end, width));
}

Value DefinitionBuilder::f64(double value) {
  return arith::ConstantOp::create(builder, loc,
                                   builder.getF64FloatAttr(value));
}

Value DefinitionBuilder::widen(Value a) {
  return arith::ExtFOp::create(builder, loc, builder.getF64Type(), a);
}

Value DefinitionBuilder::truncate(Value a) {
  return arith::TruncFOp::create(builder, loc, builder.getF32Type(), a);
}

Value DefinitionBuilder::toIndex(Value integer) {
  return arith::IndexCastOp::create(builder, loc, builder.getIndexType(),
                                    integer);
}

Value DefinitionBuilder::toF32(Value integer) {
  if (isa<IndexType>(integer.getType()))
    integer =
        arith::IndexCastOp::create(builder, loc, builder.getI64Type(), integer);
  return arith::SIToFPOp::create(builder, loc, builder.getF32Type(), integer);
}

Value DefinitionBuilder::divide(Value a, Value b) {
  return arith::DivFOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::maximum(Value a, Value b) {
  return arith::MaximumFOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::minimum(Value a, Value b) {
  return arith::MinimumFOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::abs(Value a) {
  return math::AbsFOp::create(builder, loc, a);
}

Value DefinitionBuilder::exp(Value a) {
  return math::ExpOp::create(builder, loc, a);
}

Value DefinitionBuilder::isZero(Value a) {
  return arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OEQ, a,
                               f32(0));
}

Value DefinitionBuilder::roundClamp(Value a, double lo, double hi) {
  Value rounded = math::RoundEvenOp::create(builder, loc, a);
  return minimum(maximum(rounded, f32(lo)), f32(hi));
}

Value DefinitionBuilder::silu(Value x) {
  Value negative = arith::NegFOp::create(builder, loc, x);
  return divide(x, add(f32(1), exp(negative)));
}

Value DefinitionBuilder::cosine(Value a) {
  Value wide = arith::ExtFOp::create(builder, loc, builder.getF64Type(), a);
  Value result = math::CosOp::create(builder, loc, wide);
  return arith::TruncFOp::create(builder, loc, builder.getF32Type(), result);
}

Value DefinitionBuilder::sine(Value a) {
  Value wide = arith::ExtFOp::create(builder, loc, builder.getF64Type(), a);
  Value result = math::SinOp::create(builder, loc, wide);
  return arith::TruncFOp::create(builder, loc, builder.getF32Type(), result);
}

//===----------------------------------------------------------------------===//
// Bits and tables
//===----------------------------------------------------------------------===//

Value DefinitionBuilder::toBits(Value a) {
  return arith::BitcastOp::create(builder, loc, builder.getI32Type(), a);
}

Value DefinitionBuilder::fromBits(Value a) {
  return arith::BitcastOp::create(builder, loc, builder.getF32Type(), a);
}

Value DefinitionBuilder::shiftLeft(Value a, int64_t bits) {
  return arith::ShLIOp::create(builder, loc, a, i32(bits));
}

Value DefinitionBuilder::shiftRight(Value a, int64_t bits) {
  return arith::ShRUIOp::create(builder, loc, a, i32(bits));
}

Value DefinitionBuilder::toI32(Value a) {
  return arith::FPToSIOp::create(builder, loc, builder.getI32Type(), a);
}

Value DefinitionBuilder::table(ArrayRef<float> values) {
  auto type = RankedTensorType::get({static_cast<int64_t>(values.size())},
                                    builder.getF32Type());
  return arith::ConstantOp::create(builder, loc,
                                   DenseElementsAttr::get(type, values));
}

Value DefinitionBuilder::countBelow(Value bounds, int64_t count, Value x) {
  return sum(index(0), index(count), i32(0), [&](Value i) {
    return select(less(at(bounds, {i}), x), i32(1), i32(0));
  });
}

// Four exponent bits of bias 7, three of mantissa: (8 + m) * 2^(e - 10), or
// m * 2^-9 where e is 0.
Value DefinitionBuilder::fromFloat8(Value bits) {
  Value magnitude = rem(bits, i32(128));
  Value exponent = shiftRight(magnitude, 3), mantissa = rem(magnitude, i32(8));
  Value isNormal = less(i32(0), exponent);
  Value significand = toF32(add(mantissa, select(isNormal, i32(8), i32(0))));
  Value power = add(select(isNormal, exponent, i32(1)), i32(127 - 10));
  Value value = mul(significand, fromBits(shiftLeft(power, 23)));
  return select(less(i32(127), bits), sub(f32(0), value), value);
}

// In units of the last place, 2^(e - 3) with e at least -6, the magnitude
// rounds to an integer of at most 16; a 16 carries into the exponent.
Value DefinitionBuilder::toFloat8(Value x) {
  Value magnitude = minimum(abs(x), f32(448));
  Value biased = shiftRight(toBits(magnitude), 23); // e + 127
  biased = select(less(biased, i32(121)), i32(121), biased);
  // Multiplied by 2^(3 - e).
  Value inverse = fromBits(shiftLeft(sub(i32(257), biased), 23));
  Value units =
      toI32(math::RoundEvenOp::create(builder, loc, mul(magnitude, inverse)));
  Value exponent = sub(biased, i32(120)); // e + 7
  Value code = sub(add(shiftLeft(exponent, 3), units), i32(8));
  Value sign = shiftLeft(shiftRight(toBits(x), 31), 7);
  return add(code, sign);
}

Value DefinitionBuilder::roundTo(Value a, Type type) {
  if (type.isF32())
    return a;
  return arith::ExtFOp::create(
      builder, loc, builder.getF32Type(),
      arith::TruncFOp::create(builder, loc, type, a).getResult());
}

//===----------------------------------------------------------------------===//
// Tensors and loops
//===----------------------------------------------------------------------===//

Value DefinitionBuilder::at(Value tensor, Indices indices) {
  // No machine type: by its bits.
  if (isa<Float8E4M3FNType>(
          cast<RankedTensorType>(tensor.getType()).getElementType()))
    return fromFloat8(bitsAt(tensor, indices));
  Value value = tensor::ExtractOp::create(builder, loc, tensor, indices);
  Type type = value.getType();
  if (isa<FloatType>(type))
    return type.isF32() ? value
                        : arith::ExtFOp::create(builder, loc,
                                                builder.getF32Type(), value)
                              .getResult();
  auto integer = cast<IntegerType>(type);
  if (integer.getWidth() == 32)
    return value;
  if (!integer.isUnsigned())
    return arith::ExtSIOp::create(builder, loc, builder.getI32Type(), value);
  // Arithmetic is on signless integers.
  auto signless = builder.getIntegerType(integer.getWidth());
  value = UnrealizedConversionCastOp::create(builder, loc, signless, value)
              .getResult(0);
  return arith::ExtUIOp::create(builder, loc, builder.getI32Type(), value);
}

Value DefinitionBuilder::bitsAt(Value tensor, Indices indices) {
  Value value = tensor::ExtractOp::create(builder, loc, tensor, indices);
  value = arith::BitcastOp::create(builder, loc, builder.getI8Type(), value);
  return arith::ExtUIOp::create(builder, loc, builder.getI32Type(), value);
}

Value DefinitionBuilder::narrow(Value value, Type type) {
  if (value.getType() == type)
    return value;
  if (isa<Float8E4M3FNType>(type)) {
    Value bits = isa<FloatType>(value.getType()) ? toFloat8(value) : value;
    bits = arith::TruncIOp::create(builder, loc, builder.getI8Type(), bits);
    return arith::BitcastOp::create(builder, loc, type, bits);
  }
  if (isa<FloatType>(type))
    return arith::TruncFOp::create(builder, loc, type, value);
  auto integer = cast<IntegerType>(type);
  if (isa<FloatType>(value.getType()))
    value = arith::FPToSIOp::create(builder, loc, builder.getI32Type(), value);
  if (integer.getWidth() == 32)
    return value;
  value = arith::TruncIOp::create(
      builder, loc, builder.getIntegerType(integer.getWidth()), value);
  if (!integer.isUnsigned())
    return value;
  return UnrealizedConversionCastOp::create(builder, loc, type, value)
      .getResult(0);
}

Value DefinitionBuilder::generate(RankedTensorType type,
                                  ArrayRef<Value> dynamicSizes,
                                  ElementFn element) {
  auto op = tensor::GenerateOp::create(
      builder, loc, type, dynamicSizes,
      [&](OpBuilder &, Location, ValueRange indices) {
        // The callback's builder is `builder`, now inside the body.
        SmallVector<Value> values(indices);
        Value value = narrow(element(values), type.getElementType());
        tensor::YieldOp::create(builder, loc, value);
      });
  return op;
}

SmallVector<Value> DefinitionBuilder::loop(Value lo, Value hi,
                                           ArrayRef<Value> init, StepFn step) {
  auto op = scf::ForOp::create(
      builder, loc, lo, hi, index(1), init,
      [&](OpBuilder &, Location, Value k, ValueRange carried) {
        SmallVector<Value> values(carried);
        scf::YieldOp::create(builder, loc, step(k, values));
      });
  return SmallVector<Value>(op.getResults());
}

Value DefinitionBuilder::sum(Value lo, Value hi, Value zero,
                             llvm::function_ref<Value(Value)> term) {
  return loop(lo, hi, {zero}, [&](Value k, ArrayRef<Value> carried) {
    return SmallVector<Value>{add(carried[0], term(k))};
  })[0];
}

Value DefinitionBuilder::guarded(Value condition,
                                 llvm::function_ref<Value()> then,
                                 Value otherwise) {
  auto op = scf::IfOp::create(builder, loc, otherwise.getType(), condition,
                              /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(op.thenBlock());
  scf::YieldOp::create(builder, loc, then());
  builder.setInsertionPointToStart(op.elseBlock());
  scf::YieldOp::create(builder, loc, otherwise);
  return op.getResult(0);
}
