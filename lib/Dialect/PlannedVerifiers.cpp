//===- PlannedVerifiers.cpp - Constraints of the planned step -------------===//
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

#include "qlm/Dialect/GatedLinear.h"
#include "qlm/Package/Format.h"

using namespace mlir;
using namespace mlir::qlm;

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

/// Checks scales that are codes, of [rows, groups] shape \p shape.
static LogicalResult checkDoubleQuantized(PackedLinearOp op, SchemeAttr scheme,
                                          ArrayRef<int64_t> shape) {
  if (shape.size() != 2 || !scheme.getScaleType().isF32())
    return op.emitOpError("super scales need f32 scales by groups, got ")
           << scheme;
  auto codeType = IntegerType::get(op.getContext(), 8, IntegerType::Unsigned);
  if (failed(checkPacked(op, "scales", op.getScales(),
                         RankedTensorType::get(shape, codeType),
                         LayoutKind::ScaleCode)))
    return failure();
  auto expected =
      RankedTensorType::get({getSuperScaleCount(shape[0] * shape[1])},
                            Float32Type::get(op.getContext()));
  if (op.getSuperScales().getType() != expected)
    return op.emitOpError()
           << "super scales must be " << shapeText(expected) << ", got "
           << shapeText(op.getSuperScales().getType());
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
  if (kind != getWeightLayout(element) &&
      kind != getGpuWeightLayout(element, static_cast<bool>(getInputScales())))
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
    if (failed(checkExact(op, *scheme, getInput(), getInputScales())))
      return failure();
    if (getSuperScales()) {
      if (failed(checkDoubleQuantized(*this, *scheme, shape)))
        return failure();
    } else if (failed(checkPacked(
                   op, "scales", getScales(),
                   RankedTensorType::get(shape, scheme->getScaleType()),
                   LayoutKind::Scale))) {
      return failure();
    }
    if (getZeroPoints() &&
        failed(checkPacked(op, "zero points", getZeroPoints(),
                           RankedTensorType::get(shape, scheme->getStorage()),
                           LayoutKind::ZeroPoint)))
      return failure();
  } else if (getSuperScales()) {
    return emitOpError("super scales need a scheme");
  } else if (getInputScales()) {
    return emitOpError() << shapeText(
                                getElementTypeOrSelf(getInput().getType()))
                         << " activations need a quantized weight";
  }
  // C3
  if (getBias() &&
      failed(checkPacked(
          op, "bias", getBias(),
          RankedTensorType::get({rows}, Float32Type::get(getContext())),
          LayoutKind::Bias)))
    return failure();
  int64_t features = rows;
  if (isGated(*this)) {
    constexpr int64_t kPair = 2 * ::qlm::format::kRowBlock;
    if (rows % kPair != 0)
      return emitOpError() << "gated out features must be a multiple of "
                           << kPair << ", got " << rows;
    if (getResidual())
      return emitOpError("is gated and has a residual");
    features /= 2;
  }
  // C1, C3
  if (failed(checkLinear(op, getInput(), getInputScales(), columns, features,
                         getResidual(), getResult())))
    return failure();
  // C4
  return checkOutlierProduct(op, scheme, getInput(), getInputScales(),
                             getOutliers());
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
  if (failed(checkRowScheme(op, getScheme())) ||
      failed(checkThreshold(op, getThreshold(), getCodes(), getOutliers())))
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
  if (failed(checkRowScheme(op, getScheme())) ||
      failed(checkThreshold(op, getThreshold(), getCodes(), getOutliers())))
    return failure();
  return checkScales(op, getScheme(), getCodes(), getScales(),
                     /*zeroPoints=*/{});
}

/// Checks a layer's cache: [pages, 2, kvHeads, headDim * pageTokens], or with
/// room for scales.
static LogicalResult checkCache(Operation *op, Value cache, int64_t kvHeads,
                                int64_t headDim, int64_t pageTokens,
                                std::optional<Type> codes) {
  if (failed(checkRank(op, "cache", cache, 4)))
    return failure();
  if (codes && !codes->isInteger(8) && !isa<Float8E4M3FNType>(*codes))
    return op->emitOpError("codes must be i8 or f8E4M3FN, got ") << *codes;
  Type element = cast<RankedTensorType>(cache.getType()).getElementType();
  if (element.isInteger(8) != codes.has_value())
    return op->emitOpError(
               "cache must have i8 elements exactly if it has codes, got ")
           << element;
  int64_t width = getCacheWidth(headDim, pageTokens, codes.has_value());
  if (pageTokens <= 0 || dim(cache, 1) != 2 || dim(cache, 2) != kvHeads ||
      dim(cache, 3) != width)
    return op->emitOpError()
           << "cache must be [pages, 2, " << kvHeads << ", " << width
           << "], got " << shapeText(cache.getType());
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
  return checkCache(op, getCache(), getKvHeads(), headDim, getPageTokens(),
                    getCodes());
}

LogicalResult PagedAttentionOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "query", getQuery(), 2)) ||
      failed(checkRank(op, "positions", getPositions(), 1)) ||
      failed(checkRank(op, "token sequences", getTokenSequences(), 1)) ||
      failed(checkRank(op, "block tables", getBlockTables(), 2)))
    return failure();
  if (cast<RankedTensorType>(getResult().getType()).getShape() !=
      cast<RankedTensorType>(getQuery().getType()).getShape())
    return emitOpError("result must have the query's shape");
  // C3
  int64_t features = dim(getQuery(), 1);
  int64_t headDim = getHeads() > 0 && features != kDynamic
                        ? features / static_cast<int64_t>(getHeads())
                        : 0;
  if (failed(checkHeads(op, getHeads(), getKvHeads(), features,
                        headDim * getKvHeads())))
    return failure();
  // C2
  if (failed(checkCache(op, getCache(), getKvHeads(), headDim, getPageTokens(),
                        getCodes())))
    return failure();
  // C4
  return checkWindow(op, getWindow());
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
  // C2
  bool onGpu = static_cast<bool>(getVariants());
  if (static_cast<bool>(getRows()) != onGpu ||
      static_cast<bool>(getKernel()) == onGpu ||
      static_cast<bool>(getTiles()) == onGpu)
    return emitOpError("needs either a kernel and tiles, or rows and variants");
  if (!onGpu)
    return success();
  if (getVariants()->empty())
    return emitOpError("needs at least one variant");
  for (Attribute attr : getVariantsAttr())
    if (!isa<VariantAttr>(attr))
      return emitOpError() << "variants must be #qlm.variant, got " << attr;
  return success();
}
