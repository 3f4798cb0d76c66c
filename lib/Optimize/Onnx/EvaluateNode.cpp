//===- EvaluateNode.cpp - Computes one node of a graph's small values -----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each rule gives the shape, and the elements where those of all inputs are
// known. Operators mean what ONNX says of them from opset 13 on; axes may be
// attributes or inputs.
//
//===----------------------------------------------------------------------===//

#include "Evaluator.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringSwitch.h"

#include <cmath>
#include <numeric>

using namespace mlir;
using namespace mlir::qlm::onnxir;

/// Values of more elements are not computed.
static constexpr int64_t kMostElements = int64_t(1) << 20;

using Shape = SmallVector<int64_t>;
using Result = std::optional<Known>;

namespace {
/// A node with what is known of its inputs.
struct Call {
  mutable NodeOp node; ///< accessors of operations are not const
  unsigned result;
  ArrayRef<const Known *> inputs;

  StringRef kind() const { return node.getKind(); }
  const Known *in(unsigned i) const {
    return i < inputs.size() ? inputs[i] : nullptr;
  }
  bool has(unsigned i) const { return static_cast<bool>(node.input(i)); }
  /// Input \p i as whole numbers, or attribute \p name.
  std::optional<Shape> integers(unsigned i, StringRef name = "") const {
    if (!name.empty())
      if (auto list = node->getAttrOfType<DenseI64ArrayAttr>(name))
        return Shape(list.asArrayRef());
    if (!in(i) || !in(i)->values)
      return std::nullopt;
    Shape list;
    for (double value : *in(i)->values)
      list.push_back(value >= 9.2e18    ? INT64_MAX
                     : value <= -9.2e18 ? INT64_MIN
                                        : static_cast<int64_t>(value));
    return list;
  }
};
} // namespace

static double roundTo(Type element, double value) {
  if (element && isa<FloatType>(element) && !element.isF64())
    return static_cast<double>(static_cast<float>(value));
  return value;
}

static std::optional<int64_t> wrapAxis(int64_t axis, int64_t rank) {
  if (axis < 0)
    axis += rank;
  if (axis < 0 || axis >= rank)
    return std::nullopt;
  return axis;
}

/// Calls \p visit with each index of \p shape, the last fastest.
static void forEachIndex(ArrayRef<int64_t> shape,
                         llvm::function_ref<void(ArrayRef<int64_t>)> visit) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  Shape index(shape.size(), 0);
  for (int64_t i = 0; i < count; ++i) {
    visit(index);
    for (int64_t axis = shape.size() - 1; axis >= 0; --axis) {
      if (++index[axis] < shape[axis])
        break;
      index[axis] = 0;
    }
  }
}

/// Where the element at \p index of a broadcast stands in \p shape.
static int64_t offsetIn(ArrayRef<int64_t> shape, ArrayRef<int64_t> index) {
  int64_t offset = 0;
  size_t skipped = index.size() - shape.size();
  for (size_t axis = 0; axis < shape.size(); ++axis)
    offset =
        offset * shape[axis] + (shape[axis] == 1 ? 0 : index[axis + skipped]);
  return offset;
}

static std::optional<Shape> broadcast(ArrayRef<const Known *> inputs) {
  Shape shape;
  for (const Known *input : inputs) {
    if (!input)
      return std::nullopt;
    if (input->shape.size() > shape.size())
      shape.insert(shape.begin(), input->shape.size() - shape.size(), 1);
    size_t skipped = shape.size() - input->shape.size();
    for (auto [axis, size] : llvm::enumerate(input->shape)) {
      int64_t &known = shape[axis + skipped];
      if (known != size && known != 1 && size != 1)
        return std::nullopt;
      if (known == 1)
        known = size;
    }
  }
  return shape;
}

//===----------------------------------------------------------------------===//
// Elementwise
//===----------------------------------------------------------------------===//

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

static Result evaluateElementwise(const Call &call) {
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

static Result evaluateCast(const Call &call) {
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

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

static Known makeIntegers(Builder b, ArrayRef<int64_t> values,
                          ArrayRef<int64_t> shape) {
  Known known{Shape(shape), std::nullopt, b.getI64Type()};
  known.values.emplace(values.begin(), values.end());
  return known;
}

static Result evaluateShape(const Call &call) {
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

static Result evaluateReshape(const Call &call) {
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

static Result evaluateUnsqueeze(const Call &call) {
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

static Result evaluateSqueeze(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  auto axes = call.integers(1, "axes");
  if (!axes && call.has(1))
    return std::nullopt;
  Shape shape;
  for (auto [i, size] : llvm::enumerate(x->shape)) {
    bool drops = !axes && size == 1;
    for (int64_t axis : axes.value_or(Shape()))
      drops |= wrapAxis(axis, x->rank()) == static_cast<int64_t>(i);
    if (!drops)
      shape.push_back(size);
  }
  return withShape(x, shape);
}

static Result evaluateFlatten(const Call &call) {
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

//===----------------------------------------------------------------------===//
// Movement of elements
//===----------------------------------------------------------------------===//

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

static Result evaluateTranspose(const Call &call) {
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

static Result evaluateExpand(const Call &call) {
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

static Result evaluateTile(const Call &call) {
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

static Result evaluateSlice(const Call &call) {
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

static Result evaluateConcat(const Call &call) {
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

static Result evaluateSplit(const Call &call) {
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

static Result evaluateGather(const Call &call) {
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

static Result evaluateGatherND(const Call &call) {
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

static Result evaluateScatterND(const Call &call) {
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

static Result evaluateTrilu(const Call &call) {
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

//===----------------------------------------------------------------------===//
// Ranges, reductions, products
//===----------------------------------------------------------------------===//

static Result evaluateRange(const Call &call) {
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

static Result evaluateConstantOfShape(const Call &call) {
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

static Result evaluateReduction(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  auto axes = call.integers(1, "axes");
  if (!axes && call.has(1))
    return std::nullopt;
  bool keeps = call.node.integer("keepdims", 1) != 0;
  bool all = !axes || axes->empty();
  if (all && call.node.integer("noop_with_empty_axes", 0))
    return *x;
  Shape kept, shape;
  for (auto [i, size] : llvm::enumerate(x->shape)) {
    bool reduces = all;
    for (int64_t axis : axes.value_or(Shape()))
      reduces |= wrapAxis(axis, x->rank()) == static_cast<int64_t>(i);
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

static Result evaluateCumSum(const Call &call) {
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

static Result evaluateMatMul(const Call &call) {
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
static Result evaluateLayer(const Call &call) {
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

static Result evaluateGemm(const Call &call) {
  const Known *x = call.in(0), *y = call.in(1);
  if (!x || !y || x->rank() != 2 || y->rank() != 2)
    return std::nullopt;
  return Known{{x->shape[call.node.integer("transA", 0) ? 1 : 0],
                y->shape[call.node.integer("transB", 0) ? 0 : 1]},
               std::nullopt,
               x->element};
}

std::optional<Known>
mlir::qlm::onnxir::evaluateNode(NodeOp node, unsigned result,
                                ArrayRef<const Known *> inputs) {
  Call call{node, result, inputs};
  using Rule = Result (*)(const Call &);
  Rule rule =
      llvm::StringSwitch<Rule>(node.getKind())
          .Cases({"Cast", "CastLike"}, evaluateCast)
          .Cases({"Shape", "Size"}, evaluateShape)
          .Case("Reshape", evaluateReshape)
          .Case("Unsqueeze", evaluateUnsqueeze)
          .Case("Squeeze", evaluateSqueeze)
          .Case("Flatten", evaluateFlatten)
          .Case("Transpose", evaluateTranspose)
          .Case("Expand", evaluateExpand)
          .Case("Tile", evaluateTile)
          .Case("Slice", evaluateSlice)
          .Case("Concat", evaluateConcat)
          .Case("Split", evaluateSplit)
          .Case("Gather", evaluateGather)
          .Case("GatherND", evaluateGatherND)
          .Case("ScatterND", evaluateScatterND)
          .Case("Trilu", evaluateTrilu)
          .Case("Range", evaluateRange)
          .Case("ConstantOfShape", evaluateConstantOfShape)
          .Cases({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin",
                  "ReduceProd"},
                 evaluateReduction)
          .Case("CumSum", evaluateCumSum)
          .Case("MatMul", evaluateMatMul)
          .Case("Gemm", evaluateGemm)
          .Cases({"RMSNormalization", "LayerNormalization", "Softmax", "Gelu",
                  "SimplifiedLayerNormalization", "RotaryEmbedding",
                  "Attention"},
                 evaluateLayer)
          .Cases({"com.microsoft.RotaryEmbedding", "com.microsoft.MatMulNBits",
                  "com.microsoft.GroupQueryAttention",
                  "com.microsoft.SkipSimplifiedLayerNormalization",
                  "com.microsoft.FastGelu", "com.microsoft.Gelu",
                  "com.microsoft.QuickGelu"},
                 evaluateLayer)
          .Default(evaluateElementwise);
  return rule(call);
}
