//===- Builder.cpp - Writes a kernel as it reads ----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Kernel/Builder.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "qlm/Package/Format.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

void kernel::registerKernelDialects(DialectRegistry &registry) {
  registry.insert<arith::ArithDialect, func::FuncDialect, LLVM::LLVMDialect,
                  math::MathDialect, scf::SCFDialect, vector::VectorDialect>();
}

//===----------------------------------------------------------------------===//
// Constants
//===----------------------------------------------------------------------===//

static Val makeConstant(KernelBuilder &b, Type type, Attribute scalar) {
  TypedAttr attribute = cast<TypedAttr>(scalar);
  if (auto vector = dyn_cast<VectorType>(type))
    attribute = DenseElementsAttr::get(vector, scalar);
  return b.val(arith::ConstantOp::create(b, b.getLoc(), attribute));
}

Val KernelBuilder::constant(Type type, int64_t number) {
  Type element = getElementTypeOrSelf(type);
  if (isa<FloatType>(element))
    return constant(type, static_cast<double>(number));
  APInt bits(element.getIntOrFloatBitWidth(), number, /*isSigned=*/false,
             /*implicitTrunc=*/true);
  return makeConstant(*this, type, IntegerAttr::get(element, bits));
}

Val KernelBuilder::constant(Type type, double number) {
  Type element = getElementTypeOrSelf(type);
  return makeConstant(*this, type, getFloatAttr(element, number));
}

Val KernelBuilder::zero(Type type) { return constant(type, int64_t(0)); }

Val KernelBuilder::table(ArrayRef<float> values) {
  auto type = vec(values.size(), f32());
  return val(arith::ConstantOp::create(*this, loc,
                                       DenseElementsAttr::get(type, values)));
}

Val KernelBuilder::table(Type elementType, ArrayRef<int64_t> values) {
  SmallVector<Attribute> attributes;
  for (int64_t value : values)
    attributes.push_back(getIntegerAttr(elementType, value));
  auto type = vec(values.size(), elementType);
  return val(arith::ConstantOp::create(
      *this, loc, DenseElementsAttr::get(type, attributes)));
}

Val KernelBuilder::firstLanes(int64_t lanes, int64_t count) {
  SmallVector<bool> bits(lanes);
  for (int64_t i = 0; i < lanes; ++i)
    bits[i] = i < count;
  auto type = vec(lanes, i1());
  return val(arith::ConstantOp::create(*this, loc,
                                       DenseElementsAttr::get(type, bits)));
}

Val KernelBuilder::firstLanes(int64_t lanes, Val count) {
  SmallVector<int64_t> numbers(lanes);
  for (int64_t i = 0; i < lanes; ++i)
    numbers[i] = i;
  Val bound = max(min(count, index(lanes)), index(0));
  return table(i32(), numbers) < broadcast(truncate(bound, i32()), lanes);
}

//===----------------------------------------------------------------------===//
// Vectors
//===----------------------------------------------------------------------===//

Val KernelBuilder::broadcast(Val scalar, int64_t lanes) {
  if (lanes == 1)
    return scalar;
  return val(vector::BroadcastOp::create(*this, loc, vec(lanes, scalar.type()),
                                         scalar.get()));
}

Val KernelBuilder::shuffle(Val a, Val b, ArrayRef<int64_t> lanes) {
  return val(vector::ShuffleOp::create(*this, loc, a.get(), b.get(), lanes));
}

Val KernelBuilder::slice(Val value, int64_t first, int64_t count) {
  SmallVector<int64_t> lanes(count);
  for (int64_t i = 0; i < count; ++i)
    lanes[i] = first + i;
  return shuffle(value, value, lanes);
}

Val KernelBuilder::concat(Val a, Val b) {
  SmallVector<int64_t> lanes(a.lanes() + b.lanes());
  for (size_t i = 0; i < lanes.size(); ++i)
    lanes[i] = i;
  return shuffle(a, b, lanes);
}

Val KernelBuilder::insert(Val vector, Val scalar, int64_t lane) {
  return val(
      vector::InsertOp::create(*this, loc, scalar.get(), vector.get(), lane));
}

template <typename Combine>
static Val reduce(KernelBuilder &b, Val v, Combine fn) {
  while (v.lanes() > 1) {
    int64_t half = v.lanes() / 2;
    v = fn(b.slice(v, 0, half), b.slice(v, half, half));
  }
  return v.lane(0);
}

Val KernelBuilder::reduceSum(Val vector) {
  return reduce(*this, vector, [](Val a, Val b) { return a + b; });
}

Val KernelBuilder::reduceMax(Val vector) {
  return reduce(*this, vector, [&](Val a, Val b) { return max(a, b); });
}

Val KernelBuilder::countLanes(Val mask) {
  Type bits = getIntegerType(mask.lanes());
  Val word = val(LLVM::BitcastOp::create(*this, loc, bits, mask.get()));
  Val count = val(LLVM::CtPopOp::create(*this, loc, bits, word.get()));
  return extendUnsigned(count, i64());
}

//===----------------------------------------------------------------------===//
// Control flow
//===----------------------------------------------------------------------===//

void KernelBuilder::forRange(Val lo, Val hi, int64_t step,
                             function_ref<void(Val)> body) {
  forRange(lo, hi, step, {}, [&](Val i, ArrayRef<Val>) {
    body(i);
    return SmallVector<Val>();
  });
}

/// The values as MLIR takes them.
static SmallVector<Value> unwrap(ArrayRef<Val> values) {
  SmallVector<Value> result;
  for (Val v : values)
    result.push_back(v.get());
  return result;
}

static SmallVector<Val> wrap(KernelBuilder &b, ValueRange values) {
  SmallVector<Val> result;
  for (Value v : values)
    result.push_back(b.val(v));
  return result;
}

SmallVector<Val> KernelBuilder::forRange(
    Val lo, Val hi, int64_t step, ArrayRef<Val> init,
    function_ref<SmallVector<Val>(Val, ArrayRef<Val>)> body) {
  Val stride = constantLike(lo, step);
  auto loop = scf::ForOp::create(*this, loc, lo.get(), hi.get(), stride.get(),
                                 unwrap(init));
  OpBuilder::InsertionGuard guard(*this);
  // A loop without carried values comes with its terminator.
  if (init.empty())
    setInsertionPoint(loop.getBody()->getTerminator());
  else
    setInsertionPointToEnd(loop.getBody());
  SmallVector<Val> next =
      body(val(loop.getInductionVar()), wrap(*this, loop.getRegionIterArgs()));
  if (!init.empty())
    scf::YieldOp::create(*this, loc, unwrap(next));
  return wrap(*this, loop.getResults());
}

SmallVector<Val>
KernelBuilder::whileTrue(ArrayRef<Val> init,
                         function_ref<Val(ArrayRef<Val>)> condition,
                         function_ref<SmallVector<Val>(ArrayRef<Val>)> body) {
  SmallVector<Value> start = unwrap(init);
  OpBuilder::InsertionGuard guard(*this);
  auto loop = scf::WhileOp::create(
      *this, loc, TypeRange(ValueRange(start)), start,
      [&](OpBuilder &inner, Location, ValueRange values) {
        restoreInsertionPoint(inner.saveInsertionPoint());
        Val isTrue = condition(wrap(*this, values));
        scf::ConditionOp::create(*this, loc, isTrue.get(), values);
      },
      [&](OpBuilder &inner, Location, ValueRange values) {
        restoreInsertionPoint(inner.saveInsertionPoint());
        scf::YieldOp::create(*this, loc, unwrap(body(wrap(*this, values))));
      });
  return wrap(*this, loop.getResults());
}

void KernelBuilder::ifThen(Val condition, function_ref<void()> then) {
  auto branch = scf::IfOp::create(*this, loc, condition.get(),
                                  /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPoint(branch.thenYield());
  then();
}

void KernelBuilder::ifElse(Val condition, function_ref<void()> then,
                           function_ref<void()> otherwise) {
  auto branch = scf::IfOp::create(*this, loc, condition.get(),
                                  /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPoint(branch.thenYield());
  then();
  setInsertionPoint(branch.elseYield());
  otherwise();
}

SmallVector<Val>
KernelBuilder::ifElse(Val condition, function_ref<SmallVector<Val>()> then,
                      function_ref<SmallVector<Val>()> otherwise) {
  auto build = [this](function_ref<SmallVector<Val>()> body, OpBuilder &inner,
                      Location at) {
    OpBuilder::InsertionGuard guard(*this);
    setInsertionPoint(inner.getInsertionBlock(), inner.getInsertionPoint());
    scf::YieldOp::create(*this, at, unwrap(body()));
  };
  auto branch = scf::IfOp::create(
      *this, loc, condition.get(),
      [&](OpBuilder &inner, Location at) { build(then, inner, at); },
      [&](OpBuilder &inner, Location at) { build(otherwise, inner, at); });
  return wrap(*this, branch.getResults());
}

//===----------------------------------------------------------------------===//
// Intrinsics
//===----------------------------------------------------------------------===//

Val KernelBuilder::intrinsic(StringRef name, Type result,
                             ArrayRef<Val> arguments) {
  auto call = LLVM::CallIntrinsicOp::create(
      *this, loc, result, getStringAttr(name), ValueRange(unwrap(arguments)));
  return val(call.getResult(0));
}

void KernelBuilder::intrinsic(StringRef name, ArrayRef<Val> arguments) {
  LLVM::CallIntrinsicOp::create(*this, loc, getStringAttr(name),
                                ValueRange(unwrap(arguments)));
}

Val KernelBuilder::dotBytes(Val acc, Val unsignedBytes, Val signedBytes) {
  bool wide = acc.lanes() == 16;
  return intrinsic(wide ? "llvm.x86.avx512.vpdpbusd.512"
                        : "llvm.x86.avx512.vpdpbusd.256",
                   acc.type(), {acc, unsignedBytes, signedBytes});
}

Val KernelBuilder::dotPairs(Val a, Val b) {
  bool wide = a.lanes() == 32;
  return intrinsic(wide ? "llvm.x86.avx512.pmaddw.d.512"
                        : "llvm.x86.avx2.pmadd.wd",
                   vec(a.lanes() / 2, i32()), {a, b});
}

Val KernelBuilder::lookup(Val table, Val index) {
  return intrinsic("llvm.x86.avx512.permvar.sf.512", table.type(),
                   {table, index});
}

//===----------------------------------------------------------------------===//
// The function
//===----------------------------------------------------------------------===//

func::FuncOp kernel::createKernelFunction(ModuleOp kernels, StringRef name) {
  KernelBuilder b(kernels.getContext(), kernels.getLoc());
  b.setInsertionPointToEnd(kernels.getBody());
  auto type =
      b.getFunctionType({b.ptr(), b.ptr(), b.i64(), b.i64(), b.ptr()}, {});
  auto function = func::FuncOp::create(b, b.getLoc(), name, type);
  b.setInsertionPointToStart(function.addEntryBlock());
  func::ReturnOp::create(b, b.getLoc());
  return function;
}

KernelFrame::KernelFrame(func::FuncOp function, int64_t count)
    : function(function), b(function.getContext(), function.getLoc()) {
  b.setInsertionPoint(function.getBody().front().getTerminator());
  Ptr list = Ptr(function.getArgument(0), &b).readOnly();
  for (int64_t i = 0; i < count; ++i)
    buffers.push_back(Ptr(list.at(8 * i).load(b.ptr(), 8).get(), &b));
}

Val KernelFrame::size(SizeKind kind) {
  Ptr sizes = Ptr(function.getArgument(1), &b).readOnly();
  switch (kind) {
  case SizeKind::One:
    return b.index(1);
  case SizeKind::Tokens:
    return sizes.at(8 * ::qlm::format::kSizeTokens).load(b.i64());
  case SizeKind::Sequences:
    return sizes.at(8 * ::qlm::format::kSizeSequences).load(b.i64());
  case SizeKind::LogitRows:
    return sizes.at(8 * ::qlm::format::kSizeLogitRows).load(b.i64());
  }
  llvm_unreachable("all sizes are covered");
}

Val KernelFrame::maxPagesPerSequence() {
  Ptr sizes = Ptr(function.getArgument(1), &b).readOnly();
  return sizes.at(8 * ::qlm::format::kSizeMaxPages).load(b.i64());
}
