//===- QuantizationVerifiers.cpp - Constraints of parameters and codes ----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each check names the numbered constraint of the operation's description.
//
//===----------------------------------------------------------------------===//

#include "Checks.h"

#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::qlm;

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

LogicalResult ParameterOp::verify() {
  // C1
  auto type = dyn_cast<RankedTensorType>(getType());
  if (!type || !type.hasStaticShape() ||
      !isa<Float32Type, Float16Type, BFloat16Type>(type.getElementType()))
    return emitOpError()
           << "type must be a static tensor of f32, f16 or bf16, got "
           << getType();
  // C2
  StringRef file = getFile();
  SmallVector<StringRef> parts;
  file.split(parts, '/');
  if (file.empty() || file.starts_with("/") || llvm::is_contained(parts, ".."))
    return emitOpError() << "file must be a relative path without '..', got '"
                         << file << "'";
  return success();
}

LogicalResult ConvertOp::verify() {
  // C1; C2 holds by the operand's type.
  if (getInput().getType().getShape() != getType().getShape())
    return emitOpError() << "result must have the operand's shape, got "
                         << shapeText(getType()) << " and "
                         << shapeText(getInput().getType());
  return success();
}

LogicalResult RopeTableOp::verify() {
  Operation *op = *this;
  // C1, C2
  if (failed(
          checkRank(op, "inverse frequencies", getInverseFrequencies(), 1)) ||
      failed(checkRank(op, "result", getResult(), 3)))
    return failure();
  if (dim(getResult(), 1) != dim(getInverseFrequencies(), 0) ||
      dim(getResult(), 2) != 2 || dim(getResult(), 0) <= 0)
    return emitOpError() << "result must be [contextLength, "
                         << dim(getInverseFrequencies(), 0) << ", 2], got "
                         << shapeText(getType());
  return success();
}

LogicalResult RtnOp::verify() {
  Operation *op = *this;
  // C1
  auto type = dyn_cast<RankedTensorType>(getWeight().getType());
  if (!type || type.getRank() != 2 || !type.hasStaticShape())
    return emitOpError() << "weight must be a static matrix, got "
                         << shapeText(getWeight().getType());
  if (getScheme().getGranularity() == Granularity::Row)
    return emitOpError("scheme must not be per row: that is for activations");
  // C3
  if (getCodes().getType().getShape() != type.getShape())
    return emitOpError() << "codes must have the weight's shape, got "
                         << shapeText(getCodes().getType()) << " and "
                         << shapeText(type);
  // C2, C3
  return checkScales(op, getScheme(), getCodes(), getScales(), getZeroPoints());
}

LogicalResult GptqOp::verify() {
  Operation *op = *this;
  // C1
  auto type = dyn_cast<RankedTensorType>(getWeight().getType());
  if (!type || type.getRank() != 2 || !type.hasStaticShape())
    return emitOpError() << "weight must be a static matrix, got "
                         << shapeText(getWeight().getType());
  int64_t columns = type.getDimSize(1);
  auto moments =
      RankedTensorType::get({columns, columns}, Float32Type::get(getContext()));
  if (getSecondMoments().getType() != moments)
    return emitOpError() << "second moments must be " << shapeText(moments)
                         << ", got " << shapeText(getSecondMoments().getType());
  // C2
  if (getScheme().getGranularity() != Granularity::Channel &&
      getScheme().getGranularity() != Granularity::Group)
    return emitOpError("scheme must be by channel or by group");
  if (getCodes().getType().getShape() != type.getShape())
    return emitOpError() << "codes must have the weight's shape, got "
                         << shapeText(getCodes().getType()) << " and "
                         << shapeText(type);
  // C3
  if (!(getDamping().convertToDouble() >= 0) || getBlockSize() <= 0)
    return emitOpError() << "damping must not be negative and the block size "
                            "positive, got "
                         << getDamping().convertToDouble() << " and "
                         << getBlockSize();
  return checkScales(op, getScheme(), getCodes(), getScales(), getZeroPoints());
}

LogicalResult ObserveOp::verify() {
  // C1
  if (failed(checkRank(*this, "input", getInput(), 2)))
    return failure();
  if (dim(getInput(), 1) == kDynamic)
    return emitOpError() << "input's features must be known, got "
                         << shapeText(getInput().getType());
  return success();
}

/// Checks the `super` of double quantization against the scales' shape.
static LogicalResult checkSuper(Operation *op, Value scales, Value super) {
  auto type = dyn_cast<RankedTensorType>(scales.getType());
  if (!type || type.getRank() != 2 || !type.hasStaticShape())
    return op->emitOpError() << "scales must be a static matrix, got "
                             << shapeText(scales.getType());
  auto expected = RankedTensorType::get(
      {getSuperScaleCount(type.getNumElements())},
      cast<RankedTensorType>(super.getType()).getElementType());
  if (super.getType() != expected)
    return op->emitOpError() << "super must be " << shapeText(expected)
                             << ", got " << shapeText(super.getType());
  return success();
}

LogicalResult QuantizeScalesOp::verify() {
  // C2, C1
  if (failed(checkSuper(*this, getScales(), getSuper())))
    return failure();
  if (getCodes().getType().getShape() != getScales().getType().getShape())
    return emitOpError() << "codes must have the scales' shape, got "
                         << shapeText(getCodes().getType()) << " and "
                         << shapeText(getScales().getType());
  return success();
}

LogicalResult DequantizeScalesOp::verify() {
  // C2, C1
  if (failed(checkSuper(*this, getCodes(), getSuper())))
    return failure();
  if (getCodes().getType().getShape() != getType().getShape())
    return emitOpError() << "result must have the codes' shape, got "
                         << shapeText(getType()) << " and "
                         << shapeText(getCodes().getType());
  return success();
}

LogicalResult PackOp::verify() {
  auto type = cast<RankedTensorType>(getInput().getType());
  LayoutKind kind = getLayout().getKind();
  RankedTensorType expected = getPackedType(type, kind);
  // C2: one scale or zero point repeats for any number of blocks.
  auto result = dyn_cast<RankedTensorType>(getType());
  bool repeats = (kind == LayoutKind::Scale || kind == LayoutKind::ZeroPoint) &&
                 type.getRank() == 1 && type.getDimSize(0) == 1;
  if (expected && repeats && result && result.getRank() == 3)
    expected = RankedTensorType::get({result.getDimSize(0), 1, 16},
                                     expected.getElementType());
  // C1
  if (!expected)
    return emitOpError() << "layout "
                         << stringifyLayoutKind(getLayout().getKind())
                         << " does not take " << shapeText(type);
  // C2
  if (getType() != expected)
    return emitOpError() << "result must be " << shapeText(expected) << ", got "
                         << shapeText(getType());
  return success();
}

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

LogicalResult QuantizeOp::verify() {
  Operation *op = *this;
  // C1
  if (getCodes().getType().getShape() != getInput().getType().getShape())
    return emitOpError() << "codes must have the input's shape, got "
                         << shapeText(getCodes().getType()) << " and "
                         << shapeText(getInput().getType());
  // C2
  return checkScales(op, getScheme(), getCodes(), getScales(), getZeroPoints());
}

LogicalResult DequantizeOp::verify() {
  Operation *op = *this;
  // C1
  if (getCodes().getType().getShape() != getResult().getType().getShape())
    return emitOpError() << "result must have the codes' shape, got "
                         << shapeText(getResult().getType()) << " and "
                         << shapeText(getCodes().getType());
  // C2
  if (failed(checkScales(op, getScheme(), getCodes(), getScales(),
                         getZeroPoints())))
    return failure();
  // C3
  if (getOutliers() && getScheme().getGranularity() != Granularity::Row)
    return emitOpError("outliers need a scheme by row");
  return checkOutliers(op, getOutliers(), dim(getCodes(), 0),
                       dim(getCodes(), 1));
}

LogicalResult DynamicQuantizeOp::verify() {
  Operation *op = *this;
  // C3
  SchemeAttr scheme = getScheme();
  if (failed(checkRowScheme(op, scheme)))
    return failure();
  // C1, C2
  if (failed(checkRank(op, "input", getInput(), 2)))
    return failure();
  if (getCodes().getType().getShape() != getInput().getType().getShape())
    return emitOpError() << "codes must have the input's shape, got "
                         << shapeText(getCodes().getType()) << " and "
                         << shapeText(getInput().getType());
  if (failed(checkScales(op, scheme, getCodes(), getScales(),
                         /*zeroPoints=*/{})))
    return failure();
  // C4
  return checkThreshold(op, getThreshold(), getCodes(), getOutliers());
}

LogicalResult QuantizedLinearOp::verify() {
  Operation *op = *this;
  // C2
  if (failed(checkScales(op, getScheme(), getCodes(), getScales(),
                         getZeroPoints())))
    return failure();
  // C3
  if (getBias() && (failed(checkRank(op, "bias", getBias(), 1)) ||
                    failed(checkSize(op, "bias size", dim(getBias(), 0),
                                     "the weight's rows", dim(getCodes(), 0)))))
    return failure();
  // C1, C3
  if (failed(checkExact(op, getScheme(), getInput(), getInputScales())))
    return failure();
  if (failed(checkLinear(op, getInput(), getInputScales(), dim(getCodes(), 1),
                         dim(getCodes(), 0), getResidual(), getResult())))
    return failure();
  // C4
  return checkOutlierProduct(op, getScheme(), getInput(), getInputScales(),
                             getOutliers());
}
