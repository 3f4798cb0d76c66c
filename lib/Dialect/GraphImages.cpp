//===- GraphImages.cpp - Rules of convolutions and pools of graphs --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/Graph.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm::graph;

static RankedTensorType getRanked(Value value) {
  return dyn_cast<RankedTensorType>(value.getType());
}

/// Whether \p numbers are \p count that are at least \p least.
static bool areAtLeast(ArrayRef<int64_t> numbers, size_t count, int64_t least) {
  return numbers.size() == count &&
         llvm::all_of(numbers, [&](int64_t n) { return n >= least; });
}

/// Whether \p type is `[n, c, h, w]` with only n open and nothing empty.
static bool isImage(RankedTensorType type) {
  return type && type.getRank() == 4 &&
         llvm::all_of(type.getShape().drop_front(),
                      [](int64_t size) { return size > 0; });
}

int64_t mlir::qlm::graph::countPlaces(int64_t size, int64_t padding,
                                      int64_t kernel, int64_t stride,
                                      int64_t dilation) {
  int64_t room = size + padding - ((kernel - 1) * dilation + 1);
  return room < 0 ? 0 : room / stride + 1;
}

//===----------------------------------------------------------------------===//
// Images
//===----------------------------------------------------------------------===//

LogicalResult ConvOp::verify() {
  RankedTensorType input = getRanked(getInput()),
                   weight = getRanked(getWeight());
  if (!isImage(input) || !isImage(weight) || !weight.hasStaticShape())
    return emitOpError("(C1) takes [n, c, h, w] of which n may be open, and a "
                       "static kernel of rank 4, got ")
           << getInput().getType() << " and " << getWeight().getType();
  int64_t maps = weight.getDimSize(0);
  if (getBias() && getBias().getType() !=
                       RankedTensorType::get({maps}, input.getElementType()))
    return emitOpError("(C1) bias must have ")
           << maps << " elements, got " << getBias().getType();
  if (!areAtLeast(getPads(), 4, 0) || !areAtLeast(getStrides(), 2, 1) ||
      !areAtLeast(getDilations(), 2, 1))
    return emitOpError("(C2) takes four pads from 0 on, two strides and two "
                       "dilations from 1 on");
  int64_t groups = getGroups();
  if (groups < 1 || maps % groups ||
      input.getDimSize(1) != weight.getDimSize(1) * groups)
    return emitOpError("(C2) ")
           << groups << " groups of " << weight.getDimSize(1)
           << " channels must be the input's " << input.getDimSize(1)
           << " and divide " << maps << " maps";
  SmallVector<int64_t> shape{input.getDimSize(0), maps};
  for (int64_t d = 0; d < 2; ++d)
    shape.push_back(countPlaces(
        input.getDimSize(d + 2), getPads()[d] + getPads()[d + 2],
        weight.getDimSize(d + 2), getStrides()[d], getDilations()[d]));
  auto expected = RankedTensorType::get(shape, input.getElementType());
  if (shape[2] < 1 || shape[3] < 1 || getType() != expected)
    return emitOpError("(C3) result must be ")
           << expected << " and not empty, got " << getType();
  return success();
}

LogicalResult NormalizeOp::verify() {
  RankedTensorType input = getRanked(getInput());
  if (!isImage(input) || getType() != input)
    return emitOpError("(C1) takes and gives one type [n, c, h, w], got ")
           << getInput().getType() << " and " << getType();
  auto channel =
      RankedTensorType::get({input.getDimSize(1)}, input.getElementType());
  for (Value value : getOperands().drop_front())
    if (value.getType() != channel)
      return emitOpError("(C1) takes ")
             << channel << " of each channel, got " << value.getType();
  return success();
}

LogicalResult NormalizedWeightOp::verify() {
  RankedTensorType weight = getRanked(getWeight());
  if (!weight || weight.getRank() < 1 || !weight.hasStaticShape() ||
      getType() != weight)
    return emitOpError("(C1) takes and gives one static type, got ")
           << getWeight().getType() << " and " << getType();
  for (Value value : {getScale(), getVariance()})
    if (value.getType() !=
        RankedTensorType::get({weight.getDimSize(0)}, weight.getElementType()))
      return emitOpError("(C1) takes ")
             << weight.getDimSize(0) << " scales and variances, got "
             << value.getType();
  return success();
}

LogicalResult NormalizedBiasOp::verify() {
  RankedTensorType type = getRanked(getScale());
  if (!type || type.getRank() != 1 || !type.hasStaticShape() ||
      llvm::any_of(getOperandTypes(), [&](Type t) { return t != type; }) ||
      getType() != type)
    return emitOpError("(C1) takes and gives one static type of rank 1");
  return success();
}

LogicalResult PoolOp::verify() {
  RankedTensorType input = getRanked(getInput()),
                   result = getRanked(getResult());
  if (!isImage(input) || !isImage(result) ||
      input.getShape().take_front(2) != result.getShape().take_front(2))
    return emitOpError("(C1) takes [n, c, h, w] of which n may be open and "
                       "gives [n, c, y, x], got ")
           << getInput().getType() << " and " << getType();
  if (!areAtLeast(getKernel(), 2, 1) || !areAtLeast(getStrides(), 2, 1) ||
      !areAtLeast(getDilations(), 2, 1) || !areAtLeast(getPads(), 4, 0))
    return emitOpError(
        "(C2) takes two sizes of a kernel, strides and dilations "
        "from 1 on and four pads from 0 on");
  return success();
}

//===----------------------------------------------------------------------===//
// Rows of pixels
//===----------------------------------------------------------------------===//

/// The rules that windows and pools share; a row of the result has \p columns.
template <typename Op>
static LogicalResult verifyWindows(Op op, size_t pads, int64_t window) {
  RankedTensorType input = getRanked(op.getInput()),
                   result = getRanked(op.getResult());
  if (!areAtLeast(op.getSize(), 2, 1) || !areAtLeast(op.getKernel(), 2, 1) ||
      !areAtLeast(op.getPlaces(), 2, 1) || !areAtLeast(op.getStrides(), 2, 1) ||
      !areAtLeast(op.getDilations(), 2, 1) ||
      !areAtLeast(op.getPads(), pads, 0))
    return op.emitOpError(
               "(C1) takes two sizes, places, strides, dilations and "
               "sizes of a kernel from 1 on and ")
           << pads << " pads from 0 on";
  if (!input || !result || input.getRank() != 2 || result.getRank() != 2 ||
      input.isDynamicDim(1) ||
      result.getDimSize(1) != window * input.getDimSize(1) ||
      input.getElementType() != result.getElementType())
    return op.emitOpError("(C1) takes rows of channels and gives rows of ")
           << window << " times as many, got " << op.getInput().getType()
           << " and " << op.getType();
  int64_t pixels = op.getSize()[0] * op.getSize()[1],
          places = op.getPlaces()[0] * op.getPlaces()[1];
  if (input.isDynamicDim(0) != result.isDynamicDim(0) ||
      (!input.isDynamicDim(0) &&
       (input.getDimSize(0) % pixels ||
        result.getDimSize(0) != input.getDimSize(0) / pixels * places)))
    return op.emitOpError("(C2) takes images of ")
           << pixels << " rows and gives " << places << " windows of each, got "
           << op.getInput().getType() << " and " << op.getType();
  return success();
}

LogicalResult WindowsOp::verify() {
  ArrayRef<int64_t> kernel = getKernel();
  if (failed(verifyWindows(*this, 2,
                           kernel.size() == 2 ? kernel[0] * kernel[1] : 0)))
    return failure();
  bool isCode = getRanked(getInput()).getElementType().isInteger(8);
  if (isCode ? !llvm::isInt<8>(getOutside()) : getOutside() != 0)
    return emitOpError("(C3) outside must be a code, or 0 of f32, got ")
           << getOutside();
  return success();
}

LogicalResult PoolRowsOp::verify() {
  if (failed(verifyWindows(*this, 4, 1)))
    return failure();
  Type element = getRanked(getInput()).getElementType();
  if (getAverage() && !element.isF32())
    return emitOpError("(C3) averages f32, got ") << element;
  return success();
}
