//===- LowerConvolutions.cpp - Convolutions to linears of windows ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ImageRows.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Lower/GraphPasses.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_LOWERCONVOLUTIONS
#include "qlm/Lower/GraphPasses.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct LowerConvolutionsPass
    : mlir::qlm::impl::LowerConvolutionsBase<LowerConvolutionsPass> {
  using Base::Base;
  void runOnOperation() override;
};
} // namespace

static RankedTensorType getRanked(Value value) {
  return cast<RankedTensorType>(value.getType());
}

//===----------------------------------------------------------------------===//
// Normalization
//===----------------------------------------------------------------------===//

/// Makes \p op part of the convolution that it alone takes.
static bool foldNormalize(graph::NormalizeOp op) {
  auto conv = op.getInput().getDefiningOp<graph::ConvOp>();
  if (!conv || !conv->hasOneUse() || conv.getGroups() != 1)
    return false;
  // Codes would have to be rounded again.
  if (conv.getWeight().getDefiningOp<graph::DequantizeOp>())
    return false;
  OpBuilder b(op);
  Value weight = graph::NormalizedWeightOp::create(
      b, conv.getLoc(), conv.getWeight().getType(), conv.getWeight(),
      op.getScale(), op.getVariance(), op.getEpsilonAttr());
  Value bias = graph::NormalizedBiasOp::create(
      b, conv.getLoc(), op.getScale().getType(), op.getScale(), op.getShift(),
      op.getMean(), op.getVariance(), conv.getBias(), op.getEpsilonAttr());
  auto folded = graph::ConvOp::create(
      b, conv.getLoc(), conv.getType(), conv.getInput(), weight, bias,
      conv.getPadsAttr(), conv.getStridesAttr(), conv.getDilationsAttr(),
      conv.getGroupsAttr());
  op.replaceAllUsesWith(folded.getResult());
  op.erase();
  conv.erase();
  return true;
}

/// Spells \p op out, element by element.
static void expandNormalize(graph::NormalizeOp op) {
  OpBuilder b(op);
  Location loc = op.getLoc();
  RankedTensorType type = getRanked(op.getInput());
  Value empty = tensor::EmptyOp::create(
      b, loc, tensor::getMixedSizes(b, loc, op.getInput()),
      type.getElementType());
  AffineMap image = b.getMultiDimIdentityMap(4);
  AffineMap channel = AffineMap::get(4, 0, b.getAffineDimExpr(1));
  SmallVector<utils::IteratorType> loops(4, utils::IteratorType::parallel);
  auto body = [&](OpBuilder &nested, Location at, ValueRange e) {
    Value epsilon = arith::ConstantOp::create(nested, at, op.getEpsilonAttr());
    Value deviation = math::SqrtOp::create(
        nested, at, arith::AddFOp::create(nested, at, e[4], epsilon));
    Value v = arith::SubFOp::create(nested, at, e[0], e[3]);
    v = arith::DivFOp::create(nested, at, v, deviation);
    v = arith::MulFOp::create(nested, at, v, e[1]);
    v = arith::AddFOp::create(nested, at, v, e[2]);
    linalg::YieldOp::create(nested, at, v);
  };
  auto generic = linalg::GenericOp::create(
      b, loc, type, op.getOperands(), empty,
      ArrayRef<AffineMap>{image, channel, channel, channel, channel, image},
      loops, body);
  op.replaceAllUsesWith(generic.getResult(0));
  op.erase();
}

//===----------------------------------------------------------------------===//
// Convolutions
//===----------------------------------------------------------------------===//

/// Kernels `[m, c, h, w]` in the order of windows, `[m, h * w * c]`.
static Value orderKernels(OpBuilder &b, Location loc, Value weight) {
  RankedTensorType type = getRanked(weight);
  ArrayRef<int64_t> shape = type.getShape();
  Value empty = tensor::EmptyOp::create(
      b, loc, ArrayRef<int64_t>{shape[0], shape[2], shape[3], shape[1]},
      type.getElementType());
  Value turned = linalg::TransposeOp::create(b, loc, weight, empty,
                                             ArrayRef<int64_t>{0, 2, 3, 1})
                     ->getResult(0);
  return tensor::CollapseShapeOp::create(
      b, loc, turned, ArrayRef<ReassociationIndices>{{0}, {1, 2, 3}});
}

/// The same of what codes stand for: the codes are put in order.
static Value orderWeight(OpBuilder &b, graph::ConvOp op) {
  Location loc = op.getLoc();
  auto codes = op.getWeight().getDefiningOp<graph::DequantizeOp>();
  bool isRowWise = codes && (codes.getAxis() == 0 ||
                             getRanked(codes.getScale()).getNumElements() == 1);
  if (!isRowWise)
    return orderKernels(b, loc, op.getWeight());
  Value ordered = orderKernels(b, loc, codes.getInput());
  return graph::DequantizeOp::create(
      b, loc, getRanked(ordered).clone(b.getF32Type()), ordered,
      codes.getScale(), codes.getZeroPoint(), b.getI64IntegerAttr(0),
      codes.getUnsignedCodesAttr());
}

/// The windows of \p rows, with \p outside where they leave the image.
static Value makeWindows(OpBuilder &b, graph::ConvOp op, Value rows,
                         int64_t outside) {
  ArrayRef<int64_t> image = getRanked(op.getInput()).getShape(),
                    kernel = getRanked(op.getWeight()).getShape(),
                    result = getRanked(op).getShape(), pads = op.getPads();
  if (kernel[2] * kernel[3] == 1 &&
      image.drop_front(2) == result.drop_front(2) && pads[0] == 0 &&
      pads[1] == 0)
    return rows;
  RankedTensorType type = getRanked(rows);
  int64_t count = ShapedType::kDynamic;
  if (!type.isDynamicDim(0))
    count = image[0] * result[2] * result[3];
  auto list = [&](ArrayRef<int64_t> numbers) {
    return b.getDenseI64ArrayAttr(numbers);
  };
  return graph::WindowsOp::create(
      b, op.getLoc(),
      RankedTensorType::get({count, kernel[2] * kernel[3] * image[1]},
                            type.getElementType()),
      rows, list(image.drop_front(2)), list(kernel.drop_front(2)),
      list(result.drop_front(2)), list(pads.take_front(2)), op.getStridesAttr(),
      op.getDilationsAttr(), b.getI64IntegerAttr(outside));
}

/// The windows of \p op's image: of codes, where the weight has codes too.
static Value getWindows(OpBuilder &b, graph::ConvOp op, ImageRows &images) {
  auto codes = op.getInput().getDefiningOp<graph::DequantizeOp>();
  if (codes && op.getWeight().getDefiningOp<graph::DequantizeOp>() &&
      ImageRows::isElementwise(codes)) {
    auto rows = images.get(codes).getDefiningOp<graph::DequantizeOp>();
    Attribute zero,
        scale = rows ? getOnlyElement(rows.getScale()) : Attribute();
    if (scale && rows.getZeroPoint())
      zero = getOnlyElement(rows.getZeroPoint());
    if (scale && !rows.getUnsignedCodes() && (zero || !rows.getZeroPoint())) {
      b.setInsertionPoint(op);
      int64_t outside = zero ? cast<IntegerAttr>(zero).getInt() : 0;
      Value windows = makeWindows(b, op, rows.getInput(), outside);
      return graph::DequantizeOp::create(
          b, op.getLoc(), getRanked(windows).clone(b.getF32Type()), windows,
          rows.getScale(), rows.getZeroPoint(), b.getI64IntegerAttr(0),
          UnitAttr());
    }
  }
  Value rows = images.get(op.getInput());
  b.setInsertionPoint(op);
  return makeWindows(b, op, rows, /*outside=*/0);
}

static void lowerConv(graph::ConvOp op, ImageRows &images) {
  OpBuilder b(op);
  Value windows = getWindows(b, op, images);
  Value weight = orderWeight(b, op);
  auto type = RankedTensorType::get(
      {getRanked(windows).getDimSize(0), getRanked(op).getDimSize(1)},
      b.getF32Type());
  images.set(op, LinearOp::create(b, op.getLoc(), type, windows, weight,
                                  op.getBias(), /*residual=*/Value()));
}

//===----------------------------------------------------------------------===//
// Convolutions in groups
//===----------------------------------------------------------------------===//

/// Rows as images `[n, h, w, g, c]`, of which n is \p count.
static Value expandRows(OpBuilder &b, Location loc, Value rows,
                        OpFoldResult count, ArrayRef<int64_t> rest) {
  SmallVector<OpFoldResult> sizes{count};
  SmallVector<int64_t> shape{ShapedType::kDynamic};
  if (auto known = getConstantIntValue(count))
    shape[0] = *known;
  for (int64_t size : rest) {
    sizes.push_back(b.getIndexAttr(size));
    shape.push_back(size);
  }
  return tensor::ExpandShapeOp::create(
      b, loc, RankedTensorType::get(shape, getRanked(rows).getElementType()),
      rows, ArrayRef<ReassociationIndices>{{0, 1, 2}, {3, 4}}, sizes);
}

/// Zeros around the images `[n, h, w, g, c]`.
static Value padImages(OpBuilder &b, graph::ConvOp op, Value images) {
  ArrayRef<int64_t> pads = op.getPads();
  if (llvm::all_of(pads, [](int64_t pad) { return pad == 0; }))
    return images;
  auto list = [&](int64_t y, int64_t x) {
    SmallVector<OpFoldResult> sizes(5, b.getIndexAttr(0));
    sizes[1] = b.getIndexAttr(y);
    sizes[2] = b.getIndexAttr(x);
    return sizes;
  };
  SmallVector<int64_t> shape(getRanked(images).getShape());
  shape[1] += pads[0] + pads[2];
  shape[2] += pads[1] + pads[3];
  Value zero = arith::ConstantOp::create(b, op.getLoc(), b.getF32FloatAttr(0));
  return tensor::PadOp::create(
      b, op.getLoc(), RankedTensorType::get(shape, b.getF32Type()), images,
      list(pads[0], pads[1]), list(pads[2], pads[3]), zero);
}

/// `sums[n, y, x, g, m] += images[n, ..., g, c] * kernels[i, j, c, (g, m)]`,
/// the groups side by side in memory.
static Value sumGroups(OpBuilder &b, graph::ConvOp op, Value images,
                       Value kernels, Value sums) {
  // n, y, x, i, j, c, g, m
  constexpr int64_t kLoops = 8;
  auto d = [&](int64_t i) { return b.getAffineDimExpr(i); };
  ArrayRef<int64_t> strides = op.getStrides(), dilations = op.getDilations();
  int64_t own = getRanked(op).getDimSize(1) / op.getGroups();
  auto map = [&](ArrayRef<AffineExpr> places) {
    return AffineMap::get(kLoops, 0, places, b.getContext());
  };
  SmallVector<AffineMap> maps{
      map({d(0), d(1) * strides[0] + d(3) * dilations[0],
           d(2) * strides[1] + d(4) * dilations[1], d(6), d(5)}),
      map({d(3), d(4), d(5), d(6) * own + d(7)}),
      map({d(0), d(1), d(2), d(6), d(7)})};
  SmallVector<utils::IteratorType> loops(kLoops, utils::IteratorType::parallel);
  for (int64_t i : {3, 4, 5})
    loops[i] = utils::IteratorType::reduction;
  return linalg::GenericOp::create(
             b, op.getLoc(), sums.getType(), ValueRange{images, kernels}, sums,
             maps, loops,
             [](OpBuilder &nested, Location at, ValueRange e) {
               Value product = arith::MulFOp::create(nested, at, e[0], e[1]);
               Value sum = arith::AddFOp::create(nested, at, e[2], product);
               linalg::YieldOp::create(nested, at, sum);
             })
      .getResult(0);
}

/// Adds a channel's number to each of its pixels.
static Value addBias(OpBuilder &b, Location loc, Value rows, Value bias) {
  RankedTensorType type = getRanked(rows);
  Value init = tensor::EmptyOp::create(
      b, loc, tensor::getMixedSizes(b, loc, rows), b.getF32Type());
  AffineMap identity = b.getMultiDimIdentityMap(2);
  AffineMap channel = AffineMap::get(2, 0, b.getAffineDimExpr(1));
  SmallVector<utils::IteratorType> loops(2, utils::IteratorType::parallel);
  return linalg::GenericOp::create(
             b, loc, type, ValueRange{rows, bias}, init,
             ArrayRef<AffineMap>{identity, channel, identity}, loops,
             [](OpBuilder &nested, Location at, ValueRange e) {
               Value sum = arith::AddFOp::create(nested, at, e[0], e[1]);
               linalg::YieldOp::create(nested, at, sum);
             })
      .getResult(0);
}

static void lowerGroups(graph::ConvOp op, ImageRows &images) {
  OpBuilder b(op);
  Location loc = op.getLoc();
  Value rows = images.get(op.getInput());
  b.setInsertionPoint(op);
  ArrayRef<int64_t> image = getRanked(op.getInput()).getShape(),
                    kernel = getRanked(op.getWeight()).getShape(),
                    result = getRanked(op).getShape();
  int64_t groups = op.getGroups();
  OpFoldResult count = tensor::getMixedSize(b, loc, op.getInput(), 0);
  Value input =
      padImages(b, op,
                expandRows(b, loc, rows, count,
                           {image[2], image[3], groups, image[1] / groups}));
  Value empty = tensor::EmptyOp::create(
      b, loc, ArrayRef<int64_t>{kernel[2], kernel[3], kernel[1], kernel[0]},
      b.getF32Type());
  Value kernels = linalg::TransposeOp::create(b, loc, op.getWeight(), empty,
                                              ArrayRef<int64_t>{2, 3, 1, 0})
                      ->getResult(0);
  SmallVector<OpFoldResult> sizes{count};
  for (int64_t size : {result[2], result[3], groups, result[1] / groups})
    sizes.push_back(b.getIndexAttr(size));
  Value sums = tensor::EmptyOp::create(b, loc, sizes, b.getF32Type());
  Value zero = arith::ConstantOp::create(b, loc, b.getF32FloatAttr(0));
  sums = linalg::FillOp::create(b, loc, zero, sums).getResult(0);
  sums = sumGroups(b, op, input, kernels, sums);
  Value flat = tensor::CollapseShapeOp::create(
      b, loc, sums, ArrayRef<ReassociationIndices>{{0, 1, 2}, {3, 4}});
  if (Value bias = op.getBias())
    flat = addBias(b, loc, flat, bias);
  images.set(op, flat);
}

//===----------------------------------------------------------------------===//
// Pools
//===----------------------------------------------------------------------===//

static void lowerPool(graph::PoolOp op, ImageRows &images) {
  OpBuilder b(op);
  Value rows = images.get(op.getInput());
  // The largest code stands for the largest number.
  auto codes = rows.getDefiningOp<graph::DequantizeOp>();
  auto scale =
      codes ? dyn_cast_or_null<FloatAttr>(getOnlyElement(codes.getScale()))
            : FloatAttr();
  bool poolsCodes = !op.getAverage() && scale && !codes.getUnsignedCodes() &&
                    scale.getValueAsDouble() > 0 &&
                    getRanked(codes.getInput()).getElementType().isInteger(8);
  if (poolsCodes)
    rows = codes.getInput();
  b.setInsertionPoint(op);
  ArrayRef<int64_t> image = getRanked(op.getInput()).getShape(),
                    result = getRanked(op).getShape();
  RankedTensorType from = getRanked(rows);
  int64_t count = from.isDynamicDim(0) ? ShapedType::kDynamic
                                       : image[0] * result[2] * result[3];
  auto type = RankedTensorType::get({count, image[1]}, from.getElementType());
  Value pooled = graph::PoolRowsOp::create(
      b, op.getLoc(), type, rows, b.getDenseI64ArrayAttr(image.drop_front(2)),
      op.getKernelAttr(), b.getDenseI64ArrayAttr(result.drop_front(2)),
      op.getPadsAttr(), op.getStridesAttr(), op.getDilationsAttr(),
      op.getAverageAttr(), op.getCountsPaddingAttr());
  if (poolsCodes)
    pooled = graph::DequantizeOp::create(
        b, op.getLoc(), type.clone(b.getF32Type()), pooled, codes.getScale(),
        codes.getZeroPoint(), codes.getAxisAttr(), UnitAttr());
  images.set(op, pooled);
}

void LowerConvolutionsPass::runOnOperation() {
  auto graph = getOperation().lookupSymbol<func::FuncOp>(graph::kGraphName);
  if (!graph || graph.isExternal())
    return;
  for (auto op : llvm::make_early_inc_range(graph.getOps<graph::NormalizeOp>()))
    if (!foldNormalize(op))
      expandNormalize(op);
  SmallVector<Operation *> operations;
  for (Operation &op : graph.front())
    operations.push_back(&op);
  ImageRows images(&getContext());
  for (Operation *op : operations) {
    if (auto conv = dyn_cast<graph::ConvOp>(op))
      conv.getGroups() == 1 ? lowerConv(conv, images)
                            : lowerGroups(conv, images);
    else if (auto pool = dyn_cast<graph::PoolOp>(op))
      lowerPool(pool, images);
    else if (images.isReady(op))
      images.get(op->getResult(0));
  }
  images.finish();
}
