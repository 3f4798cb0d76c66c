//===- EvaluateShapes.cpp - Shapes, and values in other ones --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "NodeRules.h"

#include <numeric>

using namespace mlir;
using namespace mlir::qlm::onnxir;

static Known makeIntegers(Builder b, ArrayRef<int64_t> values,
                          ArrayRef<int64_t> shape) {
  Known known{Shape(shape), std::nullopt, b.getI64Type()};
  known.values.emplace(values.begin(), values.end());
  return known;
}

Result mlir::qlm::onnxir::evaluateShape(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  Builder b(call.node.getContext());
  if (call.kind() == "Size")
    return makeIntegers(b, {x->count()}, {});
  auto clamp = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + x->rank() : i, 0, x->rank());
  };
  int64_t start = clamp(call.node.integer("start", 0));
  int64_t end = std::max(start, clamp(call.node.integer("end", x->rank())));
  return makeIntegers(b, ArrayRef(x->shape).slice(start, end - start),
                      {end - start});
}

/// The same elements in another shape.
static Result withShape(const Known *x, Shape shape) {
  Known result = *x;
  int64_t before = x->count();
  result.shape = std::move(shape);
  if (result.count() != before)
    return std::nullopt;
  return result;
}

Result mlir::qlm::onnxir::evaluateReshape(const Call &call) {
  const Known *x = call.in(0);
  auto wanted = call.integers(1);
  if (!x || !wanted)
    return std::nullopt;
  Shape shape;
  int64_t open = -1, product = 1;
  for (auto [axis, size] : llvm::enumerate(*wanted)) {
    if (size == 0 && !call.node.integer("allowzero", 0)) {
      if (static_cast<int64_t>(axis) >= x->rank())
        return std::nullopt;
      size = x->shape[axis];
    }
    if (size == -1)
      open = axis;
    else
      product *= size;
    shape.push_back(size);
  }
  if (open >= 0) {
    if (product == 0)
      return std::nullopt;
    shape[open] = x->count() / product;
  }
  return withShape(x, shape);
}

Result mlir::qlm::onnxir::evaluateUnsqueeze(const Call &call) {
  const Known *x = call.in(0);
  auto axes = call.integers(1, "axes");
  if (!x || !axes)
    return std::nullopt;
  Shape sorted;
  for (int64_t axis : *axes) {
    auto wrapped = wrapAxis(axis, x->rank() + axes->size());
    if (!wrapped)
      return std::nullopt;
    sorted.push_back(*wrapped);
  }
  llvm::sort(sorted);
  Shape shape = x->shape;
  for (int64_t axis : sorted) {
    if (axis > static_cast<int64_t>(shape.size()))
      return std::nullopt;
    shape.insert(shape.begin() + axis, 1);
  }
  return withShape(x, shape);
}

Result mlir::qlm::onnxir::evaluateSqueeze(const Call &call) {
  auto listed = ListedAxes::get(call);
  if (!listed)
    return std::nullopt;
  Shape shape;
  for (auto [i, size] : llvm::enumerate(listed->of->shape))
    if (!(listed->axes ? listed->has(i) : size == 1))
      shape.push_back(size);
  return withShape(listed->of, shape);
}

Result mlir::qlm::onnxir::evaluateFlatten(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  int64_t axis = call.node.integer("axis", 1);
  axis = axis < 0 ? axis + x->rank() : axis;
  if (axis < 0 || axis > x->rank())
    return std::nullopt;
  auto product = [](ArrayRef<int64_t> sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), int64_t(1),
                           std::multiplies<int64_t>());
  };
  ArrayRef<int64_t> sizes = x->shape;
  return withShape(
      x, {product(sizes.take_front(axis)), product(sizes.drop_front(axis))});
}
