//===- EvaluateMoves.cpp - Elements at other places -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "NodeRules.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm::onnxir;

/// The value whose element at an index is that of \p x at source(index).
static Result gatherElements(const Known &x, Shape shape,
                             llvm::function_ref<Shape(ArrayRef<int64_t>)> at) {
  Known result{std::move(shape), std::nullopt, x.element};
  if (!x.values || result.count() > kMostElements)
    return result;
  std::vector<double> values;
  forEachIndex(result.shape, [&](ArrayRef<int64_t> index) {
    values.push_back((*x.values)[offsetIn(x.shape, at(index))]);
  });
  result.values = std::move(values);
  return result;
}

Result mlir::qlm::onnxir::evaluateTranspose(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  auto order = call.integers(1, "perm");
  if (!order)
    order = llvm::to_vector(llvm::reverse(llvm::seq<int64_t>(0, x->rank())));
  if (static_cast<int64_t>(order->size()) != x->rank())
    return std::nullopt;
  Shape shape;
  for (int64_t axis : *order) {
    if (axis < 0 || axis >= x->rank())
      return std::nullopt;
    shape.push_back(x->shape[axis]);
  }
  return gatherElements(*x, shape, [&](ArrayRef<int64_t> index) {
    Shape source(index.size());
    for (auto [to, from] : llvm::enumerate(*order))
      source[from] = index[to];
    return source;
  });
}

Result mlir::qlm::onnxir::evaluateExpand(const Call &call) {
  const Known *x = call.in(0);
  auto wanted = call.integers(1);
  if (!x || !wanted)
    return std::nullopt;
  Known target{*wanted, std::nullopt, {}};
  auto shape = broadcast({x, &target});
  if (!shape)
    return std::nullopt;
  return gatherElements(*x, *shape, [&](ArrayRef<int64_t> index) {
    return Shape(index.drop_front(index.size() - x->rank()));
  });
}

Result mlir::qlm::onnxir::evaluateTile(const Call &call) {
  const Known *x = call.in(0);
  auto repeats = call.integers(1);
  if (!x || !repeats || static_cast<int64_t>(repeats->size()) != x->rank())
    return std::nullopt;
  Shape shape;
  for (auto [size, repeat] : llvm::zip(x->shape, *repeats))
    shape.push_back(size * std::max<int64_t>(repeat, 0));
  return gatherElements(*x, shape, [&](ArrayRef<int64_t> index) {
    Shape source;
    for (auto [i, size] : llvm::zip(index, x->shape))
      source.push_back(i % size);
    return source;
  });
}

Result mlir::qlm::onnxir::evaluateSlice(const Call &call) {
  const Known *x = call.in(0);
  auto starts = call.integers(1, "starts"), ends = call.integers(2, "ends");
  if (!x || !starts || !ends || starts->size() != ends->size())
    return std::nullopt;
  auto axes = call.integers(3, "axes"), steps = call.integers(4, "steps");
  if ((call.has(3) && !axes) || (call.has(4) && !steps))
    return std::nullopt;
  if (!axes)
    axes = llvm::to_vector(llvm::seq<int64_t>(0, starts->size()));
  Shape shape = x->shape, first(x->rank(), 0), stride(x->rank(), 1);
  for (size_t i = 0; i < starts->size(); ++i) {
    auto axis =
        i < axes->size() ? wrapAxis((*axes)[i], x->rank()) : std::nullopt;
    int64_t step = steps && i < steps->size() ? (*steps)[i] : 1;
    if (!axis || step == 0)
      return std::nullopt;
    int64_t size = x->shape[*axis];
    auto clamp = [&](int64_t at, int64_t low, int64_t high) {
      return std::clamp(at < 0 && at != INT64_MIN ? at + size : at, low, high);
    };
    int64_t start = step > 0 ? clamp((*starts)[i], 0, size)
                             : clamp((*starts)[i], 0, size - 1);
    int64_t end =
        step > 0 ? clamp((*ends)[i], 0, size) : clamp((*ends)[i], -1, size - 1);
    int64_t span = step > 0 ? end - start : start - end;
    int64_t pace = std::abs(step);
    shape[*axis] = span <= 0 ? 0 : (span + pace - 1) / pace;
    first[*axis] = start;
    stride[*axis] = step;
  }
  return gatherElements(*x, shape, [&](ArrayRef<int64_t> index) {
    Shape source;
    for (auto [i, low, step] : llvm::zip(index, first, stride))
      source.push_back(low + i * step);
    return source;
  });
}

Result mlir::qlm::onnxir::evaluateConcat(const Call &call) {
  if (call.inputs.empty() || !call.in(0))
    return std::nullopt;
  auto axis = wrapAxis(call.node.integer("axis", 0), call.in(0)->rank());
  if (!axis)
    return std::nullopt;
  Known result = *call.in(0);
  result.values.reset();
  bool known = true;
  result.shape[*axis] = 0;
  for (const Known *input : call.inputs) {
    if (!input || input->rank() != result.rank())
      return std::nullopt;
    result.shape[*axis] += input->shape[*axis];
    known &= input->values.has_value();
    if (!result.element)
      result.element = input->element;
  }
  if (!known || result.count() > kMostElements)
    return result;
  std::vector<double> values;
  forEachIndex(result.shape, [&](ArrayRef<int64_t> index) {
    Shape at(index);
    for (const Known *input : call.inputs) {
      if (at[*axis] < input->shape[*axis]) {
        // Not offsetIn: a dimension of 1 isn't broadcast here.
        int64_t offset = 0;
        for (auto [i, size] : llvm::zip(at, input->shape))
          offset = offset * size + i;
        values.push_back((*input->values)[offset]);
        return;
      }
      at[*axis] -= input->shape[*axis];
    }
  });
  result.values = std::move(values);
  return result;
}

Result mlir::qlm::onnxir::evaluateSplit(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  auto axis = wrapAxis(call.node.integer("axis", 0), x->rank());
  auto parts = call.integers(1, "split");
  if (!axis || (call.has(1) && !parts))
    return std::nullopt;
  int64_t count = call.node.getNumResults(), size = x->shape[*axis];
  if (!parts) {
    int64_t part = (size + count - 1) / count;
    parts.emplace();
    for (int64_t i = 0; i < count; ++i)
      parts->push_back(std::min(part, size - i * part));
  }
  if (static_cast<int64_t>(parts->size()) != count)
    return std::nullopt;
  int64_t first = 0;
  for (unsigned i = 0; i < call.result; ++i)
    first += (*parts)[i];
  Shape shape = x->shape;
  shape[*axis] = (*parts)[call.result];
  if (shape[*axis] < 0 || first + shape[*axis] > size)
    return std::nullopt;
  return gatherElements(*x, shape, [&](ArrayRef<int64_t> index) {
    Shape source(index);
    source[*axis] += first;
    return source;
  });
}

Result mlir::qlm::onnxir::evaluateGather(const Call &call) {
  const Known *x = call.in(0), *places = call.in(1);
  if (!x || !places)
    return std::nullopt;
  auto axis = wrapAxis(call.node.integer("axis", 0), x->rank());
  if (!axis)
    return std::nullopt;
  Shape shape(ArrayRef(x->shape).take_front(*axis));
  llvm::append_range(shape, places->shape);
  llvm::append_range(shape, ArrayRef(x->shape).drop_front(*axis + 1));
  if (!places->values)
    return Known{shape, std::nullopt, x->element};
  for (double place : *places->values)
    if (place < -x->shape[*axis] || place >= x->shape[*axis])
      return std::nullopt;
  return gatherElements(*x, shape, [&](ArrayRef<int64_t> index) {
    Shape source(index.take_front(*axis));
    auto place = static_cast<int64_t>((*places->values)[offsetIn(
        places->shape, index.slice(*axis, places->rank()))]);
    source.push_back(place < 0 ? place + x->shape[*axis] : place);
    llvm::append_range(source, index.drop_front(*axis + places->rank()));
    return source;
  });
}

Result mlir::qlm::onnxir::evaluateGatherND(const Call &call) {
  const Known *x = call.in(0), *places = call.in(1);
  if (!x || !places || !places->values || places->rank() == 0 ||
      call.node.integer("batch_dims", 0) != 0)
    return std::nullopt;
  int64_t depth = places->shape.back();
  if (depth > x->rank())
    return std::nullopt;
  Shape shape(ArrayRef(places->shape).drop_back());
  int64_t outer = shape.size();
  llvm::append_range(shape, ArrayRef(x->shape).drop_front(depth));
  bool inside = true;
  for (auto [i, value] : llvm::enumerate(*places->values)) {
    int64_t size = x->shape[i % std::max<int64_t>(depth, 1)];
    inside &= value >= -size && value < size;
  }
  if (!inside)
    return std::nullopt;
  return gatherElements(*x, shape, [&](ArrayRef<int64_t> index) {
    Shape place(index.take_front(outer)), source;
    place.push_back(0);
    for (int64_t k = 0; k < depth; ++k) {
      place.back() = k;
      int64_t offset = 0;
      for (auto [i, size] : llvm::zip(place, places->shape))
        offset = offset * size + i;
      auto at = static_cast<int64_t>((*places->values)[offset]);
      source.push_back(at < 0 ? at + x->shape[k] : at);
    }
    llvm::append_range(source, index.drop_front(outer));
    return source;
  });
}

Result mlir::qlm::onnxir::evaluateScatterND(const Call &call) {
  const Known *x = call.in(0), *places = call.in(1), *updates = call.in(2);
  if (!x || !places || !updates)
    return std::nullopt;
  Known result = *x;
  if (!x->values || !places->values || !updates->values ||
      places->rank() == 0 || call.node->hasAttr("reduction")) {
    result.values.reset();
    return result;
  }
  int64_t depth = places->shape.back(), block = 1;
  if (depth > x->rank())
    return std::nullopt;
  for (int64_t size : ArrayRef(x->shape).drop_front(depth))
    block *= size;
  int64_t count = places->count() / std::max<int64_t>(depth, 1);
  if (updates->count() != count * block)
    return std::nullopt;
  for (int64_t i = 0; i < count; ++i) {
    int64_t offset = 0;
    for (int64_t k = 0; k < depth; ++k) {
      auto at = static_cast<int64_t>((*places->values)[i * depth + k]);
      at = at < 0 ? at + x->shape[k] : at;
      if (at < 0 || at >= x->shape[k])
        return std::nullopt;
      offset = offset * x->shape[k] + at;
    }
    for (int64_t j = 0; j < block; ++j)
      (*result.values)[offset * block + j] = (*updates->values)[i * block + j];
  }
  return result;
}

Result mlir::qlm::onnxir::evaluateTrilu(const Call &call) {
  const Known *x = call.in(0);
  auto offset = call.has(1) ? call.integers(1) : Shape{0};
  if (!x || x->rank() < 2 || !offset || offset->size() != 1)
    return std::nullopt;
  bool upper = call.node.integer("upper", 1) != 0;
  Known result = *x;
  if (!result.values)
    return result;
  int64_t rows = x->shape[x->rank() - 2], columns = x->shape.back();
  for (auto [i, value] : llvm::enumerate(*result.values)) {
    int64_t column = i % columns, row = i / columns % rows;
    int64_t distance = column - row - offset->front();
    if (upper ? distance < 0 : distance > 0)
      value = 0;
  }
  return result;
}
