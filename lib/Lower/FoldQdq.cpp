//===- FoldQdq.cpp - Linears on codes instead of what they stand for ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ImageRows.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Lower/GraphPasses.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_FOLDQDQ
#include "qlm/Lower/GraphPasses.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct FoldQdqPass : mlir::qlm::impl::FoldQdqBase<FoldQdqPass> {
  using Base::Base;
  void runOnOperation() override;
};

/// The codes of a tensor with one scale and zero point.
struct TensorCodes {
  Value codes;
  APFloat scale;
  int64_t zeroPoint;
  bool isUnsigned;
};

/// The codes of a weight with a scale for each row.
struct RowCodes {
  Value scales; ///< [rows] f32
};
} // namespace

static int64_t getCode(Attribute element, bool isUnsigned) {
  APInt code = cast<IntegerAttr>(element).getValue();
  return isUnsigned ? code.getZExtValue() : code.getSExtValue();
}

static std::optional<TensorCodes> getTensorCodes(Value value) {
  auto op = value.getDefiningOp<graph::DequantizeOp>();
  if (!op || !cast<RankedTensorType>(op.getInput().getType())
                  .getElementType()
                  .isInteger(8))
    return std::nullopt;
  auto scale = dyn_cast_or_null<FloatAttr>(getOnlyElement(op.getScale()));
  if (!scale)
    return std::nullopt;
  TensorCodes codes{op.getInput(), scale.getValue(), 0, op.getUnsignedCodes()};
  if (op.getZeroPoint()) {
    Attribute zero = getOnlyElement(op.getZeroPoint());
    if (!zero)
      return std::nullopt;
    codes.zeroPoint = getCode(zero, codes.isUnsigned);
  }
  return codes;
}

/// Whether all elements of a zero point are 0, or there is none.
static bool isZero(Value zeroPoint) {
  DenseElementsAttr elements;
  return !zeroPoint || (matchPattern(zeroPoint, m_Constant(&elements)) &&
                        llvm::all_of(elements.getValues<APInt>(),
                                     [](APInt code) { return code.isZero(); }));
}

/// The scales of a `[rows, columns]` weight's codes, signed and without zero
/// points.
static std::optional<RowCodes> getRowCodes(Value weight, OpBuilder &b) {
  int64_t rows = cast<RankedTensorType>(weight.getType()).getDimSize(0);
  int64_t axis = 0;
  if (auto turned = weight.getDefiningOp<linalg::TransposeOp>()) {
    axis = turned.getPermutation()[0];
    weight = turned.getInput();
  }
  auto op = weight.getDefiningOp<graph::DequantizeOp>();
  if (!op || op.getUnsignedCodes() || !isZero(op.getZeroPoint()) ||
      !cast<RankedTensorType>(op.getInput().getType())
           .getElementType()
           .isInteger(8))
    return std::nullopt;
  auto type = RankedTensorType::get({rows}, b.getF32Type());
  if (auto scale = dyn_cast_or_null<FloatAttr>(getOnlyElement(op.getScale())))
    return RowCodes{arith::ConstantOp::create(
        b, op.getLoc(), DenseElementsAttr::get(type, scale.getValue()))};
  if (op.getScale().getType() != type || op.getAxis() != uint64_t(axis))
    return std::nullopt;
  return RowCodes{op.getScale()};
}

/// Codes that are signed, with a zero point of 128 less.
static Value makeSigned(OpBuilder &b, Location loc, TensorCodes &input) {
  if (!input.isUnsigned)
    return input.codes;
  input.zeroPoint -= 128;
  auto type = cast<RankedTensorType>(input.codes.getType());
  Value empty = tensor::EmptyOp::create(
      b, loc, tensor::getMixedSizes(b, loc, input.codes),
      type.getElementType());
  AffineMap map = b.getMultiDimIdentityMap(type.getRank());
  SmallVector<utils::IteratorType> loops(type.getRank(),
                                         utils::IteratorType::parallel);
  return linalg::GenericOp::create(
             b, loc, type, input.codes, empty, ArrayRef<AffineMap>{map, map},
             loops,
             [](OpBuilder &nested, Location at, ValueRange elements) {
               Value flip = arith::ConstantOp::create(
                   nested, at, nested.getI8IntegerAttr(-128));
               linalg::YieldOp::create(
                   nested, at,
                   arith::XOrIOp::create(nested, at, elements[0], flip)
                       .getResult());
             })
      .getResult(0);
}

/// \p scale for each of the rows of \p codes.
static Value repeatScale(OpBuilder &b, Location loc, Value codes,
                         const APFloat &scale) {
  Value empty = tensor::EmptyOp::create(
      b, loc, {tensor::getMixedSize(b, loc, codes, 0)}, b.getF32Type());
  Value value = arith::ConstantOp::create(
      b, loc, b.getF32FloatAttr(scale.convertToFloat()));
  return linalg::FillOp::create(b, loc, value, empty).getResult(0);
}

static bool foldLinear(LinearOp linear) {
  OpBuilder b(linear);
  Location loc = linear.getLoc();
  std::optional<TensorCodes> input = getTensorCodes(linear.getInput());
  std::optional<RowCodes> weight = getRowCodes(linear.getWeight(), b);
  if (!input || !weight)
    return false;
  auto scheme = SchemeAttr::get(b.getContext(), b.getI8Type(),
                                Granularity::Channel, /*groupSize=*/0,
                                /*zeroPoints=*/false, /*lo=*/-128, /*hi=*/127,
                                APFloat(127.0), b.getF32Type());
  auto type = cast<RankedTensorType>(linear.getWeight().getType());
  auto kept = KeepCodesOp::create(
      b, loc, type.clone(b.getI8Type()), weight->scales.getType(),
      /*zeroPoints=*/Type(), linear.getWeight(), weight->scales,
      /*knownZeroPoints=*/Value(), scheme);
  Value codes = makeSigned(b, loc, *input), bias = linear.getBias();
  if (input->zeroPoint != 0) {
    float shift =
        input->scale.convertToFloat() * static_cast<float>(input->zeroPoint);
    bias = graph::ShiftedBiasOp::create(
        b, loc, RankedTensorType::get({type.getDimSize(0)}, b.getF32Type()),
        linear.getWeight(), bias, b.getF32FloatAttr(shift));
  }
  auto folded = QuantizedLinearOp::create(
      b, loc, linear.getType(), codes, repeatScale(b, loc, codes, input->scale),
      /*outliers=*/Value(), kept.getCodes(), kept.getScales(),
      /*zeroPoints=*/Value(), bias, linear.getResidual(), scheme);
  linear.replaceAllUsesWith(folded.getResult());
  linear.erase();
  return true;
}

void FoldQdqPass::runOnOperation() {
  SmallVector<LinearOp> linears;
  getOperation().walk([&](LinearOp linear) { linears.push_back(linear); });
  for (LinearOp linear : linears)
    (void)foldLinear(linear);
}
