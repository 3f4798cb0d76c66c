//===- Checks.cpp - Checks that several verifiers share -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Checks.h"

#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::qlm;

/// Whole numbers up to this are exact in f32.
static constexpr int64_t kMaxOutlierFeatures = int64_t(1) << 24;

std::string mlir::qlm::shapeText(Type type) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << type;
  return text;
}

LogicalResult mlir::qlm::checkRank(Operation *op, StringRef name, Value value,
                                   int64_t rank) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type || type.getRank() != rank)
    return op->emitOpError() << name << " must have rank " << rank << ", got "
                             << shapeText(value.getType());
  return success();
}

LogicalResult mlir::qlm::checkSize(Operation *op, StringRef name,
                                   int64_t actual, StringRef of,
                                   int64_t expected) {
  if (actual == kDynamic || expected == kDynamic || actual == expected)
    return success();
  return op->emitOpError() << name << " must be " << of << ", got " << actual
                           << " and " << expected;
}

int64_t mlir::qlm::dim(Value value, int64_t index) {
  return cast<RankedTensorType>(value.getType()).getDimSize(index);
}

LogicalResult mlir::qlm::checkScales(Operation *op, SchemeAttr scheme,
                                     Value codes, Value scales,
                                     Value zeroPoints) {
  if (failed(checkRank(op, "codes", codes, 2)))
    return failure();
  int64_t rows = dim(codes, 0), columns = dim(codes, 1);
  auto codeType = cast<RankedTensorType>(codes.getType());
  if (codeType.getElementType() != scheme.getStorage())
    return op->emitOpError()
           << "codes must have the scheme's storage type, got "
           << codeType.getElementType() << " and " << scheme.getStorage();
  if (scheme.getGranularity() == Granularity::Group &&
      (columns == kDynamic || columns % scheme.getGroupSize() != 0))
    return op->emitOpError() << "group size must divide the columns, got "
                             << scheme.getGroupSize() << " and "
                             << (columns == kDynamic ? std::string("?")
                                                     : std::to_string(columns));
  auto expected = RankedTensorType::get(scheme.getScaleShape(rows, columns),
                                        scheme.getScaleType());
  if (scales.getType() != expected)
    return op->emitOpError() << "scales must be " << shapeText(expected)
                             << ", got " << shapeText(scales.getType());
  if (scheme.getZeroPoints() != static_cast<bool>(zeroPoints))
    return op->emitOpError(scheme.getZeroPoints()
                               ? "needs zero points, which its scheme has"
                               : "has zero points, but its scheme has none");
  if (!zeroPoints)
    return success();
  auto zeroType =
      RankedTensorType::get(expected.getShape(), scheme.getStorage());
  if (zeroPoints.getType() != zeroType)
    return op->emitOpError() << "zero points must be " << shapeText(zeroType)
                             << ", got " << shapeText(zeroPoints.getType());
  return success();
}

LogicalResult mlir::qlm::checkLinear(Operation *op, Value input,
                                     Value inputScales, int64_t inFeatures,
                                     int64_t outFeatures, Value residual,
                                     Value result) {
  if (failed(checkRank(op, "input", input, 2)) ||
      failed(checkRank(op, "result", result, 2)) ||
      failed(checkSize(op, "input's features", dim(input, 1),
                       "the weight's columns", inFeatures)) ||
      failed(checkSize(op, "result's features", dim(result, 1),
                       "the weight's rows", outFeatures)) ||
      failed(checkSize(op, "result's tokens", dim(result, 0),
                       "the input's tokens", dim(input, 0))))
    return failure();
  Type element = cast<RankedTensorType>(input.getType()).getElementType();
  if (element.getIntOrFloatBitWidth() == 8) {
    if (!inputScales)
      return op->emitOpError("needs input scales for ")
             << shapeText(element) << " activations";
  } else if (inputScales) {
    return op->emitOpError("has input scales for float activations");
  }
  if (inputScales &&
      (failed(checkRank(op, "input scales", inputScales, 1)) ||
       failed(checkSize(op, "number of input scales", dim(inputScales, 0),
                        "the input's tokens", dim(input, 0)))))
    return failure();
  if (residual && residual.getType() != result.getType())
    return op->emitOpError() << "residual must have the result's type, got "
                             << shapeText(residual.getType()) << " and "
                             << shapeText(result.getType());
  return success();
}

LogicalResult mlir::qlm::checkExact(Operation *op, SchemeAttr scheme,
                                    Value input, Value inputScales) {
  if (!inputScales)
    return success();
  Type element = cast<RankedTensorType>(input.getType()).getElementType();
  if (isa<Float8E4M3FNType>(element)) {
    if (scheme.getCodebook() == Codebook::Float8)
      return success();
    return op->emitOpError(
               "f8E4M3FN activations need a weight of f8E4M3FN, got ")
           << scheme;
  }
  if (scheme.isUniform())
    return success();
  return op->emitOpError("i8 activations need a weight of integer codes, got ")
         << scheme;
}

LogicalResult mlir::qlm::checkOutliers(Operation *op, Value outliers,
                                       int64_t tokens, int64_t features) {
  if (!outliers)
    return success();
  if (failed(checkRank(op, "outliers", outliers, 2)))
    return failure();
  if (features == kDynamic || features > kMaxOutlierFeatures)
    return op->emitOpError()
           << "outliers need known features, at most " << kMaxOutlierFeatures
           << ", got "
           << (features == kDynamic ? "?" : std::to_string(features));
  if (failed(checkSize(op, "outliers' rows", dim(outliers, 0), "the tokens",
                       tokens)))
    return failure();
  if (dim(outliers, 1) != 1 + 2 * features)
    return op->emitOpError()
           << "outliers' columns must be 1 + 2 * features = "
           << 1 + 2 * features << ", got " << dim(outliers, 1);
  return success();
}

LogicalResult mlir::qlm::checkThreshold(Operation *op,
                                        std::optional<APFloat> threshold,
                                        Value codes, Value outliers) {
  if (threshold && !(threshold->isFiniteNonZero() && !threshold->isNegative()))
    return op->emitOpError() << "threshold must be positive and finite, got "
                             << threshold->convertToFloat();
  if (threshold.has_value() != static_cast<bool>(outliers))
    return op->emitOpError("has outliers exactly if it has a threshold");
  Type element = cast<RankedTensorType>(codes.getType()).getElementType();
  if (threshold && !element.isInteger(8))
    return op->emitOpError("threshold needs i8 codes, got ") << element;
  return checkOutliers(op, outliers, dim(codes, 0), dim(codes, 1));
}

LogicalResult mlir::qlm::checkOutlierProduct(Operation *op,
                                             std::optional<SchemeAttr> scheme,
                                             Value input, Value inputScales,
                                             Value outliers) {
  if (!outliers)
    return success();
  bool fits = inputScales && scheme && scheme->isUniform() &&
              scheme->getBits() == 8 &&
              (scheme->getGranularity() == Granularity::Tensor ||
               scheme->getGranularity() == Granularity::Channel);
  if (!fits)
    return op->emitOpError("outliers need i8 activations and a weight of 8-bit "
                           "codes by tensor or channel");
  return checkOutliers(op, outliers, dim(input, 0), dim(input, 1));
}

LogicalResult mlir::qlm::checkNorm(Operation *op, Value input, Value weight,
                                   const APFloat &epsilon) {
  if (failed(checkRank(op, "input", input, 2)) ||
      failed(checkRank(op, "weight", weight, 1)) ||
      failed(checkSize(op, "weight size", dim(weight, 0),
                       "the input's features", dim(input, 1))))
    return failure();
  if (!(epsilon.convertToFloat() > 0))
    return op->emitOpError()
           << "epsilon must be positive, got " << epsilon.convertToFloat();
  return success();
}

LogicalResult mlir::qlm::checkHeads(Operation *op, int64_t heads,
                                    int64_t kvHeads, int64_t features,
                                    int64_t kvFeatures) {
  if (heads <= 0 || kvHeads <= 0 || heads % kvHeads != 0)
    return op->emitOpError()
           << "kv_heads must divide heads, got " << kvHeads << " and " << heads;
  if (features == kDynamic || features % heads != 0)
    return op->emitOpError() << "heads must divide the query's features, got "
                             << heads << " and " << features;
  if (kvFeatures != features / heads * kvHeads)
    return op->emitOpError()
           << "keys and values must have kv_heads * head size = "
           << features / heads * kvHeads << " features, got " << kvFeatures;
  return success();
}

LogicalResult mlir::qlm::checkWindow(Operation *op,
                                     std::optional<uint64_t> window) {
  if (window && static_cast<int64_t>(*window) <= 0)
    return op->emitOpError("window must be positive, got ")
           << static_cast<int64_t>(*window);
  return success();
}

LogicalResult mlir::qlm::checkRowScheme(Operation *op, SchemeAttr scheme,
                                        bool integersOnly) {
  bool isRow = scheme.getGranularity() == Granularity::Row &&
               !scheme.getZeroPoints() && scheme.getScaleType().isF32();
  bool isInteger = scheme.getStorage().isInteger(8) && scheme.getLo() == -127 &&
                   scheme.getHi() == 127 && scheme.getBoundValue() == 127.0;
  bool isFloat8 = !integersOnly && scheme.getCodebook() == Codebook::Float8 &&
                  scheme.getBoundValue() == getCacheBound(scheme.getStorage());
  if (isRow && (isInteger || isFloat8))
    return success();
  InFlightDiagnostic diagnostic = op->emitOpError(
      "scheme must be <i8, row, range [-127, 127], bound 127.0, "
      "scales f32>");
  if (!integersOnly)
    diagnostic << " or <f8E4M3FN, row, bound 448.0, scales f32>";
  return diagnostic << ", got " << scheme;
}
