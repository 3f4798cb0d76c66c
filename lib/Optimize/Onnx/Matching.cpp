//===- Matching.cpp - Looks at nodes through what means nothing -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Matching.h"

#include "Evaluator.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm::onnxir;

/// Numbers of onnx.TensorProto.DataType.
static bool isFloatNumber(int64_t type) {
  return type == 1 || type == 10 || type == 11 || type == 16;
}

/// What \p op passes on unchanged, or null.
static Value getPassed(NodeOp op) {
  if (op.getInputs().empty())
    return {};
  if (op.is("Identity") || op.is("Dropout"))
    return op.getInputs()[0];
  if (op.is("Concat") && op.getInputs().size() == 1)
    return op.getInputs()[0];
  if (op.is("Cast") && isFloatNumber(op.integer("to", 0))) {
    // From whole numbers it is a conversion, not noise.
    auto type = dyn_cast<RankedTensorType>(op.getInputs()[0].getType());
    auto from = op.getInputs()[0].getDefiningOp<NodeOp>();
    bool isInteger = type && type.getElementType().isIntOrIndex();
    if (isInteger ||
        (from && from.is("Cast") && !isFloatNumber(from.integer("to", 0))))
      return {};
    return op.getInputs()[0];
  }
  if (op.is("Mul"))
    if (auto scaled = findScalar(op); scaled && scaled->number == 1)
      return scaled->value;
  return {};
}

Value mlir::qlm::onnxir::skipNoise(Value value) {
  while (auto op = value ? value.getDefiningOp<NodeOp>() : NodeOp()) {
    Value passed = getPassed(op);
    if (!passed || cast<OpResult>(value).getResultNumber() != 0)
      break;
    value = passed;
  }
  return value;
}

NodeOp mlir::qlm::onnxir::find(Value value, StringRef kind) {
  value = skipNoise(value);
  auto op = value ? value.getDefiningOp<NodeOp>() : NodeOp();
  return op && op.is(kind) ? op : NodeOp();
}

static std::optional<Known> getConstant(Value value) {
  value = value ? skipNoise(value) : value;
  auto constant = value ? value.getDefiningOp<ConstantOp>() : ConstantOp();
  if (!constant)
    return std::nullopt;
  return readConstant(cast<ElementsAttr>(constant.getValue()));
}

std::optional<double> mlir::qlm::onnxir::getScalar(Value value) {
  auto known = getConstant(value);
  if (!known || known->count() != 1)
    return std::nullopt;
  return known->values->front();
}

bool mlir::qlm::onnxir::isScalar(Value value, double number) {
  auto scalar = getScalar(value);
  return scalar &&
         std::fabs(*scalar - number) <= 1e-3 * std::max(1.0, std::fabs(number));
}

std::optional<SmallVector<int64_t>>
mlir::qlm::onnxir::getIntegers(Value value) {
  auto known = getConstant(value);
  if (!known || !known->isInteger())
    return std::nullopt;
  SmallVector<int64_t> list;
  for (double number : *known->values)
    list.push_back(static_cast<int64_t>(std::clamp(number, -9.2e18, 9.2e18)));
  return list;
}

std::optional<Pair> mlir::qlm::onnxir::findEither(NodeOp op, StringRef kind) {
  if (op.getInputs().size() != 2)
    return std::nullopt;
  for (unsigned i = 0; i < 2; ++i)
    if (NodeOp found = find(op.getInputs()[i], kind))
      return Pair{found, op.getInputs()[1 - i]};
  return std::nullopt;
}

std::optional<Scaled> mlir::qlm::onnxir::findScalar(NodeOp op) {
  if (op.getInputs().size() != 2)
    return std::nullopt;
  for (unsigned i = 0; i < 2; ++i)
    if (auto number = getScalar(op.getInputs()[i]))
      return Scaled{op.getInputs()[1 - i], *number};
  return std::nullopt;
}

bool mlir::qlm::onnxir::isWeightVector(Value value) {
  Operation *op = value ? skipNoise(value).getDefiningOp() : nullptr;
  if (!isa_and_nonnull<ConstantOp, InitializerOp>(op))
    return false;
  auto type = cast<RankedTensorType>(op->getResult(0).getType());
  return type.getRank() == 1 && isa<FloatType>(type.getElementType());
}

bool mlir::qlm::onnxir::reducesLast(NodeOp op) {
  if (!op.integer("keepdims", 1))
    return false;
  SmallVector<int64_t> axes;
  if (auto list = op->getAttrOfType<DenseI64ArrayAttr>("axes"))
    axes = SmallVector<int64_t>(list.asArrayRef());
  else if (auto input = getIntegers(op.input(1)))
    axes = *input;
  auto type = dyn_cast<RankedTensorType>(op.getInputs()[0].getType());
  return axes.size() == 1 &&
         (axes[0] == -1 || (type && axes[0] == type.getRank() - 1));
}

NodeOp mlir::qlm::onnxir::createNode(PatternRewriter &rewriter, NodeOp at,
                                     StringRef kind, ValueRange inputs,
                                     ArrayRef<NamedAttribute> attributes,
                                     Type type) {
  if (!type)
    type = rewriter.getNoneType();
  auto op = NodeOp::create(rewriter, at.getLoc(), TypeRange{type},
                           rewriter.getStringAttr(kind), inputs);
  op->setDiscardableAttrs(attributes);
  return op;
}
