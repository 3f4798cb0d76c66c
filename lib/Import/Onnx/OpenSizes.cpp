//===- OpenSizes.cpp - Computes shapes of open sizes while importing ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A graph for any batch takes its tensors' shapes, replaces a part of them and
// reshapes by the result. Elements of such shapes are followed one by one, so
// that the known ones give static sizes and the open ones stay what they are.
//
//===----------------------------------------------------------------------===//

#include "KnownIntegers.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

using Elements = std::optional<SmallVector<Value>>;

/// The elements of \p tensor as indices; nothing where they aren't followed.
static Elements elementsOf(TensorBuilder &b, const Tensor &tensor) {
  if (!tensor || tensor.type != TensorProto::INT64)
    return std::nullopt;
  if (tensor.known && tensor.known->size() <= kMostElements)
    return b.indices(*tensor.known);
  if (tensor.sizes.empty())
    return std::nullopt;
  return tensor.sizes;
}

/// A tensor of \p shape with the elements \p sizes.
static Tensor makeSizes(TensorBuilder &b, ArrayRef<Value> sizes,
                        ArrayRef<int64_t> shape) {
  SmallVector<int64_t> known;
  for (Value size : sizes)
    if (auto value = b.asConstant(size))
      known.push_back(*value);
  if (known.size() == sizes.size())
    return makeIntegers(b, known, shape, TensorProto::INT64);
  SmallVector<Value> elements;
  for (Value size : sizes)
    elements.push_back(b.fromIndex(size, b.getI64Type()));
  Value value = tensor::FromElementsOp::create(
      b, b.loc, RankedTensorType::get(shape, b.getI64Type()), elements);
  return {value, TensorProto::INT64, std::nullopt, SmallVector<Value>(sizes)};
}

static std::optional<Tensor> foldShape(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  SmallVector<Value> sizes = b.dims(x.value);
  if (node.op() == "Size") {
    Value count = b.index(1);
    for (Value size : sizes)
      count = b.mul(count, size);
    return makeSizes(b, {count}, {});
  }
  auto clamp = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + x.rank() : i, 0, x.rank());
  };
  int64_t start = clamp(node.integer("start", 0));
  int64_t end = std::max(start, clamp(node.integer("end", x.rank())));
  return makeSizes(b, ArrayRef(sizes).slice(start, end - start), {end - start});
}

static std::optional<Tensor> foldMove(Node &node) {
  SmallVector<Value> elements;
  for (const Tensor &input : node.ins().take_front(countMoved(node))) {
    Elements own = elementsOf(node.b, input);
    if (!own)
      return std::nullopt;
    llvm::append_range(elements, *own);
  }
  Folded moved = movePositions(node);
  if (!moved)
    return std::nullopt;
  SmallVector<Value> result;
  for (int64_t place : moved->values)
    result.push_back(elements[place]);
  return makeSizes(node.b, result, moved->shape);
}

/// The shape of inputs that are equal in shape, or single elements.
static std::optional<SmallVector<int64_t>>
commonShape(ArrayRef<Tensor> inputs) {
  auto isOne = [](ArrayRef<int64_t> shape) {
    return llvm::all_of(shape, [](int64_t size) { return size == 1; });
  };
  ArrayRef<int64_t> shape;
  for (const Tensor &input : inputs)
    if (ArrayRef<int64_t> own = input.tensorType().getShape();
        isOne(shape) && (!isOne(own) || own.size() > shape.size()))
      shape = own;
  for (const Tensor &input : inputs)
    if (ArrayRef<int64_t> own = input.tensorType().getShape();
        own.size() > shape.size() || (!isOne(own) && own != shape))
      return std::nullopt;
  return SmallVector<int64_t>(shape);
}

/// Where by elements that are equal whatever open sizes are, or by those that
/// are chosen either way.
static std::optional<Tensor> foldWhere(Node &node) {
  TensorBuilder &b = node.b;
  auto shape = commonShape(node.ins());
  Elements yes = elementsOf(b, node.in(1)), no = elementsOf(b, node.in(2));
  if (!shape || !yes || !no || !node.in(0).known)
    return std::nullopt;
  ArrayRef<int64_t> condition = *node.in(0).known;
  SmallVector<Value> result;
  size_t count = std::max({condition.size(), yes->size(), no->size()});
  for (size_t i = 0; i < count; ++i)
    result.push_back(condition[condition.size() == 1 ? 0 : i]
                         ? (*yes)[yes->size() == 1 ? 0 : i]
                         : (*no)[no->size() == 1 ? 0 : i]);
  return makeSizes(b, result, *shape);
}

/// Comparisons that come out the same whatever open sizes are.
static std::optional<Tensor> foldEqual(Node &node) {
  TensorBuilder &b = node.b;
  auto shape = commonShape(node.ins());
  Elements x = elementsOf(b, node.in(0)), y = elementsOf(b, node.in(1));
  if (!shape || !x || !y)
    return std::nullopt;
  SmallVector<int64_t> result;
  for (size_t i = 0; i < std::max(x->size(), y->size()); ++i) {
    auto known = b.asConstant(
        b.equal((*x)[x->size() == 1 ? 0 : i], (*y)[y->size() == 1 ? 0 : i]));
    if (!known)
      return std::nullopt;
    result.push_back(*known != 0);
  }
  return makeIntegers(b, result, *shape, TensorProto::BOOL);
}

static std::optional<Tensor> foldArithmetic(Node &node) {
  TensorBuilder &b = node.b;
  using Body = Value (TensorBuilder::*)(Value, Value);
  Body body = llvm::StringSwitch<Body>(node.op())
                  .Case("Add", &TensorBuilder::add)
                  .Case("Sub", &TensorBuilder::sub)
                  .Case("Mul", &TensorBuilder::mul)
                  .Case("Div", &TensorBuilder::truncDiv)
                  .Case("Max", &TensorBuilder::max)
                  .Case("Min", &TensorBuilder::min)
                  .Default(nullptr);
  if (!body || node.inputCount() != 2)
    return std::nullopt;
  auto shape = commonShape(node.ins());
  Elements x = elementsOf(b, node.in(0)), y = elementsOf(b, node.in(1));
  if (!shape || !x || !y)
    return std::nullopt;
  // What divides by 0 is left to run time.
  if (node.op() == "Div" && !llvm::all_of(*y, [&](Value divisor) {
        return b.asConstant(divisor).value_or(0) > 0;
      }))
    return std::nullopt;
  SmallVector<Value> result;
  for (size_t i = 0; i < std::max(x->size(), y->size()); ++i)
    result.push_back(
        (b.*body)((*x)[x->size() == 1 ? 0 : i], (*y)[y->size() == 1 ? 0 : i]));
  return makeSizes(b, result, *shape);
}

std::optional<Tensor> mlir::qlm::onnx_import::foldOpenSizes(Node &node) {
  StringRef op = node.op();
  if (op == "Shape" || op == "Size")
    return foldShape(node);
  if (op == "Cast") {
    const Tensor &x = node.in(0);
    if (x.type != TensorProto::INT64 || x.sizes.empty() ||
        node.integer("to", 0) != TensorProto::INT64)
      return std::nullopt;
    return x;
  }
  if (op == "Where")
    return foldWhere(node);
  if (op == "Equal")
    return foldEqual(node);
  if (auto result = foldArithmetic(node))
    return result;
  return foldMove(node);
}
