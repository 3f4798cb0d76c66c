//===- ImageRows.cpp - Images that lie a pixel a row ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ImageRows.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace mlir::qlm;

Attribute mlir::qlm::getOnlyElement(Value value) {
  DenseElementsAttr elements;
  if (!matchPattern(value, m_Constant(&elements)) ||
      elements.getNumElements() != 1)
    return {};
  return *elements.value_begin<Attribute>();
}

static RankedTensorType getRanked(Value value) {
  return cast<RankedTensorType>(value.getType());
}

/// Whether \p type is `[n, c, h, w]` of which only n may be open.
static bool isImage(Type type) {
  auto image = dyn_cast<RankedTensorType>(type);
  return image && image.getRank() == 4 &&
         llvm::all_of(image.getShape().drop_front(),
                      [](int64_t size) { return size > 0; });
}

static RankedTensorType getRowsType(RankedTensorType image) {
  int64_t pixels = image.getDimSize(2) * image.getDimSize(3);
  int64_t count = image.isDynamicDim(0) ? ShapedType::kDynamic
                                        : image.getDimSize(0) * pixels;
  return RankedTensorType::get({count, image.getDimSize(1)},
                               image.getElementType());
}

//===----------------------------------------------------------------------===//
// From images to rows, and back
//===----------------------------------------------------------------------===//

/// A tensor of \p type whose open first size is that of \p like.
Value ImageRows::makeEmpty(Value like, RankedTensorType type) {
  SmallVector<Value> open;
  if (type.isDynamicDim(0))
    open.push_back(tensor::DimOp::create(b, like.getLoc(), like, 0));
  return tensor::EmptyOp::create(b, like.getLoc(), type.getShape(),
                                 type.getElementType(), open);
}

Value ImageRows::turn(Value image) {
  b.setInsertionPointAfterValue(image);
  Location loc = image.getLoc();
  RankedTensorType type = getRanked(image);
  ArrayRef<int64_t> shape = type.getShape();
  if (shape[2] == 1 && shape[3] == 1)
    return tensor::CollapseShapeOp::create(
        b, loc, getRowsType(type), image,
        ArrayRef<ReassociationIndices>{{0}, {1, 2, 3}});
  auto turned = RankedTensorType::get({shape[0], shape[2], shape[3], shape[1]},
                                      type.getElementType());
  Value result =
      linalg::TransposeOp::create(b, loc, image, makeEmpty(image, turned),
                                  ArrayRef<int64_t>{0, 2, 3, 1})
          ->getResult(0);
  return tensor::CollapseShapeOp::create(
      b, loc, getRowsType(type), result,
      ArrayRef<ReassociationIndices>{{0, 1, 2}, {3}});
}

Value ImageRows::turnBack(Value image, Value from) {
  b.setInsertionPointAfterValue(from);
  Location loc = from.getLoc();
  RankedTensorType type = getRanked(image);
  ArrayRef<int64_t> shape = type.getShape();
  OpFoldResult count = b.getIndexAttr(shape[0]);
  int64_t pixels = shape[2] * shape[3];
  if (type.isDynamicDim(0))
    count =
        arith::DivUIOp::create(b, loc, tensor::DimOp::create(b, loc, from, 0),
                               arith::ConstantIndexOp::create(b, loc, pixels))
            .getResult();
  auto sizes = [&](ArrayRef<int64_t> rest) {
    SmallVector<OpFoldResult> list{count};
    for (int64_t size : rest)
      list.push_back(b.getIndexAttr(size));
    return list;
  };
  if (pixels == 1)
    return tensor::ExpandShapeOp::create(
        b, loc, type, from, ArrayRef<ReassociationIndices>{{0}, {1, 2, 3}},
        sizes({shape[1], 1, 1}));
  auto turned = RankedTensorType::get({shape[0], shape[2], shape[3], shape[1]},
                                      type.getElementType());
  Value result = tensor::ExpandShapeOp::create(
      b, loc, turned, from, ArrayRef<ReassociationIndices>{{0, 1, 2}, {3}},
      sizes({shape[2], shape[3], shape[1]}));
  return linalg::TransposeOp::create(b, loc, result, makeEmpty(result, type),
                                     ArrayRef<int64_t>{0, 3, 1, 2})
      ->getResult(0);
}

//===----------------------------------------------------------------------===//
// Operations element by element
//===----------------------------------------------------------------------===//

/// What an operand of an operation on images gives to the element at n, c, h,
/// w: its element there, the channel's, or the only one.
enum class OperandKind { Image, Channel, One, Other };

static OperandKind getKind(linalg::GenericOp op, OpOperand &operand) {
  auto type = dyn_cast<RankedTensorType>(operand.get().getType());
  if (!type)
    return OperandKind::Other;
  AffineMap map = op.getMatchingIndexingMap(&operand);
  // A size of 1 has the index 0.
  bool isWhole = isImage(type) && map.getNumResults() == 4 &&
                 type.getShape() == getRanked(op.getResult(0)).getShape();
  for (auto [axis, place] : llvm::enumerate(map.getResults()))
    isWhole &= place == getAffineDimExpr(axis, op.getContext()) ||
               type.getDimSize(axis) == 1;
  if (isWhole)
    return OperandKind::Image;
  if (map.isIdentity())
    return OperandKind::Other;
  if (type.hasStaticShape() && type.getNumElements() == 1)
    return OperandKind::One;
  for (auto [axis, place] : llvm::enumerate(map.getResults())) {
    bool isChannel = place == getAffineDimExpr(1, op.getContext());
    if (type.getDimSize(axis) != 1 && !isChannel)
      return OperandKind::Other;
  }
  return type.hasStaticShape() ? OperandKind::Channel : OperandKind::Other;
}

static bool isMap(linalg::GenericOp op) {
  if (op.getNumResults() != 1 || !isImage(op.getResult(0).getType()) ||
      op.getNumLoops() != 4 || op.getNumParallelLoops() != 4 ||
      !op.getMatchingIndexingMap(op.getDpsInitOperand(0)).isIdentity() ||
      !op.getBody()->getArguments().back().use_empty())
    return false;
  if (!op.getBody()->getOps<linalg::IndexOp>().empty())
    return false;
  bool hasImage = false;
  for (OpOperand *operand : op.getDpsInputOperands()) {
    OperandKind kind = getKind(op, *operand);
    if (kind == OperandKind::Other)
      return false;
    hasImage |= kind == OperandKind::Image;
  }
  return hasImage;
}

/// Whether codes have one scale and zero point, which are constants, or one of
/// each channel.
template <typename Op> static bool isCodes(Op op) {
  auto scale = getRanked(op.getScale());
  bool isOne = scale.getRank() == 0 || scale.getNumElements() == 1;
  return isImage(op.getType()) && (isOne || op.getAxis() == 1) &&
         (!op.getUnsignedCodes() ||
          (isOne && (!op.getZeroPoint() || getOnlyElement(op.getZeroPoint()))));
}

bool ImageRows::isElementwise(Operation *op) {
  if (auto generic = dyn_cast<linalg::GenericOp>(op))
    return isMap(generic);
  if (auto quantize = dyn_cast<graph::QuantizeOp>(op))
    return isCodes(quantize);
  auto dequantize = dyn_cast<graph::DequantizeOp>(op);
  return dequantize && isCodes(dequantize) &&
         getRanked(dequantize.getInput()).getElementType().isInteger(8);
}

bool ImageRows::isReady(Operation *op) const {
  if (!isElementwise(op))
    return false;
  auto generic = dyn_cast<linalg::GenericOp>(op);
  if (!generic)
    return has(op->getOperand(0));
  return llvm::all_of(generic.getDpsInputOperands(), [&](OpOperand *operand) {
    return getKind(generic, *operand) != OperandKind::Image ||
           has(operand->get());
  });
}

/// Unsigned codes as signed ones, or back.
Value ImageRows::flip(Value codes) {
  b.setInsertionPointAfterValue(codes);
  RankedTensorType type = getRanked(codes);
  AffineMap map = b.getMultiDimIdentityMap(2);
  SmallVector<utils::IteratorType> loops(2, utils::IteratorType::parallel);
  return linalg::GenericOp::create(
             b, codes.getLoc(), type, codes, makeEmpty(codes, type),
             ArrayRef<AffineMap>{map, map}, loops,
             [](OpBuilder &nested, Location at, ValueRange elements) {
               Value bit = arith::ConstantOp::create(
                   nested, at, nested.getI8IntegerAttr(-128));
               Value code = arith::XOrIOp::create(nested, at, elements[0], bit);
               linalg::YieldOp::create(nested, at, code);
             })
      .getResult(0);
}

/// The zero point of signed codes for those with \p zeroPoint, or none, which
/// are unsigned.
static Value shiftZeroPoint(OpBuilder &b, Value zeroPoint, Value scale) {
  int64_t code = 0;
  if (zeroPoint)
    code =
        cast<IntegerAttr>(getOnlyElement(zeroPoint)).getValue().getZExtValue();
  auto type = getRanked(scale).clone(b.getI8Type());
  return arith::ConstantOp::create(
      b, scale.getLoc(),
      DenseElementsAttr::get(type, APInt(8, code - 128, /*isSigned=*/true)));
}

/// What \p rows are codes of, if they are dequantized by the scale and the zero
/// point that \p op rounds by.
static Value getSameCodes(Value rows, graph::QuantizeOp op, Value zeroPoint) {
  auto from = rows.getDefiningOp<graph::DequantizeOp>();
  if (!from || from.getUnsignedCodes() ||
      !getRanked(from.getInput()).getElementType().isInteger(8))
    return {};
  auto code = [](Value point) -> std::optional<int64_t> {
    if (!point)
      return 0;
    auto element = dyn_cast_or_null<IntegerAttr>(getOnlyElement(point));
    return element ? std::optional(element.getInt()) : std::nullopt;
  };
  Attribute scale = getOnlyElement(op.getScale());
  if (!scale || scale != getOnlyElement(from.getScale()))
    return {};
  auto own = code(zeroPoint), other = code(from.getZeroPoint());
  return own && own == other ? from.getInput() : Value();
}

Value ImageRows::getSigned(Value codes, bool isUnsigned) {
  if (!isUnsigned)
    return get(codes);
  if (Value known = signedRows.lookup(codes))
    return known;
  auto op = codes.getDefiningOp<graph::QuantizeOp>();
  Value result;
  if (op && op.getUnsignedCodes() && isElementwise(op)) {
    Value input = get(op.getInput());
    b.setInsertionPointAfter(op);
    Value zero = shiftZeroPoint(b, op.getZeroPoint(), op.getScale());
    result = getSameCodes(input, op, zero);
    if (!result)
      result = graph::QuantizeOp::create(
          b, op.getLoc(), getRanked(input).clone(b.getI8Type()), input,
          op.getScale(), zero, op.getAxisAttr(), UnitAttr());
    replaced.insert(codes);
  } else {
    result = flip(get(codes));
  }
  return signedRows[codes] = result;
}

/// The rows of codes that \p op rounds rows to.
Value ImageRows::mapQuantize(graph::QuantizeOp op) {
  if (op.getUnsignedCodes())
    return flip(getSigned(op, /*isUnsigned=*/true));
  Value input = get(op.getInput());
  if (Value codes = getSameCodes(input, op, op.getZeroPoint()))
    return codes;
  b.setInsertionPointAfter(op);
  return graph::QuantizeOp::create(
      b, op.getLoc(), getRanked(input).clone(b.getI8Type()), input,
      op.getScale(), op.getZeroPoint(), op.getAxisAttr(), UnitAttr());
}

/// The rows that codes stand for, which are signed from here on.
Value ImageRows::mapDequantize(graph::DequantizeOp op) {
  bool isUnsigned = op.getUnsignedCodes();
  Value codes = getSigned(op.getInput(), isUnsigned);
  b.setInsertionPointAfter(op);
  Value zero = op.getZeroPoint();
  if (isUnsigned)
    zero = shiftZeroPoint(b, zero, op.getScale());
  return graph::DequantizeOp::create(
      b, op.getLoc(), getRanked(codes).clone(b.getF32Type()), codes,
      op.getScale(), zero, op.getAxisAttr(), UnitAttr());
}

/// The rows that a map makes of its operands' rows.
Value ImageRows::mapGeneric(linalg::GenericOp generic) {
  Location loc = generic.getLoc();
  SmallVector<Value> inputs;
  SmallVector<AffineMap> maps;
  Value like;
  for (OpOperand *operand : generic.getDpsInputOperands())
    if (getKind(generic, *operand) == OperandKind::Image)
      like = get(operand->get());
  b.setInsertionPointAfter(generic);
  for (OpOperand *operand : generic.getDpsInputOperands()) {
    Value value = operand->get();
    RankedTensorType type = getRanked(value);
    switch (getKind(generic, *operand)) {
    case OperandKind::Image:
      value = get(value);
      b.setInsertionPointAfter(generic);
      maps.push_back(b.getMultiDimIdentityMap(2));
      break;
    case OperandKind::Channel:
      if (type.getRank() > 1)
        value = tensor::CollapseShapeOp::create(
            b, loc, value,
            ArrayRef<ReassociationIndices>{
                llvm::to_vector<2>(llvm::seq<int64_t>(type.getRank()))});
      maps.push_back(AffineMap::get(2, 0, b.getAffineDimExpr(1)));
      break;
    default:
      maps.push_back(AffineMap::get(
          2, 0,
          SmallVector<AffineExpr>(type.getRank(), b.getAffineConstantExpr(0)),
          b.getContext()));
    }
    inputs.push_back(value);
  }
  maps.push_back(b.getMultiDimIdentityMap(2));
  RankedTensorType type = getRowsType(getRanked(generic.getResult(0)));
  SmallVector<utils::IteratorType> loops(2, utils::IteratorType::parallel);
  auto mapped = linalg::GenericOp::create(b, loc, type, inputs,
                                          makeEmpty(like, type), maps, loops);
  IRMapping mapping;
  generic.getRegion().cloneInto(&mapped.getRegion(), mapping);
  return mapped.getResult(0);
}

Value ImageRows::get(Value image) {
  if (Value known = rows.lookup(image))
    return known;
  Operation *op = image.getDefiningOp();
  if (!op || !isElementwise(op))
    return rows[image] = turn(image);
  Value result;
  if (auto quantize = dyn_cast<graph::QuantizeOp>(op))
    result = mapQuantize(quantize);
  else if (auto dequantize = dyn_cast<graph::DequantizeOp>(op))
    result = mapDequantize(dequantize);
  else
    result = mapGeneric(cast<linalg::GenericOp>(op));
  set(image, result);
  return result;
}

void ImageRows::set(Value image, Value from) {
  rows[image] = from;
  replaced.insert(image);
}

void ImageRows::finish() {
  // Users come after what they use in `replaced`, since they are made of it.
  for (Value image : llvm::reverse(replaced.getArrayRef())) {
    Operation *op = image.getDefiningOp();
    if (!image.use_empty()) {
      Value from = rows.lookup(image);
      if (!from)
        from = flip(signedRows.lookup(image));
      image.replaceAllUsesWith(turnBack(image, from));
    }
    op->erase();
  }
}
