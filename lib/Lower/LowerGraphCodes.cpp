//===- LowerGraphCodes.cpp - Codes of graphs, element by element ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ImageRows.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Lower/GraphPasses.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_LOWERGRAPHCODES
#include "qlm/Lower/GraphPasses.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct LowerGraphCodesPass
    : mlir::qlm::impl::LowerGraphCodesBase<LowerGraphCodesPass> {
  using Base::Base;
  void runOnOperation() override;
};

using Body = function_ref<Value(OpBuilder &, Location, ValueRange)>;
} // namespace

/// A map over the elements of \p input; parameters, if there are any, are one
/// for all or one for each index of dimension \p axis.
static Value mapElements(Operation *op, Value input, ArrayRef<Value> parameters,
                         int64_t axis, Body body) {
  OpBuilder b(op);
  Location loc = op->getLoc();
  auto type = cast<RankedTensorType>(op->getResult(0).getType());
  int64_t rank = type.getRank();
  SmallVector<Value> inputs{input};
  SmallVector<AffineMap> maps{b.getMultiDimIdentityMap(rank)};
  for (Value parameter : parameters) {
    auto own = cast<RankedTensorType>(parameter.getType());
    inputs.push_back(parameter);
    SmallVector<AffineExpr> places;
    if (own.getRank() == 1)
      places.push_back(own.getDimSize(0) == 1 ? b.getAffineConstantExpr(0)
                                              : b.getAffineDimExpr(axis));
    maps.push_back(AffineMap::get(rank, 0, places, b.getContext()));
  }
  maps.push_back(b.getMultiDimIdentityMap(rank));
  Value empty = tensor::EmptyOp::create(
      b, loc, tensor::getMixedSizes(b, loc, input), type.getElementType());
  SmallVector<utils::IteratorType> loops(rank, utils::IteratorType::parallel);
  return linalg::GenericOp::create(
             b, loc, type, inputs, empty, maps, loops,
             [&](OpBuilder &nested, Location at, ValueRange elements) {
               linalg::YieldOp::create(
                   nested, at,
                   body(nested, at, elements.take_front(inputs.size())));
             })
      .getResult(0);
}

static Value extend(OpBuilder &b, Location loc, Value code, Type wide,
                    bool isUnsigned) {
  if (code.getType() == wide)
    return code;
  if (isUnsigned)
    return arith::ExtUIOp::create(b, loc, wide, code);
  return arith::ExtSIOp::create(b, loc, wide, code);
}

static Value number(OpBuilder &b, Location loc, double value) {
  return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(value));
}

/// The smaller or the larger of \p x and \p bound; the bound of NaN. One
/// instruction, where those that keep NaN take three.
static Value atMost(OpBuilder &b, Location loc, Value x, Value bound) {
  Value isLess =
      arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLT, x, bound);
  return arith::SelectOp::create(b, loc, isLess, x, bound);
}
static Value atLeast(OpBuilder &b, Location loc, Value x, Value bound) {
  Value isMore =
      arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OGT, x, bound);
  return arith::SelectOp::create(b, loc, isMore, x, bound);
}

/// \p x rounded to a whole number, halves to even, plus \p zero if there is
/// one, as a byte in [\p lo, \p hi]; |x| is at most kBeyond. Integers are
/// clamped: the instructions that make bytes of them do that.
static Value toByte(OpBuilder &b, Location loc, Value x, Value zero, int64_t lo,
                    int64_t hi) {
  Value whole = math::RoundEvenOp::create(b, loc, x);
  Value code = arith::FPToSIOp::create(b, loc, b.getI32Type(), whole);
  if (zero)
    code = arith::AddIOp::create(b, loc, code, zero);
  auto bound = [&](int64_t value) -> Value {
    return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value));
  };
  code = arith::MinSIOp::create(b, loc, code, bound(hi));
  code = arith::MaxSIOp::create(b, loc, code, bound(lo));
  return arith::TruncIOp::create(b, loc, b.getI8Type(), code);
}

/// A whole number that is no code, whatever the zero point.
static constexpr double kBeyond = 256;

/// \p x within \p bound of 0; NaN becomes what \p nanIsLeast says.
static Value clamp(OpBuilder &b, Location loc, Value x, Value bound,
                   bool nanIsLeast) {
  Value minus = arith::NegFOp::create(b, loc, bound);
  if (nanIsLeast)
    return atMost(b, loc, atLeast(b, loc, x, minus), bound);
  return atLeast(b, loc, atMost(b, loc, x, bound), minus);
}

/// x / scale, correctly rounded, by the reciprocal, which is one for all: the
/// quotient, less its error (P. Markstein, IBM J. Res. Dev. 34, 1990). What is
/// beyond all codes stays there.
static Value divideByOne(OpBuilder &b, Location loc, Value x, Value scale,
                         bool nanIsLeast) {
  Value size = math::AbsFOp::create(b, loc, scale);
  Value bound = arith::MulFOp::create(b, loc, size, number(b, loc, kBeyond));
  x = clamp(b, loc, x, bound, nanIsLeast);
  Value inverse = arith::DivFOp::create(b, loc, number(b, loc, 1), scale);
  Value near = arith::MulFOp::create(b, loc, x, inverse);
  Value minus = arith::NegFOp::create(b, loc, near);
  Value rest = math::FmaOp::create(b, loc, minus, scale, x);
  return math::FmaOp::create(b, loc, rest, inverse, near);
}

static void lower(graph::QuantizeOp op) {
  bool isUnsigned = op.getUnsignedCodes();
  SmallVector<Value> parameters{op.getScale()};
  if (op.getZeroPoint())
    parameters.push_back(op.getZeroPoint());
  // The reciprocal must be a normal number too.
  auto scale = dyn_cast_or_null<FloatAttr>(getOnlyElement(op.getScale()));
  double size = scale ? std::abs(scale.getValueAsDouble()) : 0;
  bool isOne = size > 1e-30 && size < 1e30;
  Value result = mapElements(
      op, op.getInput(), parameters, op.getAxis(),
      [&](OpBuilder &b, Location loc, ValueRange elements) -> Value {
        // NaN becomes the lowest code.
        Value code, zero;
        if (isOne) {
          code = divideByOne(b, loc, elements[0], elements[1],
                             /*nanIsLeast=*/true);
        } else {
          code = arith::DivFOp::create(b, loc, elements[0], elements[1]);
          code = clamp(b, loc, code, number(b, loc, kBeyond),
                       /*nanIsLeast=*/true);
        }
        if (elements.size() > 2)
          zero = extend(b, loc, elements[2], b.getI32Type(), isUnsigned);
        return isUnsigned ? toByte(b, loc, code, zero, 0, 255)
                          : toByte(b, loc, code, zero, -128, 127);
      });
  op.replaceAllUsesWith(result);
  op.erase();
}

static void lower(graph::DequantizeOp op) {
  bool isUnsigned = op.getUnsignedCodes();
  SmallVector<Value> parameters{op.getScale()};
  if (op.getZeroPoint())
    parameters.push_back(op.getZeroPoint());
  bool isWide = cast<RankedTensorType>(op.getInput().getType())
                    .getElementType()
                    .isInteger(32);
  Value result = mapElements(
      op, op.getInput(), parameters, op.getAxis(),
      [&](OpBuilder &b, Location loc, ValueRange elements) -> Value {
        // The difference of codes is exact.
        Type wide =
            isWide && elements.size() > 2 ? b.getI64Type() : b.getI32Type();
        Value code = extend(b, loc, elements[0], wide, isUnsigned);
        if (elements.size() > 2)
          code = arith::SubIOp::create(
              b, loc, code, extend(b, loc, elements[2], wide, isUnsigned));
        Value value = arith::SIToFPOp::create(b, loc, b.getF32Type(), code);
        return arith::MulFOp::create(b, loc, value, elements[1]);
      });
  op.replaceAllUsesWith(result);
  op.erase();
}

/// One scale for all rows, and codes by it. Windows are taken of codes: those
/// are less to copy.
static void lower(StaticQuantizeOp op) {
  OpBuilder b(op);
  Location loc = op.getLoc();
  Value input = op.getInput();
  auto windows = input.getDefiningOp<graph::WindowsOp>();
  auto rounded = [&](Value from) {
    auto type = cast<RankedTensorType>(from.getType()).clone(b.getI8Type());
    Value empty = tensor::EmptyOp::create(
        b, loc, tensor::getMixedSizes(b, loc, from), b.getI8Type());
    AffineMap map = b.getMultiDimIdentityMap(2);
    AffineMap one = AffineMap::get(2, 0, b.getAffineConstantExpr(0));
    SmallVector<utils::IteratorType> loops(2, utils::IteratorType::parallel);
    return linalg::GenericOp::create(
               b, loc, type, ValueRange{from, op.getScale()}, empty,
               ArrayRef<AffineMap>{map, one, map}, loops,
               [&](OpBuilder &nested, Location at, ValueRange e) {
                 Value code = divideByOne(nested, at, e[0], e[1],
                                          /*nanIsLeast=*/false);
                 code = toByte(nested, at, code, /*zero=*/Value(), -127, 127);
                 linalg::YieldOp::create(nested, at, code);
               })
        .getResult(0);
  };
  Value codes = rounded(windows ? Value(windows.getInput()) : input);
  if (windows)
    codes = graph::WindowsOp::create(
        b, loc, cast<RankedTensorType>(input.getType()).clone(b.getI8Type()),
        codes, windows.getSizeAttr(), windows.getKernelAttr(),
        windows.getPlacesAttr(), windows.getPadsAttr(),
        windows.getStridesAttr(), windows.getDilationsAttr(),
        b.getI64IntegerAttr(0));
  auto scales = cast<RankedTensorType>(op.getResult(1).getType());
  Value empty = tensor::EmptyOp::create(
      b, loc, {tensor::getMixedSize(b, loc, input, 0)}, b.getF32Type());
  Value repeated =
      linalg::GenericOp::create(
          b, loc, scales, op.getScale(), empty,
          ArrayRef<AffineMap>{AffineMap::get(1, 0, b.getAffineConstantExpr(0)),
                              b.getMultiDimIdentityMap(1)},
          utils::IteratorType::parallel,
          [](OpBuilder &nested, Location at, ValueRange e) {
            linalg::YieldOp::create(nested, at, e[0]);
          })
          .getResult(0);
  op->replaceAllUsesWith(ValueRange{codes, repeated});
  op.erase();
}

void LowerGraphCodesPass::runOnOperation() {
  SmallVector<Operation *> operations;
  getOperation().walk([&](Operation *op) { operations.push_back(op); });
  for (Operation *op : operations) {
    if (auto quantize = dyn_cast<graph::QuantizeOp>(op))
      lower(quantize);
    else if (auto dequantize = dyn_cast<graph::DequantizeOp>(op))
      lower(dequantize);
    else if (auto quantize = dyn_cast<StaticQuantizeOp>(op))
      lower(quantize);
  }
}
