//===- Evaluator.cpp - What a graph's small values are --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Evaluator.h"

using namespace mlir;
using namespace mlir::qlm::onnxir;

int64_t Known::count() const {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  return count;
}

InputRole mlir::qlm::onnxir::getRole(StringRef name) {
  if (name == "input_ids" || name == "tokens")
    return InputRole::Tokens;
  if (name == "position_ids" || name == "cache_position")
    return InputRole::Positions;
  if (name == "attention_mask")
    return InputRole::Mask;
  if (name.starts_with("past"))
    return InputRole::Past;
  return InputRole::Other;
}

std::optional<Known> mlir::qlm::onnxir::readConstant(ElementsAttr elements) {
  Known known;
  known.shape = SmallVector<int64_t>(elements.getShapedType().getShape());
  known.element = elements.getElementType();
  std::vector<double> values;
  values.reserve(elements.getNumElements());
  if (auto integers = dyn_cast<DenseIntElementsAttr>(elements)) {
    bool isUnsigned =
        known.element.isUnsignedInteger() || known.element.isInteger(1);
    for (const APInt &value : integers)
      values.push_back(isUnsigned ? static_cast<double>(value.getZExtValue())
                                  : static_cast<double>(value.getSExtValue()));
  } else if (auto floats = dyn_cast<DenseFPElementsAttr>(elements)) {
    for (const APFloat &value : floats)
      values.push_back(value.convertToDouble());
  } else {
    return std::nullopt;
  }
  known.values = std::move(values);
  return known;
}

std::optional<Known> Evaluator::evaluateInput(BlockArgument argument) {
  auto name =
      graph.getArgAttrOfType<StringAttr>(argument.getArgNumber(), kNameAttr);
  auto type = dyn_cast<RankedTensorType>(argument.getType());
  if (!name || !type)
    return std::nullopt;
  Known known;
  known.element = type.getElementType();
  InputRole role = getRole(name.getValue());
  int64_t rank = type.getRank();
  int64_t all = probe.past + probe.tokens;
  for (int64_t axis = 0; axis < rank; ++axis) {
    bool isTime =
        role == InputRole::Past ? rank == 4 && axis == 2 : axis == rank - 1;
    int64_t size = !isTime                   ? probe.batch
                   : role == InputRole::Past ? probe.past
                   : role == InputRole::Mask ? all
                                             : probe.tokens;
    // Dimensions other than the first are no batches.
    if (!isTime && axis > 0 && !type.isDynamicDim(axis))
      size = type.getDimSize(axis);
    known.shape.push_back(size);
  }
  if (role == InputRole::Other || role == InputRole::Past)
    return known;
  switch (role) {
  case InputRole::Tokens:
    known.values.emplace(known.count(), 0);
    break;
  case InputRole::Mask:
    known.values.emplace(known.count(), 1);
    break;
  case InputRole::Positions:
    known.values.emplace();
    for (int64_t i = 0; i < known.count(); ++i)
      known.values->push_back(
          static_cast<double>(probe.past + i % probe.tokens));
    break;
  default:
    break;
  }
  return known;
}

bool mlir::qlm::onnxir::hasCache(func::FuncOp graph) {
  for (unsigned i = 0; i < graph.getNumArguments(); ++i)
    if (auto name = graph.getArgAttrOfType<StringAttr>(i, kNameAttr);
        name && getRole(name) == InputRole::Past)
      return true;
  return false;
}

std::pair<Probe, Probe> mlir::qlm::onnxir::getProbes(func::FuncOp graph) {
  bool cached = hasCache(graph);
  return {Probe{/*tokens=*/5, /*past=*/cached ? 3 : 0, /*batch=*/1},
          Probe{/*tokens=*/7, /*past=*/cached ? 4 : 0, /*batch=*/2}};
}

/// Whether the sizes are none that an untrusted file only claims.
static bool isSane(const Known &known) {
  int64_t count = 1;
  for (int64_t size : known.shape)
    if (size < 0 || __builtin_mul_overflow(count, size, &count) ||
        count > (int64_t(1) << 48))
      return false;
  return known.shape.size() <= 16;
}

std::optional<Known> Evaluator::evaluate(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value))
    return evaluateInput(argument);
  Operation *op = value.getDefiningOp();
  if (auto constant = dyn_cast<ConstantOp>(op))
    return readConstant(cast<ElementsAttr>(constant.getValue()));
  if (auto initializer = dyn_cast<InitializerOp>(op)) {
    auto type = cast<RankedTensorType>(initializer.getType());
    return Known{SmallVector<int64_t>(type.getShape()), std::nullopt,
                 type.getElementType()};
  }
  auto node = dyn_cast<NodeOp>(op);
  if (!node)
    return std::nullopt;
  SmallVector<const Known *> inputs;
  for (Value input : node.getInputs())
    inputs.push_back(get(input));
  return evaluateNode(node, cast<OpResult>(value).getResultNumber(), inputs);
}

const Known *Evaluator::get(Value value) {
  // Depth first without recursion: graphs are thousands of nodes deep.
  SmallVector<Value> pending = {value};
  while (!pending.empty()) {
    Value next = pending.back();
    if (results.contains(next)) {
      pending.pop_back();
      continue;
    }
    size_t before = pending.size();
    if (auto node = next.getDefiningOp<NodeOp>())
      for (Value input : node.getInputs())
        if (!results.contains(input))
          pending.push_back(input);
    if (pending.size() != before)
      continue;
    pending.pop_back();
    std::optional<Known> result = evaluate(next);
    results[next] = result && isSane(*result)
                        ? std::make_unique<Known>(std::move(*result))
                        : nullptr;
  }
  return results.find(value)->second.get();
}
