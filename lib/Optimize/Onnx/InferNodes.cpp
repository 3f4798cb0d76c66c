//===- InferNodes.cpp - Gives nodes their types and folds whole numbers ---===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Evaluator.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_INFERNODES
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

/// Constants of more elements are no shapes.
static constexpr int64_t kMostFolded = 64;

/// The type with the sizes that both probes give.
static Type getCommonType(const Known &one, const Known &other) {
  if (one.rank() != other.rank() || !one.element)
    return {};
  SmallVector<int64_t> shape;
  for (auto [a, b] : llvm::zip(one.shape, other.shape))
    shape.push_back(a == b ? a : ShapedType::kDynamic);
  return RankedTensorType::get(shape, one.element);
}

/// The constant that both probes give; null when they don't.
static ElementsAttr getCommonValue(const Known &one, const Known &other) {
  if (!one.values || one.values != other.values || one.shape != other.shape ||
      !one.isInteger() || one.count() > kMostFolded)
    return {};
  auto type = RankedTensorType::get(one.shape, one.element);
  unsigned width = one.element.getIntOrFloatBitWidth();
  SmallVector<APInt> elements;
  for (double value : *one.values) {
    // Past 2^53 a double isn't the number any more, but for bounds of slices.
    if (std::fabs(value) > 9e15)
      return {};
    elements.emplace_back(width,
                          static_cast<uint64_t>(static_cast<int64_t>(value)),
                          /*isSigned=*/false, /*implicitTrunc=*/true);
  }
  return DenseElementsAttr::get(type, elements);
}

namespace {
struct InferNodes : qlm::impl::InferNodesBase<InferNodes> {
  void runOnOperation() override {
    for (auto graph : getOperation().getOps<func::FuncOp>())
      infer(graph);
  }

  void infer(func::FuncOp graph) {
    auto [first, second] = getProbes(graph);
    Evaluator one(graph, first), other(graph, second);
    SmallVector<std::pair<Value, Type>> types;
    SmallVector<std::pair<Value, ElementsAttr>> constants;
    graph.walk([&](NodeOp node) {
      for (Value result : node.getResults()) {
        const Known *a = one.get(result), *b = other.get(result);
        if (!a || !b)
          continue;
        if (ElementsAttr value = getCommonValue(*a, *b))
          constants.emplace_back(result, value);
        else if (Type type = getCommonType(*a, *b))
          types.emplace_back(result, type);
      }
    });
    for (auto [value, type] : types)
      value.setType(type);
    OpBuilder builder(graph.getContext());
    for (auto [value, elements] : constants) {
      builder.setInsertionPointAfterValue(value);
      Value constant = ConstantOp::create(
          builder, value.getLoc(), elements.getType(),
          cast<TypedAttr>(elements), StringAttr(), StringAttr(), IntegerAttr());
      value.replaceAllUsesWith(constant);
    }
    auto results = graph.front().getTerminator()->getOperandTypes();
    graph.setFunctionType(FunctionType::get(
        graph.getContext(), graph.front().getArgumentTypes(), results));
  }
};
} // namespace
