//===- Resize.cpp - Images of other sizes ---------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Interpolation is made axis after axis, by tables of places and weights that
// are known when a graph is imported.
//
//===----------------------------------------------------------------------===//

#include "Node.h"
#include "ResizeTables.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"

#include <cmath>
#include <string>

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// Places and weights of one axis that are kept.
static constexpr double kMostPlaces = 1 << 26;

namespace {
/// Reads what a node says; failures are the node's.
class ResizeReader {
public:
  explicit ResizeReader(Node &node) : node(node) {}
  /// What becomes of each axis that changes, by its number.
  std::optional<SmallVector<std::pair<int64_t, ResizeAxis>>> read();

private:
  bool refuse(const Twine &message) {
    (void)node.fail(message);
    return false;
  }
  std::optional<SmallVector<double>> numbers(int64_t i);
  bool readModes(ResizeAxis &axis);
  bool readAxes();
  bool setSizes(ArrayRef<double> sizes);
  bool setScales(ArrayRef<double> scales);

  Node &node;
  SmallVector<int64_t> numbersOfAxes;
  SmallVector<ResizeAxis> axes;
};
} // namespace

/// The elements of input \p i as f64; nothing, and a failure, where they aren't
/// known.
std::optional<SmallVector<double>> ResizeReader::numbers(int64_t i) {
  const Tensor &tensor = node.in(i);
  SmallVector<double> values;
  DenseElementsAttr elements;
  if (tensor.known) {
    values.assign(tensor.known->begin(), tensor.known->end());
  } else if (isFloatType(tensor.type) &&
             matchPattern(tensor.value, m_Constant(&elements))) {
    for (const APFloat &value : elements.getValues<APFloat>())
      values.push_back(value.convertToDouble());
  } else {
    (void)node.fail(describeUnknownInput(node.getProto(), i));
    return std::nullopt;
  }
  return values;
}

bool ResizeReader::readModes(ResizeAxis &axis) {
  axis.mode = node.text("mode", "nearest");
  axis.coordinates = node.text("coordinate_transformation_mode", "half_pixel");
  axis.nearest = node.text("nearest_mode", "round_prefer_floor");
  axis.cubic = node.number("cubic_coeff_a", -0.75);
  axis.antialias = node.integer("antialias", 0) && axis.mode != "nearest";
  axis.excludesOutside = node.integer("exclude_outside", 0);
  auto check = [&](StringRef name, StringRef value, ArrayRef<StringRef> known) {
    if (!llvm::is_contained(known, value))
      (void)node.fail(name + " '" + value + "' is not handled");
  };
  check("mode", axis.mode, {"nearest", "linear", "cubic"});
  check("coordinate_transformation_mode", axis.coordinates,
        {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel",
         "align_corners", "asymmetric", "tf_crop_and_resize"});
  check("nearest_mode", axis.nearest,
        {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"});
  if (axis.mode != "nearest" && !isFloatType(node.in(0).type))
    (void)node.fail("only floats can be interpolated, got " +
                    Twine(node.in(0).type));
  return !node.failed();
}

bool ResizeReader::readAxes() {
  const Tensor &x = node.in(0);
  auto given = node.integers("axes");
  SmallVector<int64_t> all =
      given ? *given : llvm::to_vector(llvm::seq<int64_t>(0, x.rank()));
  auto wrapped = node.axes(all, x.rank());
  ResizeAxis modes;
  if (!wrapped || !readModes(modes))
    return false;
  numbersOfAxes = *wrapped;
  for (int64_t axis : numbersOfAxes) {
    modes.input = x.dim(axis);
    axes.push_back(modes);
  }
  if (modes.coordinates != "tf_crop_and_resize")
    return true;
  auto region = node.has(1) ? numbers(1) : SmallVector<double>();
  if (!region)
    return false;
  if (region->size() != 2 * axes.size())
    return refuse("roi must have " + Twine(2 * axes.size()) + " numbers, got " +
                  Twine(region->size()));
  for (size_t i = 0; i < axes.size(); ++i) {
    axes[i].start = (*region)[i];
    axes[i].end = (*region)[i + axes.size()];
  }
  return true;
}

/// Axes of a size that isn't known can only stay as they are.
bool ResizeReader::setScales(ArrayRef<double> scales) {
  for (auto [axis, scale] : llvm::zip_equal(axes, scales)) {
    double size = std::floor(static_cast<double>(axis.input) * scale);
    if (!(scale > 0) ||
        (!ShapedType::isDynamic(axis.input) && !(size <= kMostPlaces)))
      return refuse("scales must be positive, and sizes at most " +
                    Twine(int64_t(kMostPlaces)) + ", got the scale " +
                    std::to_string(scale));
    axis.scale = scale;
    axis.output = ShapedType::isDynamic(axis.input)
                      ? axis.input
                      : static_cast<int64_t>(size);
  }
  return true;
}

bool ResizeReader::setSizes(ArrayRef<double> sizes) {
  StringRef policy = node.text("keep_aspect_ratio_policy", "stretch");
  SmallVector<double> scales;
  for (auto [axis, size] : llvm::zip_equal(axes, sizes)) {
    if (!(size >= 0 && size <= kMostPlaces))
      return refuse("sizes must be from 0 to " + Twine(int64_t(kMostPlaces)));
    if (axis.input <= 0)
      return refuse("axes that sizes are given for must be known and not "
                    "empty");
    scales.push_back(size / static_cast<double>(axis.input));
  }
  if (scales.empty())
    return true;
  bool keeps = policy != "stretch";
  double one = policy == "not_larger" ? *llvm::min_element(scales)
                                      : *llvm::max_element(scales);
  for (size_t i = 0; i < axes.size(); ++i) {
    axes[i].scale = keeps ? one : scales[i];
    double size =
        keeps ? std::floor(one * static_cast<double>(axes[i].input) + 0.5)
              : sizes[i];
    if (size > kMostPlaces)
      return refuse("sizes must be from 0 to " + Twine(int64_t(kMostPlaces)));
    axes[i].output = static_cast<int64_t>(size);
  }
  return true;
}

std::optional<SmallVector<std::pair<int64_t, ResizeAxis>>>
ResizeReader::read() {
  if (!readAxes())
    return std::nullopt;
  auto isEmpty = [&](int64_t i) {
    return !node.has(i) || (node.in(i).rank() == 1 && node.in(i).dim(0) == 0);
  };
  bool hasSizes = !isEmpty(3);
  if (hasSizes != isEmpty(2)) {
    (void)node.fail("either scales or sizes must be given");
    return std::nullopt;
  }
  auto values = numbers(hasSizes ? 3 : 2);
  if (!values)
    return std::nullopt;
  if (values->size() != axes.size()) {
    (void)node.fail((hasSizes ? "sizes" : "scales") +
                    Twine(" must have a number for each axis, got ") +
                    Twine(values->size()) + " and " + Twine(axes.size()));
    return std::nullopt;
  }
  if (!(hasSizes ? setSizes(*values) : setScales(*values)))
    return std::nullopt;
  SmallVector<std::pair<int64_t, ResizeAxis>> changed;
  for (auto [number, axis] : llvm::zip_equal(numbersOfAxes, axes)) {
    bool crops = axis.coordinates == "tf_crop_and_resize" &&
                 (axis.start != 0 || axis.end != 1);
    if (axis.scale == 1 && axis.input == axis.output && !crops)
      continue;
    if (axis.input <= 0) {
      (void)node.fail("axes that are resized must be known and not empty");
      return std::nullopt;
    }
    double taps = axis.antialias ? 4 / std::min(axis.scale, 1.0) + 4 : 4;
    if (static_cast<double>(axis.output) * taps > kMostPlaces) {
      (void)node.fail("the scale " + std::to_string(axis.scale) +
                      " is too small");
      return std::nullopt;
    }
    changed.push_back({number, axis});
  }
  return changed;
}

template <typename T>
static Value makeTable(TensorBuilder &b, ArrayRef<int64_t> shape, Type element,
                       ArrayRef<T> values) {
  return arith::ConstantOp::create(
      b, b.loc,
      DenseElementsAttr::get(RankedTensorType::get(shape, element), values));
}

/// \p x, whose elements are of the type \p type, with \p axis changed.
static Value resizeAxis(TensorBuilder &b, Value x, int32_t type, int64_t axis,
                        const ResizeAxis &change, double extrapolation) {
  ResizeTable table = makeResizeTable(change);
  Type element = cast<RankedTensorType>(x.getType()).getElementType();
  SmallVector<Value> sizes = b.dims(x);
  sizes[axis] = b.index(change.output);
  if (change.output == 0)
    return b.generate(sizes, element, [&](ValueRange at) {
      SmallVector<Value> from(at);
      from[axis] = b.index(0);
      return b.extract(x, from);
    });
  Value places = makeTable(b, {change.output, table.taps}, b.getI64Type(),
                           ArrayRef<int64_t>(table.places));
  auto extractTap = [&](ValueRange at, Value tap) {
    SmallVector<Value> from(at);
    from[axis] = b.toIndex(b.extract(places, {at[axis], tap}));
    return b.extract(x, from);
  };
  if (change.mode == "nearest" && table.added.empty())
    return b.generate(sizes, element, [&](ValueRange at) {
      return extractTap(at, b.index(0));
    });
  Value weights = makeTable(b, {change.output, table.taps}, b.getF32Type(),
                            ArrayRef<float>(table.weights));
  Value added = table.added.empty()
                    ? Value()
                    : makeTable(b, {change.output}, b.getF32Type(),
                                ArrayRef<float>(table.added));
  auto convert = [&](Value v) {
    return convertElement(b, v, TensorProto::FLOAT, type);
  };
  return b.generate(sizes, element, [&](ValueRange at) {
    auto sum = b.loop(
        b.index(0), b.index(table.taps), {b.constant(element, 0)},
        [&](Value tap, ValueRange carried) -> SmallVector<Value> {
          Value weight = convert(b.extract(weights, {at[axis], tap}));
          return {addElements(b, carried[0],
                              mulElements(b, weight, extractTap(at, tap)))};
        });
    if (!added)
      return sum[0];
    Value far = convert(b.extract(added, at[axis]));
    return addElements(b, sum[0],
                       mulElements(b, far, b.constant(element, extrapolation)));
  });
}

static LogicalResult emitResize(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto changes = ResizeReader(node).read();
  if (!changes)
    return failure();
  // Sums are made in f32 at least; integers only move.
  int32_t wide = isFloatType(x.type) ? accumulatorType(x.type) : x.type;
  Type stored = getStoredType(b.getContext(), wide);
  Value value = b.map({x.value}, stored, [&](ValueRange e) {
    return convertElement(b, e[0], x.type, wide);
  });
  for (auto &[axis, change] : *changes) {
    if (change.mode == "nearest" && !isFloatType(x.type) &&
        change.coordinates == "tf_crop_and_resize")
      return node.fail("only floats can be cropped");
    value = resizeAxis(b, value, wide, axis, change,
                       node.number("extrapolation_value", 0));
  }
  return node.set(0,
                  b.map({value}, x.elementType(),
                        [&](ValueRange e) {
                          return convertElement(b, e[0], wide, x.type);
                        }),
                  x.type);
}

static const Operator operators[] = {
    {"", "Resize", 1, 4, emitResize},
};

ArrayRef<Operator> mlir::qlm::onnx_import::resizeOperators() {
  return operators;
}
