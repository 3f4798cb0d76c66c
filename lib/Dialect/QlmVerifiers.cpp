//===- QlmVerifiers.cpp - The constraints of the qlm operations -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each check names the numbered constraint of the operation's description.
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/Qlm.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MathExtras.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm;

static constexpr int64_t kDynamic = ShapedType::kDynamic;

/// A tensor's shape for messages: "?x4xf32".
static std::string shapeText(Type type) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << type;
  return text;
}

/// Checks that \p value is ranked with \p rank dimensions.
static LogicalResult checkRank(Operation *op, StringRef name, Value value,
                               int64_t rank) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type || type.getRank() != rank)
    return op->emitOpError() << name << " must have rank " << rank << ", got "
                             << shapeText(value.getType());
  return success();
}

/// Checks that two sizes are equal as far as both are known.
static LogicalResult checkSize(Operation *op, StringRef name, int64_t actual,
                               StringRef of, int64_t expected) {
  if (actual == kDynamic || expected == kDynamic || actual == expected)
    return success();
  return op->emitOpError() << name << " must be " << of << ", got " << actual
                           << " and " << expected;
}

static int64_t dim(Value value, int64_t index) {
  return cast<RankedTensorType>(value.getType()).getDimSize(index);
}

/// Checks scales and zero points of a [rows, columns] matrix (rows may be
/// dynamic for activations).
static LogicalResult checkScales(Operation *op, SchemeAttr scheme, Value codes,
                                 Value scales, Value zeroPoints) {
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

/// Checks the float operands that all linear operations share.
static LogicalResult checkLinear(Operation *op, Value input, Value inputScales,
                                 int64_t inFeatures, int64_t outFeatures,
                                 Value residual, Value result) {
  if (failed(checkRank(op, "input", input, 2)) ||
      failed(checkRank(op, "result", result, 2)) ||
      failed(checkSize(op, "input's features", dim(input, 1),
                       "the weight's columns", inFeatures)) ||
      failed(checkSize(op, "result's features", dim(result, 1),
                       "the weight's rows", outFeatures)) ||
      failed(checkSize(op, "result's tokens", dim(result, 0),
                       "the input's tokens", dim(input, 0))))
    return failure();
  bool integer = isa<IntegerType>(
      cast<RankedTensorType>(input.getType()).getElementType());
  if (integer != static_cast<bool>(inputScales))
    return op->emitOpError(integer ? "needs input scales for i8 activations"
                                   : "has input scales for f32 activations");
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

LogicalResult PackOp::verify() {
  auto type = cast<RankedTensorType>(getInput().getType());
  RankedTensorType expected = getPackedType(type, getLayout().getKind());
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
// Model
//===----------------------------------------------------------------------===//

LogicalResult EmbeddingOp::verify() {
  Operation *op = *this;
  if (failed(checkRank(op, "tokens", getTokens(), 1)) || // C1
      failed(checkRank(op, "table", getTable(), 2)) ||   // C2
      failed(checkRank(op, "result", getResult(), 2)) || // C3
      failed(checkSize(op, "result's features", dim(getResult(), 1),
                       "the table's columns", dim(getTable(), 1))))
    return failure();
  return checkSize(op, "result's tokens", dim(getResult(), 0),
                   "the number of tokens", dim(getTokens(), 0));
}

LogicalResult LinearOp::verify() {
  Operation *op = *this;
  // C2
  if (failed(checkRank(op, "weight", getWeight(), 2)))
    return failure();
  // C3
  if (getBias() &&
      (failed(checkRank(op, "bias", getBias(), 1)) ||
       failed(checkSize(op, "bias size", dim(getBias(), 0), "the weight's rows",
                        dim(getWeight(), 0)))))
    return failure();
  // C1, C4
  return checkLinear(op, getInput(), /*inputScales=*/{}, dim(getWeight(), 1),
                     dim(getWeight(), 0), getResidual(), getResult());
}

/// Checks the operands of a norm.
static LogicalResult checkNorm(Operation *op, Value input, Value weight,
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

LogicalResult RmsNormOp::verify() {
  // C1, C2, C3
  return checkNorm(*this, getInput(), getWeight(), getEpsilon());
}

LogicalResult RopeOp::verify() {
  Operation *op = *this;
  // C1, C2, C3
  if (failed(checkRank(op, "input", getInput(), 2)) ||
      failed(checkRank(op, "positions", getPositions(), 1)) ||
      failed(
          checkRank(op, "inverse frequencies", getInverseFrequencies(), 1)) ||
      failed(checkSize(op, "number of positions", dim(getPositions(), 0),
                       "the input's tokens", dim(getInput(), 0))))
    return failure();
  // C4
  int64_t features = dim(getInput(), 1);
  int64_t half = dim(getInverseFrequencies(), 0);
  if (features == kDynamic || half == kDynamic || half <= 0 ||
      features % (2 * half) != 0)
    return emitOpError() << "head size must divide the features, got "
                         << 2 * half << " and " << features;
  return success();
}

/// Checks head counts against the features of queries and of keys.
static LogicalResult checkHeads(Operation *op, int64_t heads, int64_t kvHeads,
                                int64_t features, int64_t kvFeatures) {
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

LogicalResult AttentionOp::verify() {
  Operation *op = *this;
  // C1, C2
  if (failed(checkRank(op, "query", getQuery(), 2)) ||
      failed(checkRank(op, "key", getKey(), 2)) ||
      failed(checkSize(op, "number of keys", dim(getKey(), 0),
                       "the query's tokens", dim(getQuery(), 0))))
    return failure();
  // C3
  return checkHeads(op, getHeads(), getKvHeads(), dim(getQuery(), 1),
                    dim(getKey(), 1));
}

LogicalResult SwigluOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 2)) ||
      failed(checkRank(op, "result", getResult(), 2)))
    return failure();
  if (dim(getInput(), 1) != 2 * dim(getResult(), 1))
    return emitOpError() << "input must have twice the result's features, got "
                         << dim(getInput(), 1) << " and "
                         << dim(getResult(), 1);
  return success();
}

/// Checks that a tensor is ranked.
static LogicalResult checkRanked(Operation *op, Value value) {
  if (!isa<RankedTensorType>(value.getType()))
    return op->emitOpError("operands must be ranked tensors");
  return success();
}

LogicalResult SiluOp::verify() { return checkRanked(*this, getInput()); }
LogicalResult AddOp::verify() { return checkRanked(*this, getLhs()); }
LogicalResult MulOp::verify() { return checkRanked(*this, getLhs()); }

LogicalResult SplitOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 2)))
    return failure();
  int64_t total = 0;
  for (Value part : getParts()) {
    if (failed(checkRank(op, "each part", part, 2)) ||
        failed(checkSize(op, "a part's tokens", dim(part, 0),
                         "the input's tokens", dim(getInput(), 0))))
      return failure();
    total += dim(part, 1);
  }
  if (total != dim(getInput(), 1))
    return emitOpError() << "parts must add up to the features, got " << total
                         << " and " << dim(getInput(), 1);
  return success();
}

LogicalResult SplitHeadsOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 2)) ||
      failed(checkRank(op, "result", getResult(), 3)))
    return failure();
  int64_t repeat = getRepeat();
  if (repeat <= 0 || dim(getResult(), 0) % repeat != 0 ||
      dim(getResult(), 0) / repeat * dim(getResult(), 2) != dim(getInput(), 1))
    return emitOpError()
           << "result must be [heads * repeat, tokens, headDim] with heads * "
              "headDim features, got "
           << shapeText(getType()) << ", repeat " << repeat << " and "
           << dim(getInput(), 1) << " features";
  return checkSize(op, "result's tokens", dim(getResult(), 1),
                   "the input's tokens", dim(getInput(), 0));
}

LogicalResult MergeHeadsOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 3)) ||
      failed(checkRank(op, "result", getResult(), 2)) ||
      failed(checkSize(op, "result's tokens", dim(getResult(), 0),
                       "the input's tokens", dim(getInput(), 1))))
    return failure();
  return checkSize(op, "result's features", dim(getResult(), 1),
                   "heads * head size",
                   dim(getInput(), 0) * dim(getInput(), 2));
}

LogicalResult MatmulOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "left operand", getLhs(), 3)) ||
      failed(checkRank(op, "right operand", getRhs(), 3)) ||
      failed(checkRank(op, "result", getResult(), 3)) ||
      failed(checkSize(op, "right batch", dim(getRhs(), 0), "the left batch",
                       dim(getLhs(), 0))) ||
      failed(checkSize(op, "result's batch", dim(getResult(), 0),
                       "the left batch", dim(getLhs(), 0))))
    return failure();
  // C2
  int64_t inner = getTransposeRhs() ? 2 : 1, outer = getTransposeRhs() ? 1 : 2;
  if (failed(checkSize(op, "right inner size", dim(getRhs(), inner),
                       "the left inner size", dim(getLhs(), 2))) ||
      failed(checkSize(op, "result's rows", dim(getResult(), 1),
                       "the left rows", dim(getLhs(), 1))))
    return failure();
  return checkSize(op, "result's columns", dim(getResult(), 2),
                   "the right outer size", dim(getRhs(), outer));
}

LogicalResult ScaleOp::verify() {
  // C1
  if (!std::isfinite(getFactor().convertToFloat()))
    return emitOpError() << "factor must be finite, got "
                         << getFactor().convertToFloat();
  return success();
}

LogicalResult CausalMaskOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 3)))
    return failure();
  return checkSize(op, "number of keys", dim(getInput(), 2),
                   "the number of queries", dim(getInput(), 1));
}

LogicalResult SoftmaxOp::verify() {
  // C1
  auto type = dyn_cast<RankedTensorType>(getInput().getType());
  if (!type || type.getRank() < 1 || type.getRank() > 4)
    return emitOpError() << "input must have rank 1 to 4, got "
                         << shapeText(getInput().getType());
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
  return checkScales(op, getScheme(), getCodes(), getScales(), getZeroPoints());
}

/// Checks the scheme of activations.
static LogicalResult checkRowScheme(Operation *op, SchemeAttr scheme) {
  if (scheme.getGranularity() != Granularity::Row || scheme.getZeroPoints() ||
      !scheme.getStorage().isInteger(8) || scheme.getLo() != -127 ||
      scheme.getHi() != 127 || scheme.getBoundValue() != 127.0 ||
      !scheme.getScaleType().isF32())
    return op->emitOpError()
           << "scheme must be <i8, row, range [-127, 127], bound 127.0, scales "
              "f32>, got "
           << scheme;
  return success();
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
  return checkScales(op, scheme, getCodes(), getScales(), /*zeroPoints=*/{});
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
  return checkLinear(op, getInput(), getInputScales(), dim(getCodes(), 1),
                     dim(getCodes(), 0), getResidual(), getResult());
}

//===----------------------------------------------------------------------===//
// Planned
//===----------------------------------------------------------------------===//

/// Checks that \p value has the type of \p logical packed in \p kind.
static LogicalResult checkPacked(Operation *op, StringRef name, Value value,
                                 RankedTensorType logical, LayoutKind kind) {
  RankedTensorType expected = getPackedType(logical, kind);
  if (!expected)
    return op->emitOpError()
           << name << " cannot have layout " << stringifyLayoutKind(kind);
  if (value.getType() != expected)
    return op->emitOpError() << name << " must be " << shapeText(expected)
                             << ", got " << shapeText(value.getType());
  return success();
}

LogicalResult PackedLinearOp::verify() {
  Operation *op = *this;
  int64_t rows = getOutFeatures(), columns = getInFeatures();
  if (rows <= 0 || columns <= 0)
    return emitOpError() << "features must be positive, got " << columns
                         << " in and " << rows << " out";
  // C2
  std::optional<SchemeAttr> scheme = getScheme();
  LayoutKind kind = getLayout().getKind();
  Type element =
      scheme ? scheme->getStorage()
             : cast<RankedTensorType>(getWeight().getType()).getElementType();
  if (kind != getWeightLayout(element))
    return emitOpError() << "layout must be "
                         << stringifyLayoutKind(getWeightLayout(element))
                         << " for " << element << ", got "
                         << stringifyLayoutKind(kind);
  if (failed(checkPacked(op, "weight", getWeight(),
                         RankedTensorType::get({rows, columns}, element),
                         kind)))
    return failure();
  if (static_cast<bool>(scheme) != static_cast<bool>(getScales()))
    return emitOpError("has scales exactly if it has a scheme");
  if (static_cast<bool>(getZeroPoints()) != (scheme && scheme->getZeroPoints()))
    return emitOpError("has zero points exactly if its scheme does");
  if (scheme) {
    if (scheme->getGranularity() == Granularity::Group &&
        columns % scheme->getGroupSize() != 0)
      return emitOpError() << "group size must divide the columns, got "
                           << scheme->getGroupSize() << " and " << columns;
    SmallVector<int64_t> shape = scheme->getScaleShape(rows, columns);
    if (scheme->getGranularity() == Granularity::Tensor)
      shape = {rows};
    if (failed(checkPacked(op, "scales", getScales(),
                           RankedTensorType::get(shape, scheme->getScaleType()),
                           LayoutKind::Scale)))
      return failure();
    if (getZeroPoints() &&
        failed(checkPacked(op, "zero points", getZeroPoints(),
                           RankedTensorType::get(shape, scheme->getStorage()),
                           LayoutKind::ZeroPoint)))
      return failure();
  } else if (getInputScales()) {
    return emitOpError("i8 activations need a quantized weight");
  }
  // C3
  if (getBias() &&
      failed(checkPacked(
          op, "bias", getBias(),
          RankedTensorType::get({rows}, Float32Type::get(getContext())),
          LayoutKind::Bias)))
    return failure();
  // C1, C3
  return checkLinear(op, getInput(), getInputScales(), columns, rows,
                     getResidual(), getResult());
}

LogicalResult SelectRowsOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 2)) ||
      failed(checkRank(op, "rows", getRows(), 1)) ||
      failed(checkRank(op, "result", getResult(), 2)) ||
      failed(checkSize(op, "result's features", dim(getResult(), 1),
                       "the input's features", dim(getInput(), 1))))
    return failure();
  return checkSize(op, "result's rows", dim(getResult(), 0),
                   "the number of rows", dim(getRows(), 0));
}

LogicalResult RmsNormQuantizeOp::verify() {
  Operation *op = *this;
  // C1, C2
  if (failed(checkNorm(op, getInput(), getWeight(), getEpsilon())))
    return failure();
  // C3
  if ((getRows() && failed(checkRank(op, "rows", getRows(), 1))) ||
      failed(checkRank(op, "codes", getCodes(), 2)) ||
      failed(checkSize(op, "codes' features", dim(getCodes(), 1),
                       "the input's features", dim(getInput(), 1))) ||
      failed(getRows() ? checkSize(op, "codes' rows", dim(getCodes(), 0),
                                   "the number of rows", dim(getRows(), 0))
                       : checkSize(op, "codes' rows", dim(getCodes(), 0),
                                   "the input's tokens", dim(getInput(), 0))))
    return failure();
  // C4
  if (failed(checkRowScheme(op, getScheme())))
    return failure();
  return checkScales(op, getScheme(), getCodes(), getScales(),
                     /*zeroPoints=*/{});
}

LogicalResult SwigluQuantizeOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 2)) ||
      failed(checkRank(op, "codes", getCodes(), 2)) ||
      failed(checkSize(op, "codes' rows", dim(getCodes(), 0),
                       "the input's tokens", dim(getInput(), 0))))
    return failure();
  if (dim(getInput(), 1) != 2 * dim(getCodes(), 1))
    return emitOpError() << "input must have twice the codes' features, got "
                         << dim(getInput(), 1) << " and " << dim(getCodes(), 1);
  // C2
  if (failed(checkRowScheme(op, getScheme())))
    return failure();
  return checkScales(op, getScheme(), getCodes(), getScales(),
                     /*zeroPoints=*/{});
}

/// Checks a layer's cache: [pages, 2, kvHeads, headDim * pageTokens].
static LogicalResult checkCache(Operation *op, Value cache, int64_t kvHeads,
                                int64_t headDim, int64_t pageTokens) {
  if (failed(checkRank(op, "cache", cache, 4)))
    return failure();
  if (pageTokens <= 0 || dim(cache, 1) != 2 || dim(cache, 2) != kvHeads ||
      dim(cache, 3) != headDim * pageTokens)
    return op->emitOpError()
           << "cache must be [pages, 2, " << kvHeads << ", "
           << headDim * pageTokens << "], got " << shapeText(cache.getType());
  return success();
}

LogicalResult RopeAppendOp::verify() {
  Operation *op = *this;
  // C2
  if (failed(checkRank(op, "table", getTable(), 3)))
    return failure();
  int64_t headDim = getHeadDim();
  if (headDim <= 0 || dim(getTable(), 2) != 2)
    return emitOpError()
           << "table must be [contextLength, headDim / 2, 2], got "
           << shapeText(getTable().getType());
  // C1
  if (failed(checkRank(op, "qkv", getQkv(), 2)) ||
      failed(checkRank(op, "query", getQuery(), 2)) ||
      failed(checkSize(op, "qkv's features", dim(getQkv(), 1),
                       "(heads + 2 * kv_heads) * head size",
                       (getHeads() + 2 * getKvHeads()) * headDim)) ||
      failed(checkHeads(op, getHeads(), getKvHeads(), dim(getQuery(), 1),
                        getKvHeads() * headDim)))
    return failure();
  // C4
  if (failed(checkRank(op, "positions", getPositions(), 1)) ||
      failed(checkRank(op, "token sequences", getTokenSequences(), 1)) ||
      failed(checkRank(op, "block tables", getBlockTables(), 2)))
    return failure();
  if (getUpdatedCache().getType() != getCache().getType())
    return emitOpError("updated cache must have the cache's type");
  // C3
  return checkCache(op, getCache(), getKvHeads(), headDim, getPageTokens());
}

LogicalResult PagedAttentionOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "query", getQuery(), 2)) ||
      failed(checkRank(op, "positions", getPositions(), 1)) ||
      failed(checkRank(op, "token sequences", getTokenSequences(), 1)) ||
      failed(checkRank(op, "block tables", getBlockTables(), 2)))
    return failure();
  if (getResult().getType() != getQuery().getType())
    return emitOpError("result must have the query's type");
  // C3
  int64_t features = dim(getQuery(), 1);
  int64_t headDim = getHeads() > 0 && features != kDynamic
                        ? features / static_cast<int64_t>(getHeads())
                        : 0;
  if (failed(checkHeads(op, getHeads(), getKvHeads(), features,
                        headDim * getKvHeads())))
    return failure();
  // C2
  return checkCache(op, getCache(), getKvHeads(), headDim, getPageTokens());
}

LogicalResult LaunchOp::verify() {
  // C1
  for (Attribute attr : getArgs()) {
    auto arg = dyn_cast<ArgAttr>(attr);
    if (!arg)
      return emitOpError() << "args must be #qlm.arg, got " << attr;
    if (arg.getValue() < 0 ||
        (arg.getSpace() == ArgSpace::Weight &&
         arg.getValue() >= static_cast<int64_t>(getWeights().size())))
      return emitOpError() << "argument " << arg << " is out of range: the "
                           << "launch has " << getWeights().size()
                           << " weights";
  }
  return success();
}
