//===- KnownMoves.cpp - Where operators take shapes' elements from --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KnownIntegers.h"

#include "llvm/ADT/Sequence.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;

using Shape = SmallVector<int64_t>;

/// The number of elements; nothing when there are too many.
static std::optional<int64_t> countElements(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape) {
    if (size < 0 || size > static_cast<int64_t>(kMostElements))
      return std::nullopt;
    count *= size;
    if (count > static_cast<int64_t>(kMostElements))
      return std::nullopt;
  }
  return count;
}

/// Elements of an array of \p shape by their places, in order.
static Integers enumerate(ArrayRef<int64_t> shape) {
  return {llvm::to_vector(llvm::seq<int64_t>(0, *countElements(shape))),
          Shape(shape)};
}

/// The result of \p shape whose element at `at` is x's at from(at).
static Folded pick(const Integers &x, ArrayRef<int64_t> shape,
                   function_ref<void(ArrayRef<int64_t>, Shape &)> from) {
  auto count = countElements(shape);
  if (!count)
    return std::nullopt;
  Integers result{{}, Shape(shape)};
  Shape at(shape.size()), source(x.shape.size());
  for (int64_t i = 0; i < *count; ++i) {
    for (int64_t rest = i, axis = shape.size(); axis-- > 0; rest /= shape[axis])
      at[axis] = rest % shape[axis];
    from(at, source);
    int64_t place = 0;
    for (auto [index, size] : llvm::zip_equal(source, x.shape))
      place = place * size + index;
    result.values.push_back(x.values[place]);
  }
  return result;
}

static std::optional<int64_t> wrapAxis(int64_t axis, int64_t rank) {
  if (axis < -rank || axis >= rank)
    return std::nullopt;
  return axis < 0 ? axis + rank : axis;
}

/// Axes that input 1 or the attribute gives; nothing where one is bad.
static std::optional<Shape> getAxes(Node &node, int64_t rank) {
  Shape axes;
  ArrayRef<int64_t> given;
  auto attribute = node.integers("axes");
  if (attribute)
    given = *attribute;
  else if (node.has(1))
    given = *node.in(1).known;
  for (int64_t value : given) {
    auto axis = wrapAxis(value, rank);
    if (!axis || llvm::is_contained(axes, *axis))
      return std::nullopt;
    axes.push_back(*axis);
  }
  return axes;
}

static Folded moveNothing(Node &, Integers x) { return x; }

static Folded moveReshape(Node &node, Integers x) {
  Shape wanted = *node.in(1).known;
  bool zeroIsSize = node.integer("allowzero", 0);
  int64_t others = 1, *open = nullptr;
  for (auto [i, size] : llvm::enumerate(wanted)) {
    if (size == 0 && !zeroIsSize) {
      if (i >= x.shape.size())
        return std::nullopt;
      size = x.shape[i];
    }
    if (size < -1 || size > static_cast<int64_t>(kMostElements) ||
        (size == -1 && open))
      return std::nullopt;
    if (size == -1)
      open = &size;
    else if (__builtin_mul_overflow(others, size, &others))
      return std::nullopt;
  }
  auto count = static_cast<int64_t>(x.values.size());
  if (open && (others == 0 || count % others))
    return std::nullopt;
  if (open)
    *open = count / others;
  if (countElements(wanted) != count)
    return std::nullopt;
  x.shape = wanted;
  return x;
}

static Folded moveSqueeze(Node &node, Integers x) {
  auto axes = getAxes(node, x.shape.size());
  if (!axes)
    return std::nullopt;
  bool all = !node.has(1) && !node.find("axes");
  Shape kept;
  for (auto [axis, size] : llvm::enumerate(x.shape)) {
    bool isNamed = llvm::is_contained(*axes, static_cast<int64_t>(axis));
    if (isNamed && size != 1)
      return std::nullopt;
    if (!isNamed && !(all && size == 1))
      kept.push_back(size);
  }
  x.shape = kept;
  return x;
}

static Folded moveUnsqueeze(Node &node, Integers x) {
  auto attribute = node.integers("axes");
  if (!attribute && !node.has(1))
    return std::nullopt;
  size_t added = attribute ? attribute->size() : node.in(1).known->size();
  auto axes = getAxes(node, x.shape.size() + added);
  if (!axes)
    return std::nullopt;
  Shape wider;
  for (size_t axis = 0, next = 0; axis < x.shape.size() + added; ++axis)
    wider.push_back(llvm::is_contained(*axes, static_cast<int64_t>(axis))
                        ? 1
                        : x.shape[next++]);
  x.shape = wider;
  return x;
}

static Folded moveTranspose(Node &node, Integers x) {
  auto rank = static_cast<int64_t>(x.shape.size());
  Shape order = node.integers("perm").value_or(
      llvm::to_vector(llvm::reverse(llvm::seq<int64_t>(0, rank))));
  Shape sorted = order;
  llvm::sort(sorted);
  if (!llvm::equal(sorted, llvm::seq<int64_t>(0, rank)))
    return std::nullopt;
  Shape shape;
  for (int64_t axis : order)
    shape.push_back(x.shape[axis]);
  return pick(x, shape, [&](ArrayRef<int64_t> at, Shape &from) {
    for (auto [i, axis] : llvm::enumerate(order))
      from[axis] = at[i];
  });
}

static Folded moveGather(Node &node, Integers x) {
  auto axis = wrapAxis(node.integer("axis", 0), x.shape.size());
  if (!axis)
    return std::nullopt;
  ArrayRef<int64_t> places = *node.in(1).known;
  ArrayRef<int64_t> inner = node.in(1).tensorType().getShape();
  Shape shape(x.shape);
  int64_t size = x.shape[*axis];
  for (int64_t place : places)
    if (place < -size || place >= size)
      return std::nullopt;
  shape.erase(shape.begin() + *axis);
  shape.insert(shape.begin() + *axis, inner.begin(), inner.end());
  return pick(x, shape, [&](ArrayRef<int64_t> at, Shape &from) {
    int64_t place = 0;
    for (auto [i, extent] : llvm::enumerate(inner))
      place = place * extent + at[*axis + i];
    for (int64_t i = 0, rank = from.size(); i < rank; ++i)
      from[i] = i < *axis ? at[i] : at[i + inner.size() - 1];
    from[*axis] = places[place] < 0 ? places[place] + size : places[place];
  });
}

static Folded moveSlice(Node &node, Integers x) {
  if (node.inputCount() < 3)
    return std::nullopt;
  ArrayRef<int64_t> starts = *node.in(1).known, ends = *node.in(2).known;
  Shape axes = node.has(3)
                   ? *node.in(3).known
                   : llvm::to_vector(llvm::seq<int64_t>(0, starts.size()));
  Shape steps = node.has(4) ? *node.in(4).known : Shape(starts.size(), 1);
  if (ends.size() != starts.size() || axes.size() != starts.size() ||
      steps.size() != starts.size())
    return std::nullopt;
  Shape shape(x.shape), first(x.shape.size(), 0), stride(x.shape.size(), 1);
  llvm::SmallDenseSet<int64_t> seen;
  for (auto [start, end, named, step] :
       llvm::zip_equal(starts, ends, axes, steps)) {
    auto axis = wrapAxis(named, x.shape.size());
    if (!axis || step == 0 || step == INT64_MIN || !seen.insert(*axis).second)
      return std::nullopt;
    int64_t size = x.shape[*axis];
    auto clamp = [size = size](int64_t i, int64_t low, int64_t high) {
      return std::min(std::max(i < 0 ? i + size : i, low), high);
    };
    int64_t from = step > 0 ? clamp(start, 0, size) : clamp(start, 0, size - 1);
    int64_t to = step > 0 ? clamp(end, 0, size) : clamp(end, -1, size - 1);
    int64_t span = step > 0 ? to - from : from - to;
    int64_t length = step > 0 ? step : -step;
    first[*axis] = from;
    stride[*axis] = step;
    shape[*axis] = span > 0 ? span / length + (span % length != 0) : int64_t(0);
  }
  return pick(x, shape, [&](ArrayRef<int64_t> at, Shape &from) {
    for (size_t axis = 0; axis < from.size(); ++axis)
      from[axis] = first[axis] + at[axis] * stride[axis];
  });
}

static Folded moveExpand(Node &node, Integers x) {
  Shape shape = *node.in(1).known;
  if (shape.size() < x.shape.size())
    shape.insert(shape.begin(), x.shape.size() - shape.size(), 1);
  size_t more = shape.size() - x.shape.size();
  for (auto [axis, size] : llvm::enumerate(x.shape)) {
    if (shape[axis + more] == 1)
      shape[axis + more] = size;
    if (size != 1 && size != shape[axis + more])
      return std::nullopt;
  }
  return pick(x, shape, [&](ArrayRef<int64_t> at, Shape &from) {
    for (size_t axis = 0; axis < from.size(); ++axis)
      from[axis] = x.shape[axis] == 1 ? 0 : at[axis + more];
  });
}

static Folded moveConcat(Node &node) {
  ArrayRef<int64_t> first = node.in(0).tensorType().getShape();
  auto axis = wrapAxis(node.integer("axis", 0), first.size());
  if (!axis)
    return std::nullopt;
  Shape shape(first);
  shape[*axis] = 0;
  SmallVector<Integers> parts;
  int64_t before = 0;
  for (const Tensor &input : node.ins()) {
    ArrayRef<int64_t> own = input.tensorType().getShape();
    if (own.size() != shape.size())
      return std::nullopt;
    for (auto [i, size] : llvm::enumerate(own))
      if (static_cast<int64_t>(i) != *axis && size != shape[i])
        return std::nullopt;
    shape[*axis] += own[*axis];
    parts.push_back(enumerate(own));
    for (int64_t &place : parts.back().values)
      place += before;
    before += parts.back().values.size();
  }
  if (!countElements(shape))
    return std::nullopt;
  // Blocks of each part in turn, for each place of the dimensions before.
  Integers result{{}, shape};
  int64_t outer = *countElements(ArrayRef(shape).take_front(*axis));
  for (int64_t i = 0; i < outer; ++i)
    for (const Integers &part : parts) {
      size_t block = part.values.size() / outer;
      llvm::append_range(result.values,
                         ArrayRef(part.values).slice(i * block, block));
    }
  return result;
}

int64_t mlir::qlm::onnx_import::countMoved(const Node &node) {
  return node.op() == "Concat" ? node.inputCount() : 1;
}

Folded mlir::qlm::onnx_import::movePositions(Node &node) {
  for (auto [i, input] : llvm::enumerate(node.ins())) {
    bool isMoved = static_cast<int64_t>(i) < countMoved(node);
    if (isMoved && (!input || input.type != node.in(0).type ||
                    !input.tensorType().hasStaticShape() ||
                    !countElements(input.tensorType().getShape())))
      return std::nullopt;
    if (!isMoved && input && !input.known)
      return std::nullopt;
  }
  if (node.op() == "Concat")
    return moveConcat(node);
  using Move = Folded (*)(Node &, Integers);
  Move move = llvm::StringSwitch<Move>(node.op())
                  .Case("Expand", moveExpand)
                  .Case("Gather", moveGather)
                  .Case("Identity", moveNothing)
                  .Case("Reshape", moveReshape)
                  .Case("Slice", moveSlice)
                  .Case("Squeeze", moveSqueeze)
                  .Case("Transpose", moveTranspose)
                  .Case("Unsqueeze", moveUnsqueeze)
                  .Default(nullptr);
  if (!move)
    return std::nullopt;
  return move(node, enumerate(node.in(0).tensorType().getShape()));
}
