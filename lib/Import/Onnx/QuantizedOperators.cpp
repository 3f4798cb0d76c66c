//===- QuantizedOperators.cpp - ONNX Runtime's operators on codes ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What its quantizer writes in the form of operators (QOperator), beside the
// standard's QLinearConv and QLinearMatMul: each by the standard's operator
// between DequantizeLinear and QuantizeLinear, which `qlm-fold-qdq` folds where
// that has integer kernels.
//
//===----------------------------------------------------------------------===//

#include "Standard.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// Inputs \p first (codes), its scale and, where it is there, its zero point.
static SmallVector<Tensor> codesAt(Node &node, int64_t first) {
  SmallVector<Tensor> inputs{node.in(first), node.in(first + 1)};
  if (node.has(first + 2))
    inputs.push_back(node.in(first + 2));
  return inputs;
}

/// Whether \p node has the inputs \p places; zero points may be left out.
static LogicalResult require(Node &node, ArrayRef<int64_t> places) {
  for (int64_t i : places)
    if (!node.has(i))
      return node.fail("input " + llvm::Twine(i) + " is missing");
  return success();
}

/// What the codes at input \p first stand for, scales along \p axis.
static Tensor dequantize(Node &node, int64_t first, int64_t axis = 0) {
  return Standard(node, "DequantizeLinear", codesAt(node, first))
      .set("axis", axis)
      .emitOne();
}

/// The codes of \p x, by the scale at input \p scale and the zero point behind.
static LogicalResult quantizeResult(Node &node, const Tensor &x,
                                    int64_t scale) {
  if (!x)
    return failure();
  SmallVector<Tensor> inputs{x, node.in(scale)};
  if (node.has(scale + 1))
    inputs.push_back(node.in(scale + 1));
  Tensor result = Standard(node, "QuantizeLinear", inputs).emitOne();
  return result ? node.set(0, result.value, result.type) : failure();
}

/// Two codes: A, its scale and zero point, B and its, those of the result.
static LogicalResult emitPair(Node &node, StringRef kind) {
  if (failed(require(node, {0, 1, 3, 4, 6})))
    return failure();
  Tensor a = dequantize(node, 0), b = dequantize(node, 3);
  if (!a || !b)
    return failure();
  return quantizeResult(node, Standard(node, kind, {a, b}).emitOne(), 6);
}
static LogicalResult emitSum(Node &node) { return emitPair(node, "Add"); }
static LogicalResult emitProduct(Node &node) { return emitPair(node, "Mul"); }

/// One: codes, scale, zero point, scale and zero point of the result; the
/// attributes that \p give gives.
static LogicalResult emitOne(
    Node &node, StringRef kind,
    function_ref<void(Standard &)> give = [](Standard &) {}) {
  Tensor x = dequantize(node, 0);
  if (!x)
    return failure();
  if (node.integer("channels_last", 0))
    return node.fail("channels must come before the image's sizes");
  Standard standard(node, kind, {x});
  give(standard);
  return quantizeResult(node, standard.emitOne(), 3);
}

static LogicalResult emitSigmoid(Node &node) {
  return emitOne(node, "Sigmoid");
}
static LogicalResult emitLeakyRelu(Node &node) {
  return emitOne(node, "LeakyRelu", [&](Standard &standard) {
    standard.set("alpha", node.number("alpha", 0.01f));
  });
}
static LogicalResult emitGlobalAveragePool(Node &node) {
  return emitOne(node, "GlobalAveragePool");
}
static LogicalResult emitAveragePool(Node &node) {
  return emitOne(node, "AveragePool", [&](Standard &standard) {
    for (StringRef name : {"kernel_shape", "pads", "strides"})
      if (auto values = node.integers(name))
        standard.set(name, *values);
    for (StringRef name : {"ceil_mode", "count_include_pad"})
      standard.set(name, node.integer(name, 0));
    standard.set("auto_pad", node.text("auto_pad", "NOTSET"));
  });
}

static LogicalResult emitSoftmax(Node &node) {
  const Tensor &x = node.in(0);
  auto axis = node.axis(node.integer("axis", -1), x.rank());
  if (!axis)
    return failure();
  // Before, all axes from this one on were one.
  if (node.integer("opset", 13) < 13 && *axis + 1 != x.rank())
    return node.fail("Softmax before opset 13 must be along the last axis");
  return emitOne(node, "Softmax",
                 [&](Standard &standard) { standard.set("axis", *axis); });
}

/// Scale and zero point of the result, then those of each input behind it.
static LogicalResult emitConcat(Node &node) {
  if (node.inputCount() % 3 != 2)
    return node.fail("inputs must be a scale and a zero point, then codes with "
                     "theirs");
  SmallVector<Tensor> parts;
  for (int64_t i = 2; i < node.inputCount(); i += 3) {
    if (failed(require(node, {i, i + 1})))
      return failure();
    parts.push_back(dequantize(node, i));
    if (!parts.back())
      return failure();
  }
  Tensor whole = Standard(node, "Concat", parts)
                     .set("axis", node.integer("axis", 0))
                     .emitOne();
  return quantizeResult(node, whole, 0);
}

static LogicalResult emitWhere(Node &node) {
  Tensor x = dequantize(node, 1), y = dequantize(node, 4);
  if (!x || !y)
    return failure();
  return quantizeResult(
      node, Standard(node, "Where", {node.in(0), x, y}).emitOne(), 7);
}

/// The elements of a constant f32 tensor; nothing for other values.
static std::optional<SmallVector<float>> getFloats(const Tensor &tensor) {
  DenseElementsAttr elements;
  if (tensor.type != TensorProto::FLOAT ||
      !matchPattern(tensor.value, m_Constant(&elements)))
    return std::nullopt;
  return llvm::to_vector(elements.getValues<float>());
}

/// A, scale, zero point, B, scale and zero point (one or one a column), C in
/// steps of both scales, and of the result, which is float without them.
static LogicalResult emitGemm(Node &node) {
  TensorBuilder &b = node.b;
  const Tensor &weight = node.in(3);
  bool turned = node.integer("transB", 0);
  if (node.number("alpha", 1) != 1)
    return node.fail("alpha must be 1");
  if (node.in(0).rank() != 2 || weight.rank() != 2)
    return node.fail("takes matrices");
  SmallVector<Tensor> inputs{dequantize(node, 0),
                             dequantize(node, 3, turned ? 0 : 1)};
  if (!inputs[0] || !inputs[1])
    return failure();
  if (node.has(6)) {
    auto first = getFloats(node.in(1)), second = getFloats(node.in(4));
    int64_t columns = weight.dim(turned ? 0 : 1);
    if (!first || !second || first->size() != 1 ||
        ShapedType::isDynamic(columns) || node.in(6).rank() != 1 ||
        node.in(6).dim(0) != columns)
      return node.fail("with C, scales must be constants and the columns "
                       "known");
    for (float &scale : *second)
      scale *= first->front();
    if (second->size() == 1)
      second->assign(columns, second->front());
    if (static_cast<int64_t>(second->size()) != columns)
      return node.fail("B must have one scale or " + llvm::Twine(columns) +
                       ", got " + llvm::Twine(second->size()));
    auto type = RankedTensorType::get({columns}, b.getF32Type());
    Value scale = arith::ConstantOp::create(
        b, b.loc, DenseElementsAttr::get(type, ArrayRef<float>(*second)));
    inputs.push_back(Standard(node, "DequantizeLinear",
                              {node.in(6), {scale, TensorProto::FLOAT, {}}})
                         .set("axis", int64_t(0))
                         .emitOne());
    if (!inputs.back())
      return failure();
  }
  Tensor result = Standard(node, "Gemm", inputs)
                      .set("transA", node.integer("transA", 0))
                      .set("transB", node.integer("transB", 0))
                      .emitOne();
  if (!result)
    return failure();
  return node.has(7) ? quantizeResult(node, result, 7)
                     : node.set(0, result.value, result.type);
}

static const char kDomain[] = "com.microsoft";

static const Operator operators[] = {
    {kDomain, "QGemm", 6, 9, emitGemm},
    {kDomain, "QLinearAdd", 2, 8, emitSum},
    {kDomain, "QLinearAveragePool", 2, 5, emitAveragePool},
    {kDomain, "QLinearConcat", 5, -1, emitConcat},
    {kDomain, "QLinearGlobalAveragePool", 5, 5, emitGlobalAveragePool},
    {kDomain, "QLinearLeakyRelu", 2, 5, emitLeakyRelu},
    {kDomain, "QLinearMul", 2, 8, emitProduct},
    {kDomain, "QLinearSigmoid", 2, 5, emitSigmoid},
    {kDomain, "QLinearSoftmax", 5, 5, emitSoftmax},
    {kDomain, "QLinearWhere", 9, 9, emitWhere},
};

ArrayRef<Operator> mlir::qlm::onnx_import::quantizedOperators() {
  return operators;
}
