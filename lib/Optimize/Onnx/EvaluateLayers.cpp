//===- EvaluateLayers.cpp - Ranges, sums and operators of layers ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "NodeRules.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm::onnxir;

Result mlir::qlm::onnxir::evaluateRange(const Call &call) {
  for (unsigned i = 0; i < 3; ++i)
    if (!call.in(i) || !call.in(i)->values || call.in(i)->count() != 1)
      return std::nullopt;
  double start = call.in(0)->values->front(),
         limit = call.in(1)->values->front(),
         step = call.in(2)->values->front();
  double count = std::ceil((limit - start) / step);
  if (!(count <= kMostElements))
    return std::nullopt;
  Known result{{static_cast<int64_t>(std::max(count, 0.0))},
               std::vector<double>(),
               call.in(0)->element};
  for (int64_t i = 0; i < result.shape[0]; ++i)
    result.values->push_back(roundTo(result.element, start + i * step));
  return result;
}

Result mlir::qlm::onnxir::evaluateConstantOfShape(const Call &call) {
  auto shape = call.integers(0);
  if (!shape)
    return std::nullopt;
  Known result{*shape, std::nullopt,
               Builder(call.node.getContext()).getF32Type()};
  double fill = 0;
  if (auto value = call.node->getAttrOfType<ElementsAttr>("value")) {
    auto known = readConstant(value);
    if (!known || known->count() != 1)
      return std::nullopt;
    fill = known->values->front();
    result.element = known->element;
  }
  int64_t count = 1;
  for (int64_t size : *shape)
    if (size < 0 || __builtin_mul_overflow(count, size, &count))
      return std::nullopt;
  if (count <= kMostElements)
    result.values.emplace(count, fill);
  return result;
}

Result mlir::qlm::onnxir::evaluateReduction(const Call &call) {
  auto listed = ListedAxes::get(call);
  if (!listed)
    return std::nullopt;
  const Known *x = listed->of;
  bool keeps = call.node.integer("keepdims", 1) != 0;
  bool all = !listed->axes || listed->axes->empty();
  if (all && call.node.integer("noop_with_empty_axes", 0))
    return *x;
  Shape kept, shape;
  for (auto [i, size] : llvm::enumerate(x->shape)) {
    bool reduces = all || listed->has(i);
    kept.push_back(reduces ? 1 : size);
    if (!reduces || keeps)
      shape.push_back(reduces ? 1 : size);
  }
  Known result{shape, std::nullopt, x->element};
  if (!x->values)
    return result;
  StringRef kind = call.kind();
  double start = kind == "ReduceMax"    ? -INFINITY
                 : kind == "ReduceMin"  ? INFINITY
                 : kind == "ReduceProd" ? 1
                                        : 0;
  std::vector<double> values(result.count(), start);
  int64_t i = 0;
  forEachIndex(x->shape, [&](ArrayRef<int64_t> index) {
    double next = (*x->values)[i++];
    double &value = values[offsetIn(kept, index)];
    value = kind == "ReduceMax"    ? std::max(value, next)
            : kind == "ReduceMin"  ? std::min(value, next)
            : kind == "ReduceProd" ? value * next
                                   : value + next;
  });
  double divisor = kind == "ReduceMean" && result.count()
                       ? double(x->count()) / double(result.count())
                       : 1;
  for (double &value : values)
    value = roundTo(x->element, value / divisor);
  result.values = std::move(values);
  return result;
}

Result mlir::qlm::onnxir::evaluateCumSum(const Call &call) {
  const Known *x = call.in(0);
  auto axis = call.integers(1);
  if (!x || !axis || axis->size() != 1 || call.node.integer("exclusive", 0) ||
      call.node.integer("reverse", 0))
    return std::nullopt;
  auto along = wrapAxis(axis->front(), x->rank());
  if (!along)
    return std::nullopt;
  Known result = *x;
  if (!result.values)
    return result;
  int64_t inner = 1;
  for (int64_t size : ArrayRef(x->shape).drop_front(*along + 1))
    inner *= size;
  for (int64_t i = 0; i < x->count(); ++i)
    if (i / inner % x->shape[*along] > 0)
      (*result.values)[i] += (*result.values)[i - inner];
  return result;
}

Result mlir::qlm::onnxir::evaluateMatMul(const Call &call) {
  const Known *x = call.in(0), *y = call.in(1);
  if (!x || !y || x->rank() < 1 || y->rank() < 2)
    return std::nullopt;
  if (x->shape.back() != y->shape[y->rank() - 2])
    return std::nullopt;
  Known outerX{
      Shape(ArrayRef(x->shape).drop_back(std::min<int64_t>(x->rank(), 2))),
      std::nullopt,
      {}};
  Known outerY{Shape(ArrayRef(y->shape).drop_back(2)), std::nullopt, {}};
  auto shape = broadcast({&outerX, &outerY});
  if (!shape)
    return std::nullopt;
  if (x->rank() > 1)
    shape->push_back(x->shape[x->rank() - 2]);
  shape->push_back(y->shape.back());
  Known result{*shape, std::nullopt, x->element};
  int64_t inner = x->shape.back();
  if (!x->values || !y->values || x->rank() < 2 ||
      result.count() * std::max<int64_t>(inner, 1) > kMostElements)
    return result;
  std::vector<double> values;
  forEachIndex(*shape, [&](ArrayRef<int64_t> index) {
    Shape outer(index.drop_back(2));
    double sum = 0;
    for (int64_t k = 0; k < inner; ++k) {
      int64_t rowOffset = offsetIn(outerX.shape, outer);
      int64_t columnOffset = offsetIn(outerY.shape, outer);
      sum += (*x->values)[(rowOffset * x->shape[x->rank() - 2] +
                           index[index.size() - 2]) *
                              inner +
                          k] *
             (*y->values)[(columnOffset * inner + k) * y->shape.back() +
                          index.back()];
    }
    values.push_back(roundTo(result.element, sum));
  });
  result.values = std::move(values);
  return result;
}

/// Operators of layers: their results have the shape of an input, or one that
/// follows from it. Their elements are never needed.
Result mlir::qlm::onnxir::evaluateLayer(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  Known result{x->shape, std::nullopt, x->element};
  StringRef kind = call.kind();
  if (kind == "Attention" && call.result > 0) {
    if (!call.in(call.result))
      return std::nullopt;
    result.shape = call.in(call.result)->shape;
    if (const Known *past = call.in(call.result + 3);
        past && past->rank() == 4 && result.rank() == 4)
      result.shape[2] += past->shape[2];
  }
  if (kind == "com.microsoft.MatMulNBits")
    result.shape.back() = call.node.integer("N", 0);
  if (kind == "com.microsoft.GroupQueryAttention" && call.result > 0)
    return std::nullopt;
  if ((kind == "com.microsoft.GroupQueryAttention") && !call.has(1)) {
    int64_t heads = call.node.integer("num_heads", 0);
    int64_t both = heads + 2 * call.node.integer("kv_num_heads", 0);
    if (both > 0)
      result.shape.back() = result.shape.back() / both * heads;
  }
  return result;
}

Result mlir::qlm::onnxir::evaluateGemm(const Call &call) {
  const Known *x = call.in(0), *y = call.in(1);
  if (!x || !y || x->rank() != 2 || y->rank() != 2)
    return std::nullopt;
  return Known{{x->shape[call.node.integer("transA", 0) ? 1 : 0],
                y->shape[call.node.integer("transB", 0) ? 0 : 1]},
               std::nullopt,
               x->element};
}
