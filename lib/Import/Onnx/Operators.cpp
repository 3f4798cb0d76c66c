//===- Operators.cpp - Which operators are imported -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Operators.h"

#include "qlm/Archive/Errors.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// Versions of the standard's operators that are understood, but for those that
/// mean the same since an earlier one.
static constexpr int64_t kOldestOpset = 13;
/// Refused nodes that one message lists.
static constexpr size_t kMostListed = 20;

/// All operators by "domain.Name".
static const llvm::StringMap<const Operator *> &getOperators() {
  static const auto *operators = [] {
    auto *map = new llvm::StringMap<const Operator *>;
    for (ArrayRef<Operator> list :
         {elementwiseOperators(), floatFunctionOperators(), shapeOperators(),
          indexingOperators(), reductionOperators(), productOperators(),
          poolingOperators(), normalizationOperators(), quantizationOperators(),
          attentionOperators(), contributedOperators(), lossOperators(),
          conversionOperators(), resizeOperators(), einsumOperators(),
          stateOperators(), quantizedOperators()})
      for (const Operator &op : list)
        map->try_emplace((llvm::Twine(op.domain) + "." + op.name).str(), &op);
    return map;
  }();
  return *operators;
}

std::vector<std::string> mlir::qlm::listOnnxOperators() {
  std::vector<std::string> names;
  for (const auto &entry : getOperators())
    names.push_back(entry.getKey().str());
  llvm::sort(names);
  return names;
}

static std::string keyOf(const ::onnx::NodeProto &node) {
  return (normalizeDomain(node.domain()) + "." + node.op_type()).str();
}

bool mlir::qlm::onnx_import::isIf(const ::onnx::NodeProto &node) {
  return keyOf(node) == ".If";
}

const Operator *
mlir::qlm::onnx_import::findOperator(const ::onnx::NodeProto &node) {
  return getOperators().lookup(keyOf(node));
}

/// The first version of the standard in which an operator has the meaning,
/// attributes and inputs that its emitter knows.
static int64_t oldestOpset(const ::onnx::NodeProto &node) {
  if (!node.domain().empty() && node.domain() != "ai.onnx")
    return 0;
  return llvm::StringSwitch<int64_t>(node.op_type())
      .Cases({"Constant", "Identity", "If", "MatMul", "Not"}, 1)
      .Cases({"Shape", "Size", "Transpose"}, 1)
      .Case("Concat", 4)
      .Case("Reshape", 5)
      .Cases({"Abs", "Ceil", "Exp", "Floor", "Log", "Neg", "Reciprocal"}, 6)
      .Cases({"Cast", "Relu", "Sigmoid", "Sqrt", "Tanh", "Elu", "LeakyRelu"}, 6)
      .Cases({"Add", "And", "Div", "Mul", "Or", "Pow", "Sub", "Xor"}, 7)
      .Cases({"Equal", "Greater", "Less"}, 7)
      .Cases({"Acos", "Asin", "Atan", "Cos", "Sin", "Tan"}, 7)
      .Cases({"Expand", "Max", "Min"}, 8)
      .Cases({"Acosh", "Asinh", "Atanh", "Cosh", "Erf", "IsNaN"}, 9)
      .Cases({"Shrink", "Sign", "Sinh", "Where"}, 9)
      .Cases({"ConvInteger", "MatMulInteger", "QLinearConv"}, 10)
      .Cases({"DequantizeLinear", "QLinearMatMul", "QuantizeLinear"}, 10)
      .Cases({"Clip", "DynamicQuantizeLinear", "Round"}, 11)
      .Cases({"ReduceMax", "ReduceMin"}, 11)
      .Default(kOldestOpset);
}

static llvm::Error checkVersions(ArrayRef<InlinedNode> nodes) {
  for (const auto &[proto, scope] : nodes) {
    auto standard = scope->versions.find("");
    int64_t oldest = oldestOpset(*proto);
    if (standard == scope->versions.end() || standard->second >= oldest)
      continue;
    return makeError(
        (scope->function ? "a function of the model" : "the model") +
        llvm::Twine(" uses opset ") + llvm::Twine(standard->second) +
        ", the oldest that " + describeNode(*proto) + " is understood in is " +
        llvm::Twine(oldest) + "; convert it with onnx.version_converter");
  }
  return llvm::Error::success();
}

/// Names of values whose elements the inputs of the graph decide on. Those of
/// an If are left out: what its branches take isn't looked into.
static llvm::StringSet<> findData(const ::onnx::GraphProto &graph,
                                  ArrayRef<InlinedNode> nodes,
                                  const llvm::StringMap<FixedInput> &fixed) {
  llvm::StringSet<> data;
  for (const auto &info : graph.input())
    if (!fixed.contains(info.name()))
      data.insert(info.name());
  for (const TensorProto &tensor : graph.initializer())
    data.erase(tensor.name());
  for (const auto &[proto, scope] : nodes) {
    if (keyOf(*proto) == ".Shape" || keyOf(*proto) == ".Size")
      continue;
    bool isData = llvm::any_of(proto->input(), [&](const std::string &name) {
      return data.contains(name);
    });
    for (const std::string &name : proto->output())
      if (isData)
        data.insert(name);
  }
  return data;
}

llvm::Error
mlir::qlm::onnx_import::checkNodes(ArrayRef<InlinedNode> nodes,
                                   const ::onnx::GraphProto &graph,
                                   const llvm::StringMap<FixedInput> &fixed) {
  if (llvm::Error error = checkVersions(nodes))
    return error;
  std::vector<std::string> refused;
  llvm::StringSet<> data = findData(graph, nodes, fixed);
  for (const auto &[proto, scope] : nodes) {
    if (isIf(*proto)) {
      if (proto->input_size() == 1 && data.contains(proto->input(0)))
        refused.push_back(describeNode(*proto) + ": " +
                          describeUnknownInput(*proto, 0));
      continue;
    }
    if (!findOperator(*proto))
      refused.push_back(describeNode(*proto));
  }
  if (refused.empty())
    return llvm::Error::success();
  size_t more = refused.size() > kMostListed ? refused.size() - kMostListed : 0;
  refused.resize(refused.size() - more);
  return makeError(
      "operators that are not handled: " + llvm::join(refused, ", ") +
      (more ? " and " + std::to_string(more) + " more" : ""));
}

llvm::StringSet<>
mlir::qlm::onnx_import::findCastToFloat(ArrayRef<InlinedNode> nodes,
                                        const ::onnx::GraphProto &graph) {
  llvm::StringMap<int> uses;
  llvm::StringSet<> found;
  for (const auto &output : graph.output())
    ++uses[output.name()];
  for (const auto &[proto, scope] : nodes) {
    if (isIf(*proto))
      return {};
    for (const std::string &name : proto->input())
      ++uses[name];
    if (proto->op_type() == "Cast" && proto->domain().empty() &&
        proto->input_size() == 1)
      for (const auto &attribute : proto->attribute())
        if (attribute.name() == "to" && attribute.i() == TensorProto::FLOAT)
          found.insert(proto->input(0));
  }
  llvm::StringSet<> once;
  for (const auto &entry : found)
    if (uses.lookup(entry.getKey()) == 1)
      once.insert(entry.getKey());
  return once;
}
