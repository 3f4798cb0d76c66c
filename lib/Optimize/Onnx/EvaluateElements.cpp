//===- EvaluateElements.cpp - One element for each of the inputs' ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "NodeRules.h"

#include "llvm/ADT/StringSwitch.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm::onnxir;

using Body = llvm::function_ref<double(ArrayRef<double>)>;

static Result mapElements(ArrayRef<const Known *> inputs, Type element,
                          Body body) {
  auto shape = broadcast(inputs);
  if (!shape)
    return std::nullopt;
  Known result{*shape, std::nullopt, element};
  if (result.count() > kMostElements ||
      llvm::any_of(inputs, [](const Known *x) { return !x->values; }))
    return result;
  std::vector<double> values;
  values.reserve(result.count());
  SmallVector<double> arguments(inputs.size());
  forEachIndex(*shape, [&](ArrayRef<int64_t> index) {
    for (auto [argument, input] : llvm::zip(arguments, inputs))
      argument = (*input->values)[offsetIn(input->shape, index)];
    values.push_back(roundTo(element, body(arguments)));
  });
  result.values = std::move(values);
  return result;
}

static double power(double x, double y) { return std::pow(x, y); }

/// Function of two elements; null for another operator.
static double (*getPair(StringRef kind))(double, double) {
  using Pair = double (*)(double, double);
  return llvm::StringSwitch<Pair>(kind)
      .Case("Add", [](double x, double y) { return x + y; })
      .Case("Sub", [](double x, double y) { return x - y; })
      .Case("Mul", [](double x, double y) { return x * y; })
      .Case("Div", [](double x, double y) { return x / y; })
      .Case("Pow", power)
      .Case("Max", [](double x, double y) { return std::max(x, y); })
      .Case("Min", [](double x, double y) { return std::min(x, y); })
      .Case("And", [](double x, double y) { return double(x != 0 && y != 0); })
      .Case("Or", [](double x, double y) { return double(x != 0 || y != 0); })
      .Case("Xor", [](double x, double y) { return double(x != y); })
      .Case("Less", [](double x, double y) { return double(x < y); })
      .Case("LessOrEqual", [](double x, double y) { return double(x <= y); })
      .Case("Greater", [](double x, double y) { return double(x > y); })
      .Case("GreaterOrEqual", [](double x, double y) { return double(x >= y); })
      .Case("Equal", [](double x, double y) { return double(x == y); })
      .Default(nullptr);
}

/// Function of one element; null for another operator.
static double (*getSingle(StringRef kind))(double) {
  using Single = double (*)(double);
  return llvm::StringSwitch<Single>(kind)
      .Case("Neg", [](double x) { return -x; })
      .Case("Abs", [](double x) { return std::fabs(x); })
      .Case("Sqrt", [](double x) { return std::sqrt(x); })
      .Case("Reciprocal", [](double x) { return 1 / x; })
      .Case("Exp", [](double x) { return std::exp(x); })
      .Case("Log", [](double x) { return std::log(x); })
      .Case("Cos", [](double x) { return std::cos(x); })
      .Case("Sin", [](double x) { return std::sin(x); })
      .Case("Tanh", [](double x) { return std::tanh(x); })
      .Case("Erf", [](double x) { return std::erf(x); })
      .Case("Floor", [](double x) { return std::floor(x); })
      .Case("Ceil", [](double x) { return std::ceil(x); })
      .Case("Relu", [](double x) { return std::max(x, 0.0); })
      .Case("Sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); })
      .Case("Swish", [](double x) { return x / (1 + std::exp(-x)); })
      .Case("Not", [](double x) { return double(x == 0); })
      .Case("IsNaN", [](double x) { return double(std::isnan(x)); })
      .Case("IsInf", [](double x) { return double(std::isinf(x)); })
      .Case("Identity", [](double x) { return x; })
      .Default(nullptr);
}

static bool givesBoolean(StringRef kind) {
  return llvm::StringSwitch<bool>(kind)
      .Cases({"And", "Or", "Xor", "Not", "IsNaN", "IsInf"}, true)
      .Cases({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"}, true)
      .Case("Equal", true)
      .Default(false);
}

Result mlir::qlm::onnxir::evaluateElementwise(const Call &call) {
  if (llvm::any_of(call.inputs, [](const Known *x) { return !x; }) ||
      call.inputs.empty())
    return std::nullopt;
  Builder b(call.node.getContext());
  Type element;
  for (const Known *input : call.inputs)
    if (!element && !(call.kind() == "Where" && input == call.inputs[0]))
      element = input->element;
  bool isInteger = element && element.isIntOrIndex();
  if (givesBoolean(call.kind()))
    element = b.getI1Type();
  if (call.kind() == "Where" && call.inputs.size() == 3)
    return mapElements(call.inputs, element, [](ArrayRef<double> x) {
      return x[0] != 0 ? x[1] : x[2];
    });
  if (auto *single = getSingle(call.kind()); single && call.inputs.size() == 1)
    return mapElements(call.inputs, element,
                       [&](ArrayRef<double> x) { return single(x[0]); });
  auto *pair = getPair(call.kind());
  if (!pair)
    return std::nullopt;
  bool truncates = isInteger && call.kind() == "Div";
  return mapElements(call.inputs, element, [&](ArrayRef<double> x) {
    double value = x[0];
    for (double next : x.drop_front())
      value = pair(value, next);
    return truncates ? std::trunc(value) : value;
  });
}

Result mlir::qlm::onnxir::evaluateCast(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  Builder b(call.node.getContext());
  int64_t to = call.node.integer("to", 0);
  // Numbers of onnx.TensorProto.DataType.
  Type element = to == 1               ? Type(b.getF32Type())
                 : to == 10            ? Type(b.getF16Type())
                 : to == 11            ? Type(b.getF64Type())
                 : to == 16            ? Type(b.getBF16Type())
                 : to == 9             ? Type(b.getI1Type())
                 : to == 6             ? Type(b.getI32Type())
                 : to >= 2 && to <= 13 ? Type(b.getI64Type())
                                       : Type();
  if (call.kind() == "CastLike")
    element = call.in(1) ? call.in(1)->element : Type();
  if (!element)
    return std::nullopt;
  return mapElements({x}, element, [&](ArrayRef<double> v) {
    return element.isInteger(1)     ? double(v[0] != 0)
           : element.isIntOrIndex() ? std::trunc(v[0])
                                    : v[0];
  });
}
