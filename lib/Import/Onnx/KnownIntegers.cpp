//===- KnownIntegers.cpp - Computes shapes while importing ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Graphs compute shapes, axes and slices with the same operators as data. Where
// all inputs of such a node are known whole numbers, so is its result, and what
// takes it can have static sizes.
//
//===----------------------------------------------------------------------===//

#include "KnownIntegers.h"

#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

Tensor mlir::qlm::onnx_import::makeIntegers(TensorBuilder &b,
                                            ArrayRef<int64_t> values,
                                            ArrayRef<int64_t> shape,
                                            int32_t type) {
  Type stored = getStoredType(b.getContext(), type);
  auto tensorType = RankedTensorType::get(shape, stored);
  SmallVector<APInt> elements;
  unsigned width = stored.getIntOrFloatBitWidth();
  for (int64_t value : values)
    elements.push_back(
        APInt(64, static_cast<uint64_t>(value)).zextOrTrunc(width));
  Value constant = arith::ConstantOp::create(
      b, b.loc, DenseElementsAttr::get(tensorType, elements));
  return {constant, type, SmallVector<int64_t>(values)};
}

/// Whether \p value is one of \p type.
static bool fits(int64_t value, int32_t type) {
  switch (type) {
  case TensorProto::BOOL:
    return value == 0 || value == 1;
  case TensorProto::INT8:
    return value == static_cast<int8_t>(value);
  case TensorProto::UINT8:
    return value == static_cast<uint8_t>(value);
  case TensorProto::INT16:
    return value == static_cast<int16_t>(value);
  case TensorProto::UINT16:
    return value == static_cast<uint16_t>(value);
  case TensorProto::INT32:
    return value == static_cast<int32_t>(value);
  case TensorProto::UINT32:
    return value == static_cast<uint32_t>(value);
  case TensorProto::UINT64:
    return value >= 0;
  default:
    return type == TensorProto::INT64;
  }
}

/// Elements of uint64 above those of int64, which are known as negative ones.
static bool hasHighBits(const Tensor &tensor) {
  return tensor.type == TensorProto::UINT64 &&
         llvm::any_of(*tensor.known, [](int64_t value) { return value < 0; });
}

static Integers take(const Tensor &tensor) {
  return {*tensor.known, SmallVector<int64_t>(tensor.tensorType().getShape())};
}

/// Two inputs of equal shape, or one of them a single element.
static Folded
foldPairs(const Integers &x, const Integers &y,
          function_ref<std::optional<int64_t>(int64_t, int64_t)> body) {
  bool xIsOne = x.values.size() == 1, yIsOne = y.values.size() == 1;
  if (!xIsOne && !yIsOne && x.shape != y.shape)
    return std::nullopt;
  if ((xIsOne && !yIsOne && x.shape.size() > y.shape.size()) ||
      (yIsOne && !xIsOne && y.shape.size() > x.shape.size()))
    return std::nullopt;
  // The result of two single elements has the longer shape.
  bool takesY = xIsOne && (!yIsOne || y.shape.size() > x.shape.size());
  Integers result{{}, takesY ? y.shape : x.shape};
  size_t count = std::max(x.values.size(), y.values.size());
  if (x.values.empty() || y.values.empty())
    count = 0;
  for (size_t i = 0; i < count; ++i) {
    auto value = body(x.values[xIsOne ? 0 : i], y.values[yIsOne ? 0 : i]);
    if (!value)
      return std::nullopt;
    result.values.push_back(*value);
  }
  return result;
}

/// The elements that a move takes.
static Folded foldMove(Node &node) {
  auto moved = movePositions(node);
  if (!moved)
    return std::nullopt;
  SmallVector<int64_t> elements;
  for (const Tensor &input : node.ins().take_front(countMoved(node)))
    llvm::append_range(elements, *input.known);
  for (int64_t &value : moved->values)
    value = elements[value];
  return moved;
}

static Folded foldArithmetic(Node &node) {
  using Body = std::optional<int64_t> (*)(int64_t, int64_t);
  Body body = llvm::StringSwitch<Body>(node.op())
                  .Case("Add",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          int64_t sum;
                          if (__builtin_add_overflow(x, y, &sum))
                            return std::nullopt;
                          return sum;
                        })
                  .Case("Sub",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          int64_t difference;
                          if (__builtin_sub_overflow(x, y, &difference))
                            return std::nullopt;
                          return difference;
                        })
                  .Case("Mul",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          int64_t product;
                          if (__builtin_mul_overflow(x, y, &product))
                            return std::nullopt;
                          return product;
                        })
                  .Case("Div",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          if (y == 0 || (x == INT64_MIN && y == -1))
                            return std::nullopt;
                          return x / y;
                        })
                  .Case("Equal",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return x == y;
                        })
                  .Case("Less",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return x < y;
                        })
                  .Case("Greater",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return x > y;
                        })
                  .Case("LessOrEqual",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return x <= y;
                        })
                  .Case("GreaterOrEqual",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return x >= y;
                        })
                  .Case("And",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return x && y;
                        })
                  .Case("Or",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return x || y;
                        })
                  .Case("Mod",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          if (x < 0 || y <= 0)
                            return std::nullopt;
                          return x % y;
                        })
                  .Case("Max",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return std::max(x, y);
                        })
                  .Case("Min",
                        [](int64_t x, int64_t y) -> std::optional<int64_t> {
                          return std::min(x, y);
                        })
                  .Default(nullptr);
  if (!body || node.inputCount() != 2)
    return std::nullopt;
  return foldPairs(take(node.in(0)), take(node.in(1)), body);
}

static Folded foldNot(Node &node) {
  Integers x = take(node.in(0));
  for (int64_t &value : x.values)
    value = !value;
  return x;
}

static Folded foldNeg(Node &node) {
  Integers x = take(node.in(0));
  for (int64_t &value : x.values)
    if (__builtin_sub_overflow(int64_t(0), value, &value))
      return std::nullopt;
  return x;
}

static Folded foldWhere(Node &node) {
  Integers condition = take(node.in(0)), x = take(node.in(1)),
           y = take(node.in(2));
  if (condition.shape != x.shape || x.shape != y.shape)
    return std::nullopt;
  for (size_t i = 0; i < x.values.size(); ++i)
    if (!condition.values[i])
      x.values[i] = y.values[i];
  return x;
}

static Folded foldCast(Node &node) {
  auto to = node.integer("to", 0);
  if (to != TensorProto::INT64 && to != TensorProto::INT32 &&
      to != TensorProto::BOOL)
    return std::nullopt;
  Integers x = take(node.in(0));
  if (to == TensorProto::BOOL)
    for (int64_t &value : x.values)
      value = value != 0;
  if (to == TensorProto::INT32)
    for (int64_t &value : x.values)
      value = static_cast<int32_t>(value);
  return x;
}

static Folded foldConstantOfShape(Node &node) {
  auto *value = node.find("value");
  if (!value || (value->t().data_type() != TensorProto::INT64 &&
                 value->t().data_type() != TensorProto::BOOL))
    return std::nullopt;
  Tensor element = node.makeConstant(value->t());
  if (!element || !element.known || element.known->size() != 1)
    return std::nullopt;
  Integers result{{}, *node.in(0).known};
  uint64_t count = 1;
  for (int64_t size : result.shape) {
    if (size < 0 || static_cast<uint64_t>(size) > kMostElements)
      return std::nullopt;
    count *= size;
    if (count > kMostElements)
      return std::nullopt;
  }
  result.values.assign(count, element.known->front());
  return result;
}

static Folded foldRange(Node &node) {
  int64_t start = node.in(0).known->front(), limit = node.in(1).known->front(),
          delta = node.in(2).known->front();
  Integers result;
  if (delta == 0)
    return std::nullopt;
  for (int64_t i = start; delta > 0 ? i < limit : i > limit; i += delta) {
    if (result.values.size() > kMostElements)
      return std::nullopt;
    result.values.push_back(i);
  }
  result.shape = {static_cast<int64_t>(result.values.size())};
  return result;
}

/// The result's type: that of the first data input but for comparisons.
static int32_t resultType(Node &node) {
  StringRef op = node.op();
  if (op == "Cast")
    return static_cast<int32_t>(node.integer("to", 0));
  if (op == "Equal" || op == "Less" || op == "Greater" || op == "LessOrEqual" ||
      op == "GreaterOrEqual")
    return TensorProto::BOOL;
  if (op == "Where")
    return node.in(1).type;
  if (op == "ConstantOfShape")
    return node.find("value")->t().data_type();
  return node.in(0).type;
}

/// Shape and Size need no known elements, only known sizes.
static Folded foldSizes(Node &node) {
  const Tensor &x = node.in(0);
  if (!x.tensorType().hasStaticShape())
    return std::nullopt;
  ArrayRef<int64_t> shape = x.tensorType().getShape();
  if (node.op() == "Size")
    return Integers{{x.tensorType().getNumElements()}, {}};
  auto clamp = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + x.rank() : i, 0, x.rank());
  };
  int64_t start = clamp(node.integer("start", 0));
  int64_t end = std::max(start, clamp(node.integer("end", x.rank())));
  Integers result{SmallVector<int64_t>(shape.slice(start, end - start)), {}};
  result.shape = {static_cast<int64_t>(result.values.size())};
  return result;
}

std::optional<Tensor> mlir::qlm::onnx_import::foldKnown(Node &node) {
  if (!node.getProto().domain().empty() || node.inputCount() == 0)
    return std::nullopt;
  if (node.op() == "Shape" || node.op() == "Size") {
    if (Folded sizes = foldSizes(node))
      return makeIntegers(node.b, sizes->values, sizes->shape,
                          TensorProto::INT64);
    return foldOpenSizes(node);
  }
  for (const Tensor &input : node.ins()) {
    if (input && !input.known)
      return foldOpenSizes(node);
    if (input && (input.known->size() > kMostElements || hasHighBits(input)))
      return std::nullopt;
  }
  using Fold = Folded (*)(Node &);
  Fold fold = llvm::StringSwitch<Fold>(node.op())
                  .Cases({"Add", "Sub", "Mul", "Div", "Equal", "Less",
                          "Greater", "LessOrEqual", "GreaterOrEqual", "And",
                          "Or", "Max", "Min", "Mod"},
                         foldArithmetic)
                  .Case("Not", foldNot)
                  .Case("Neg", foldNeg)
                  .Case("Where", foldWhere)
                  .Case("Cast", foldCast)
                  .Case("ConstantOfShape", foldConstantOfShape)
                  .Case("Range", foldRange)
                  .Default(foldMove);
  Folded result = fold(node);
  if (!result)
    return std::nullopt;
  // What overflows the type is left to run time, which wraps it.
  int32_t type = resultType(node);
  if (!llvm::all_of(result->values,
                    [&](int64_t value) { return fits(value, type); }))
    return std::nullopt;
  return makeIntegers(node.b, result->values, result->shape, type);
}
