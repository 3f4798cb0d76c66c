//===- MethodOps.cpp - Constraints of calibrated methods' operations ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each check names the numbered constraint of the operation's description.
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/MethodOps.h"

#include "Checks.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/Support/InterleavedRange.h"

using namespace mlir;
using namespace mlir::qlm;

#define GET_OP_CLASSES
#include "qlm/Dialect/QlmMethodOps.cpp.inc"

using Heads = std::optional<ArrayRef<int64_t>>;

/// Checks that \p value has exactly the f32 type of \p shape.
static LogicalResult checkF32(Operation *op, StringRef name, Value value,
                              ArrayRef<int64_t> shape) {
  auto type = RankedTensorType::get(shape, Float32Type::get(op->getContext()));
  if (value.getType() != type)
    return op->emitOpError() << name << " must be " << shapeText(type)
                             << ", got " << shapeText(value.getType());
  return success();
}

/// Checks that `heads`, if any, fits \p columns columns.
static LogicalResult checkHeadOrder(Operation *op, Heads heads,
                                    int64_t columns) {
  if (!heads)
    return success();
  if (heads->size() != 2 || (*heads)[0] < 1 || (*heads)[1] < 1 ||
      columns % ((*heads)[0] * (*heads)[1]) != 0)
    return op->emitOpError()
           << "heads must be two positive numbers whose product divides the "
              "columns, got ["
           << llvm::interleaved(*heads) << "] and " << columns;
  return success();
}

/// Checks the scales of \p columns columns.
static LogicalResult checkColumnScales(Operation *op, Value scales, Heads heads,
                                       int64_t columns) {
  if (failed(checkHeadOrder(op, heads, columns)))
    return failure();
  return checkF32(op, "scales", scales,
                  ScaleOrder::get(heads).getScaleCount(columns));
}

/// Checks that \p weight is a static matrix.
static LogicalResult checkMatrix(Operation *op, Value weight) {
  auto type = dyn_cast<RankedTensorType>(weight.getType());
  if (type && type.getRank() == 2 && type.hasStaticShape())
    return success();
  return op->emitOpError() << "weight must be a static matrix, got "
                           << shapeText(weight.getType());
}

/// Checks weights that share their columns; gives the columns.
static FailureOr<int64_t> checkWeights(Operation *op, ValueRange weights) {
  if (weights.empty())
    return op->emitOpError("needs a weight");
  for (Value weight : weights)
    if (failed(checkMatrix(op, weight)))
      return failure();
  int64_t columns = dim(weights.front(), 1);
  for (Value weight : weights)
    if (dim(weight, 1) != columns)
      return op->emitOpError() << "weights must have the same columns, got "
                               << columns << " and " << dim(weight, 1);
  return columns;
}

static bool isByRow(SchemeAttr scheme) {
  return scheme.getGranularity() == Granularity::Channel ||
         scheme.getGranularity() == Granularity::Group;
}

static LogicalResult checkRoundable(Operation *op, SchemeAttr scheme,
                                    int64_t columns) {
  if (!isByRow(scheme))
    return op->emitOpError("scheme must be by channel or by group");
  if (scheme.getGranularity() == Granularity::Group &&
      columns % scheme.getGroupSize() != 0)
    return op->emitOpError() << "group size must divide the columns, got "
                             << scheme.getGroupSize() << " and " << columns;
  return success();
}

LogicalResult ScaleColumnsOp::verify() {
  // C1
  if (failed(checkMatrix(*this, getWeight())) ||
      failed(checkF32(*this, "result", getResult(),
                      {dim(getWeight(), 0), dim(getWeight(), 1)})))
    return failure();
  // C2
  return checkColumnScales(*this, getScales(), getHeads(), dim(getWeight(), 1));
}

LogicalResult TransposeOp::verify() {
  // C1
  if (failed(checkMatrix(*this, getWeight())))
    return failure();
  auto type = cast<RankedTensorType>(getWeight().getType());
  auto expected = RankedTensorType::get(
      {type.getDimSize(1), type.getDimSize(0)}, type.getElementType());
  if (getType() != expected)
    return emitOpError() << "result must be " << expected << ", got "
                         << getType();
  return success();
}

LogicalResult ScaleRowsOp::verify() {
  // C1
  auto type = dyn_cast<RankedTensorType>(getWeight().getType());
  if (!type || !type.hasStaticShape() || type.getRank() < 1 ||
      type.getRank() > 2)
    return emitOpError() << "weight must be static and of rank 1 or 2, got "
                         << shapeText(getWeight().getType());
  if (failed(checkF32(*this, "result", getResult(), type.getShape())) ||
      failed(checkRank(*this, "scales", getScales(), 1)))
    return failure();
  // C2
  int64_t size = dim(getScales(), 0), first = getFirstRow();
  if (size == kDynamic || first < 0 || size > type.getDimSize(0) ||
      first > type.getDimSize(0) - size)
    return emitOpError() << "scaled rows must lie in the weight, got "
                         << shapeText(getScales().getType()) << " from "
                         << first << " of " << type.getDimSize(0);
  return success();
}

LogicalResult ScaleMomentsOp::verify() {
  // C1
  if (failed(checkMatrix(*this, getMoments())) ||
      failed(checkSize(*this, "columns", dim(getMoments(), 1), "the rows",
                       dim(getMoments(), 0))) ||
      failed(checkF32(*this, "result", getResult(),
                      {dim(getMoments(), 0), dim(getMoments(), 1)})))
    return failure();
  // C2
  return checkColumnScales(*this, getScales(), getHeads(),
                           dim(getMoments(), 1));
}

LogicalResult AwqScalesOp::verify() {
  // C1
  FailureOr<int64_t> columns = checkWeights(*this, getWeights());
  if (failed(columns) ||
      failed(checkColumnScales(*this, getResult(), getHeads(), *columns)))
    return failure();
  // C2
  if (failed(
          checkF32(*this, "mean magnitudes", getMeanMagnitude(), *columns)) ||
      failed(checkF32(*this, "second moments", getSecondMoments(),
                      {*columns, *columns})))
    return failure();
  // C3
  if (getSteps() < 1)
    return emitOpError() << "steps must be positive, got " << getSteps();
  return checkRoundable(*this, getScheme(), *columns);
}

LogicalResult SmoothScalesOp::verify() {
  // C1
  FailureOr<int64_t> columns = checkWeights(*this, getWeights());
  if (failed(columns) ||
      failed(checkColumnScales(*this, getResult(), getHeads(), *columns)))
    return failure();
  // C2
  double alpha = getAlpha().convertToDouble();
  if (!(alpha >= 0 && alpha <= 1))
    return emitOpError() << "alpha must be from 0 to 1, got " << alpha;
  return checkF32(*this, "absmax", getAbsmax(), *columns);
}

LogicalResult ClipOp::verify() {
  // C1
  if (failed(checkMatrix(*this, getWeight())))
    return failure();
  int64_t rows = dim(getWeight(), 0), columns = dim(getWeight(), 1);
  if (failed(checkF32(*this, "second moments", getSecondMoments(),
                      {columns, columns})) ||
      failed(checkF32(*this, "result", getResult(), {rows, columns})))
    return failure();
  // C2
  return checkRoundable(*this, getScheme(), columns);
}

LogicalResult KeepCodesOp::verify() {
  // C1
  if (failed(checkMatrix(*this, getWeight())))
    return failure();
  auto type = cast<RankedTensorType>(getWeight().getType());
  if (getCodes().getType().getShape() != type.getShape())
    return emitOpError() << "codes must have the weight's shape, got "
                         << shapeText(getCodes().getType()) << " and "
                         << shapeText(type);
  // C2
  SchemeAttr scheme = getScheme();
  if (failed(checkRoundable(*this, scheme, type.getDimSize(1))))
    return failure();
  if (scheme.getCodebook() == Codebook::NF4)
    return emitOpError("scheme must be uniform or f8E4M3FN");
  SmallVector<int64_t> shape =
      scheme.getScaleShape(type.getDimSize(0), type.getDimSize(1));
  if (failed(checkF32(*this, "known scales", getKnownScales(), shape)))
    return failure();
  if (scheme.getZeroPoints() != static_cast<bool>(getKnownZeroPoints()))
    return emitOpError("known zero points must be given exactly if the scheme "
                       "has zero points");
  if (getKnownZeroPoints() &&
      failed(checkF32(*this, "known zero points", getKnownZeroPoints(), shape)))
    return failure();
  return checkScales(*this, scheme, getCodes(), getScales(), getZeroPoints());
}

LogicalResult StaticScaleOp::verify() {
  // C1
  if (failed(checkRank(*this, "magnitudes", getMagnitudes(), 1)) ||
      failed(checkF32(*this, "result", getResult(), 1)))
    return failure();
  int64_t size = dim(getMagnitudes(), 0);
  if (size == kDynamic || size < 1)
    return emitOpError() << "magnitudes must be static, got "
                         << shapeText(getMagnitudes().getType());
  // C2
  if (getScales() &&
      failed(checkColumnScales(*this, getScales(), getHeads(), size)))
    return failure();
  // C3
  if (getElement() &&
      (*getElement() >= static_cast<uint64_t>(size) || getScales()))
    return emitOpError() << "element must be below " << size
                         << " and go without scales, got " << *getElement();
  return success();
}

LogicalResult StaticQuantizeOp::verify() {
  // C3
  if (failed(checkRowScheme(*this, getScheme(), /*integersOnly=*/true)))
    return failure();
  // C1
  if (failed(checkRank(*this, "input", getInput(), 2)))
    return failure();
  if (getCodes().getType().getShape() != getInput().getType().getShape())
    return emitOpError() << "codes must have the input's shape, got "
                         << shapeText(getCodes().getType()) << " and "
                         << shapeText(getInput().getType());
  // C2
  if (failed(checkF32(*this, "scale", getScale(), 1)))
    return failure();
  return checkScales(*this, getScheme(), getCodes(), getScales(),
                     /*zeroPoints=*/{});
}
