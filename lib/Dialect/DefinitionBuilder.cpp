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
  return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::sle, a, b);
}

Value DefinitionBuilder::both(Value a, Value b) {
  return arith::AndIOp::create(builder, loc, a, b);
}

Value DefinitionBuilder::select(Value condition, Value a, Value b) {
  return arith::SelectOp::create(builder, loc, condition, a, b);
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

Value DefinitionBuilder::narrow(Value value, Type type) {
  if (value.getType() == type)
    return value;
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
