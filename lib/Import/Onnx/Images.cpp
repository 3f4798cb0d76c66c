//===- Images.cpp - Convolutions and pools of images, kept whole ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Of f32 images whose sizes are known, convolutions with kernels that are known
// too, pools and batch normalizations become operations that later stages turn
// to linears and launches. What these can't say is spelled out as loops.
//
//===----------------------------------------------------------------------===//

#include "Products.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "qlm/Dialect/Graph.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

namespace {
/// Windows of images, or of signals [n, channels, length] as images of one row,
/// of which everything is known.
struct KnownWindows {
  SmallVector<int64_t> kernel, strides, dilations;
  SmallVector<int64_t> pads,
      places; ///< top, left, bottom, right; rows, columns

  static std::optional<KnownWindows> get(Node &node, const Tensor &x,
                                         ArrayRef<int64_t> kernel);
};
} // namespace

/// Whether all of \p x but the number of images, or signals, is known, and
/// nothing is empty.
static bool isImage(const Tensor &x) {
  return (x.rank() == 3 || x.rank() == 4) && x.type == TensorProto::FLOAT &&
         llvm::all_of(x.tensorType().getShape().drop_front(),
                      [](int64_t size) { return size > 0; });
}

std::optional<KnownWindows> KnownWindows::get(Node &node, const Tensor &x,
                                              ArrayRef<int64_t> kernel) {
  auto windows = Windows::get(node, x, kernel);
  if (!windows)
    return std::nullopt;
  TensorBuilder &b = node.b;
  KnownWindows known{
      windows->kernel, windows->strides, windows->dilations, {}, {}};
  size_t missing = 4 - x.rank();
  for (ArrayRef<Value> list :
       {ArrayRef(windows->padLow), ArrayRef(windows->padHigh)}) {
    known.pads.append(missing, 0);
    for (Value size : list) {
      auto pad = b.asConstant(size);
      if (!pad || *pad < 0)
        return std::nullopt;
      known.pads.push_back(*pad);
    }
  }
  known.places.append(missing, 1);
  for (Value size : windows->sizes) {
    auto count = b.asConstant(size);
    if (!count || *count < 1)
      return std::nullopt;
    known.places.push_back(*count);
  }
  for (auto *list : {&known.kernel, &known.strides, &known.dilations})
    list->insert(list->begin(), missing, 1);
  return known;
}

/// \p signals [n, channels, length] as [n, channels, 1, length]; what codes
/// stand for is made of codes of that shape, for later stages to see.
static Value addRow(TensorBuilder &b, Value signals) {
  if (cast<RankedTensorType>(signals.getType()).getRank() == 4)
    return signals;
  if (auto codes = signals.getDefiningOp<graph::DequantizeOp>()) {
    Value image = addRow(b, codes.getInput());
    auto type = cast<RankedTensorType>(image.getType());
    return graph::DequantizeOp::create(
        b, b.loc, type.clone(b.getF32Type()), image, codes.getScale(),
        codes.getZeroPoint(), codes.getAxisAttr(),
        codes.getUnsignedCodesAttr());
  }
  SmallVector<OpFoldResult> sizes;
  for (Value size : b.dims(signals))
    sizes.push_back(getAsOpFoldResult(size));
  sizes.insert(sizes.begin() + 2, b.getIndexAttr(1));
  auto from = cast<RankedTensorType>(signals.getType());
  auto type = RankedTensorType::get(
      {from.getDimSize(0), from.getDimSize(1), 1, from.getDimSize(2)},
      from.getElementType());
  SmallVector<ReassociationIndices> groups{{0}, {1}, {2, 3}};
  return tensor::ExpandShapeOp::create(b, b.loc, type, signals, groups, sizes);
}

/// Of \p image the row that it has, where \p x is signals.
static Value dropRow(TensorBuilder &b, Value image, const Tensor &x) {
  SmallVector<ReassociationIndices> groups{{0}, {1}, {2, 3}};
  return x.rank() == 4
             ? image
             : tensor::CollapseShapeOp::create(b, b.loc, image, groups);
}

Value mlir::qlm::onnx_import::convolveImage(Node &node, const Tensor &x,
                                            Value weight, Value bias) {
  TensorBuilder &b = node.b;
  auto kernel = cast<RankedTensorType>(weight.getType());
  int64_t groups = node.integer("group", 1);
  if (!isImage(x) || kernel.getRank() != x.rank() || !kernel.hasStaticShape() ||
      kernel.getNumElements() == 0 || !b.isParameter(weight) || groups < 1 ||
      kernel.getDimSize(0) % groups ||
      x.dim(1) != kernel.getDimSize(1) * groups)
    return {};
  if (bias && (cast<RankedTensorType>(bias.getType()).getShape() !=
                   kernel.getShape().take_front() ||
               !b.isParameter(bias)))
    return {};
  auto known = KnownWindows::get(node, x, kernel.getShape().drop_front(2));
  if (!known)
    return {};
  auto type = RankedTensorType::get(
      {x.dim(0), kernel.getDimSize(0), known->places[0], known->places[1]},
      b.getF32Type());
  Value image = graph::ConvOp::create(b, b.loc, type, addRow(b, x.value),
                                      addRow(b, weight), bias, known->pads,
                                      known->strides, known->dilations, groups);
  return dropRow(b, image, x);
}

Value mlir::qlm::onnx_import::poolImage(Node &node, ArrayRef<int64_t> kernel,
                                        bool isAverage) {
  TensorBuilder &b = node.b;
  const Tensor &x = node.in(0);
  if (!isImage(x))
    return {};
  auto known = KnownWindows::get(node, x, kernel);
  if (!known)
    return {};
  auto flag = [&](bool isSet) { return isSet ? b.getUnitAttr() : UnitAttr(); };
  auto type = RankedTensorType::get(
      {x.dim(0), x.dim(1), known->places[0], known->places[1]}, b.getF32Type());
  Value image = graph::PoolOp::create(
      b, b.loc, type, addRow(b, x.value), b.getDenseI64ArrayAttr(known->kernel),
      b.getDenseI64ArrayAttr(known->pads),
      b.getDenseI64ArrayAttr(known->strides),
      b.getDenseI64ArrayAttr(known->dilations), flag(isAverage),
      flag(isAverage && node.integer("count_include_pad", 0)));
  return dropRow(b, image, x);
}

Value mlir::qlm::onnx_import::poolWholeImage(Node &node, bool isAverage) {
  TensorBuilder &b = node.b;
  const Tensor &x = node.in(0);
  if (!isImage(x))
    return {};
  auto type = RankedTensorType::get({x.dim(0), x.dim(1), 1, 1}, b.getF32Type());
  auto list = [&](ArrayRef<int64_t> numbers) {
    return b.getDenseI64ArrayAttr(numbers);
  };
  int64_t rows = x.rank() == 4 ? x.dim(2) : 1;
  Value image = graph::PoolOp::create(
      b, b.loc, type, addRow(b, x.value), list({rows, x.dim(x.rank() - 1)}),
      list({0, 0, 0, 0}), list({1, 1}), list({1, 1}),
      isAverage ? b.getUnitAttr() : UnitAttr(), UnitAttr());
  return dropRow(b, image, x);
}

Value mlir::qlm::onnx_import::normalizeImage(Node &node) {
  TensorBuilder &b = node.b;
  const Tensor &x = node.in(0);
  if (!isImage(x) || x.rank() != 4)
    return {};
  for (int64_t i = 1; i < 5; ++i)
    if (node.in(i).type != TensorProto::FLOAT || node.in(i).rank() != 1 ||
        node.in(i).dim(0) != x.dim(1) || !b.isParameter(node.in(i).value))
      return {};
  return graph::NormalizeOp::create(
      b, b.loc, x.tensorType(), x.value, node.in(1).value, node.in(2).value,
      node.in(3).value, node.in(4).value,
      b.getF32FloatAttr(static_cast<float>(node.number("epsilon", 1e-5))));
}

//===----------------------------------------------------------------------===//
// Codes
//===----------------------------------------------------------------------===//

/// The elements of a constant f32 tensor; nothing for other values.
static std::optional<SmallVector<float>> getFloats(const Tensor &tensor) {
  DenseElementsAttr elements;
  if (tensor.type != TensorProto::FLOAT ||
      !matchPattern(tensor.value, m_Constant(&elements)))
    return std::nullopt;
  return llvm::to_vector(elements.getValues<float>());
}

/// What \p codes stand for, with scales and zero points that fit them.
static Value dequantizeCodes(TensorBuilder &b, const Tensor &codes, Value scale,
                             const Tensor &zero, int64_t axis) {
  bool isUnsigned = codes.type == TensorProto::UINT8;
  return graph::DequantizeOp::create(
      b, b.loc, codes.tensorType().clone(b.getF32Type()), codes.value, scale,
      zero.value, b.getI64IntegerAttr(axis),
      isUnsigned ? b.getUnitAttr() : UnitAttr());
}

bool mlir::qlm::onnx_import::CodeProduct::read(Node &node, int64_t weight) {
  // x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero
  const Tensor &x = node.in(0), &w = node.in(weight), &result = node.in(7);
  auto isByte = [](int32_t type) {
    return type == TensorProto::UINT8 || type == TensorProto::INT8;
  };
  auto isOne = [](const Tensor &t) {
    return t.rank() == 0 || (t.rank() == 1 && t.dim(0) == 1);
  };
  auto fits = [](const Tensor &zero, const Tensor &scale, int32_t type) {
    return zero.type == type &&
           zero.tensorType().getShape() == scale.tensorType().getShape();
  };
  auto from = getFloats(node.in(1)), scales = getFloats(node.in(weight + 1));
  return isByte(x.type) && w.type == TensorProto::INT8 && isByte(result.type) &&
         node.b.isParameter(w.value) && isOne(node.in(1)) && from && scales &&
         isOne(node.in(6)) && getFloats(node.in(6)) &&
         fits(node.in(2), node.in(1), x.type) &&
         fits(node.in(weight + 2), node.in(weight + 1), w.type) &&
         fits(node.in(7), node.in(6), result.type);
}

Value mlir::qlm::onnx_import::CodeProduct::input(Node &node) {
  return dequantizeCodes(node.b, node.in(0), node.in(1).value, node.in(2), 0);
}

Value mlir::qlm::onnx_import::CodeProduct::weight(Node &node, int64_t axis) {
  return dequantizeCodes(node.b, node.in(3), node.in(4).value, node.in(5),
                         axis);
}

Value mlir::qlm::onnx_import::CodeProduct::bias(Node &node, int64_t operand) {
  TensorBuilder &b = node.b;
  const Tensor &codes = node.in(operand);
  float input = getFloats(node.in(1))->front();
  SmallVector<float> scales = *getFloats(node.in(4));
  for (float &scale : scales)
    scale *= input;
  if (scales.size() == 1)
    scales.assign(codes.dim(0), scales[0]);
  auto type = RankedTensorType::get({codes.dim(0)}, b.getF32Type());
  Value scale = arith::ConstantOp::create(
      b, b.loc, DenseElementsAttr::get(type, ArrayRef<float>(scales)));
  return dequantizeCodes(b, codes, scale, Tensor(), 0);
}

Value mlir::qlm::onnx_import::CodeProduct::result(Node &node, Value sums) {
  TensorBuilder &b = node.b;
  bool isUnsigned = node.in(7).type == TensorProto::UINT8;
  return graph::QuantizeOp::create(
      b, b.loc, cast<RankedTensorType>(sums.getType()).clone(b.getI8Type()),
      sums, node.in(6).value, node.in(7).value, b.getI64IntegerAttr(0),
      isUnsigned ? b.getUnitAttr() : UnitAttr());
}
