//===- Pooling.cpp - Operators on windows of an image ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Products.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

static std::optional<Windows> getWindows(Node &node) {
  auto kernel = node.integers("kernel_shape");
  if (!kernel) {
    (void)node.fail("kernel_shape is missing");
    return std::nullopt;
  }
  return Windows::get(node, node.in(0), *kernel);
}

/// Carries values over the elements of each window, those outside of the data
/// skipped.
static SmallVector<Value> overWindow(
    TensorBuilder &b, const Tensor &x, const Windows &windows, ValueRange at,
    ValueRange init,
    function_ref<SmallVector<Value>(Value, ValueRange, ValueRange)> body) {
  return b.loopNest(
      b.indices(windows.kernel), init,
      [&](ValueRange k, ValueRange carried) -> SmallVector<Value> {
        auto [place, fits] = windows.place(b, at.drop_front(2), k);
        SmallVector<Value> from{at[0], at[1]};
        llvm::append_range(from, place);
        SmallVector<Value> next = body(b.extract(x.value, from), from, carried);
        for (auto [value, old] : llvm::zip(next, carried))
          value = b.select(fits, value, old);
        return next;
      });
}

static SmallVector<Value> resultSizes(TensorBuilder &b, const Tensor &x,
                                      const Windows &windows) {
  SmallVector<Value> sizes{b.dim(x.value, 0), b.dim(x.value, 1)};
  llvm::append_range(sizes, windows.sizes);
  return sizes;
}

/// Maxima and where they stand in the data, which is numbered from its first
/// element on; by columns when storage_order is 1. Of equals, the first.
static LogicalResult emitMaxima(Node &node, const Windows &windows) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  bool byColumns = node.integer("storage_order", 0);
  SmallVector<Value> sizes = b.dims(x.value);
  auto number = [&](ValueRange from) {
    Value place = b.add(b.mul(from[0], sizes[1]), from[1]);
    Value inner = b.index(0), area = b.index(1);
    auto rank = static_cast<int64_t>(sizes.size());
    for (int64_t i = 2; i < rank; ++i) {
      int64_t axis = byColumns ? rank + 1 - i : i;
      inner = b.add(b.mul(inner, sizes[axis]), from[axis]);
      area = b.mul(area, sizes[axis]);
    }
    return b.add(b.mul(place, area), inner);
  };
  auto walk = [&](ValueRange at) {
    // No element is chosen yet where the place is -1.
    return overWindow(
        b, x, windows, at, {lowestElement(b, x.type), b.index(-1)},
        [&](Value e, ValueRange from, ValueRange carried) {
          Value isMore = arith::OrIOp::create(
              b, b.loc, lessElements(b, carried[0], e, x.type),
              b.less(carried[1], b.index(0)));
          return SmallVector<Value>{b.select(isMore, e, carried[0]),
                                    b.select(isMore, number(from), carried[1])};
        });
  };
  SmallVector<Value> result = resultSizes(b, x, windows);
  (void)node.set(0,
                 b.generate(result, x.elementType(),
                            [&](ValueRange at) { return walk(at)[0]; }),
                 x.type);
  return node.set(1,
                  b.generate(result, b.getI64Type(),
                             [&](ValueRange at) {
                               return b.fromIndex(walk(at)[1], b.getI64Type());
                             }),
                  TensorProto::INT64);
}

static LogicalResult emitMaxPool(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto windows = getWindows(node);
  if (!windows)
    return failure();
  if (node.wants(1))
    return emitMaxima(node, *windows);
  if (Value image = poolImage(node, windows->kernel, /*isAverage=*/false))
    return node.set(0, image, x.type);
  return node.set(
      0,
      b.generate(resultSizes(b, x, *windows), x.elementType(),
                 [&](ValueRange at) {
                   return overWindow(
                       b, x, *windows, at, {lowestElement(b, x.type)},
                       [&](Value e, ValueRange,
                           ValueRange carried) -> SmallVector<Value> {
                         return {maxElements(b, carried[0], e, x.type)};
                       })[0];
                 }),
      x.type);
}

/// Elements of the window that starts at \p at which lie in data or padding.
static Value countPadded(TensorBuilder &b, const Windows &w, ValueRange at,
                         Type stored) {
  Value count = b.index(1);
  for (size_t d = 0; d < w.kernel.size(); ++d) {
    Value begin = b.mul(at[d + 2], b.index(w.strides[d]));
    Value end = b.add(b.add(w.input[d], w.padLow[d]), w.padHigh[d]);
    Value room = b.ceilDiv(b.sub(end, begin), b.index(w.dilations[d]));
    count = b.mul(count, b.min(room, b.index(w.kernel[d])));
  }
  return b.fromIndex(count, stored);
}

static LogicalResult emitAveragePool(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto windows = getWindows(node);
  if (!windows)
    return failure();
  if (Value image = poolImage(node, windows->kernel, /*isAverage=*/true))
    return node.set(0, image, x.type);
  int32_t wide = accumulatorType(x.type);
  Type stored = getStoredType(b.getContext(), wide);
  bool countsPadding = node.integer("count_include_pad", 0);
  return node.set(
      0,
      b.generate(
          resultSizes(b, x, *windows), x.elementType(),
          [&](ValueRange at) {
            Value zero = b.constant(stored, 0), one = b.constant(stored, 1);
            auto sum = overWindow(
                b, x, *windows, at, {zero, zero},
                [&](Value e, ValueRange,
                    ValueRange carried) -> SmallVector<Value> {
                  return {addElements(b, carried[0],
                                      convertElement(b, e, x.type, wide)),
                          addElements(b, carried[1], one)};
                });
            Value count =
                countsPadding ? countPadded(b, *windows, at, stored) : sum[1];
            return convertElement(b, divElements(b, sum[0], count, wide), wide,
                                  x.type);
          }),
      x.type);
}

static LogicalResult emitLpPool(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto windows = getWindows(node);
  if (!windows)
    return failure();
  Type stored = x.elementType();
  double p = static_cast<double>(node.integer("p", 2));
  return node.set(
      0,
      b.generate(resultSizes(b, x, *windows), stored,
                 [&](ValueRange at) -> Value {
                   auto sum = overWindow(
                       b, x, *windows, at, {b.constant(stored, 0)},
                       [&](Value e, ValueRange,
                           ValueRange carried) -> SmallVector<Value> {
                         Value power = math::PowFOp::create(
                             b, b.loc, math::AbsFOp::create(b, b.loc, e),
                             b.constant(stored, p));
                         return {addElements(b, carried[0], power)};
                       });
                   return math::PowFOp::create(b, b.loc, sum[0],
                                               b.constant(stored, 1 / p));
                 }),
      x.type);
}

static LogicalResult emitGlobalPool(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  if (x.rank() < 3)
    return node.fail("takes an image");
  bool wantsMax = node.op() == "GlobalMaxPool";
  if (Value image = poolWholeImage(node, /*isAverage=*/!wantsMax))
    return node.set(0, image, x.type);
  int32_t wide = accumulatorType(x.type);
  Type stored = getStoredType(b.getContext(), wide);
  SmallVector<Value> sizes = b.dims(x.value);
  SmallVector<Value> reduced(sizes.begin() + 2, sizes.end());
  Value count = b.index(1);
  for (size_t d = 2; d < sizes.size(); ++d) {
    count = b.mul(count, sizes[d]);
    sizes[d] = b.index(1);
  }
  return node.set(
      0,
      b.generate(
          sizes, x.elementType(),
          [&](ValueRange at) {
            auto value = b.loopNest(
                reduced,
                {wantsMax ? lowestElement(b, wide) : b.constant(stored, 0)},
                [&](ValueRange along,
                    ValueRange carried) -> SmallVector<Value> {
                  SmallVector<Value> from{at[0], at[1]};
                  llvm::append_range(from, along);
                  Value e =
                      convertElement(b, b.extract(x.value, from), x.type, wide);
                  return {wantsMax ? maxElements(b, carried[0], e, wide)
                                   : addElements(b, carried[0], e)};
                });
            Value v = wantsMax ? value[0]
                               : divElements(b, value[0],
                                             b.fromIndex(count, stored), wide);
            return convertElement(b, v, wide, x.type);
          }),
      x.type);
}

static const Operator operators[] = {
    {"", "AveragePool", 1, 1, emitAveragePool},
    {"", "GlobalAveragePool", 1, 1, emitGlobalPool},
    {"", "GlobalMaxPool", 1, 1, emitGlobalPool},
    {"", "LpPool", 1, 1, emitLpPool},
    {"", "MaxPool", 1, 1, emitMaxPool},
};

ArrayRef<Operator> mlir::qlm::onnx_import::poolingOperators() {
  return operators;
}
