//===- Products.cpp - Matrix products and convolutions --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Products.h"

#include "KernelAttention.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Dialect/Qlm.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

Value mlir::qlm::onnx_import::matmul(Node &node, const Tensor &x,
                                     const Tensor &y, Type element,
                                     ElementReader readX, ElementReader readY,
                                     ElementFinisher finish, Value zero) {
  TensorBuilder &b = node.b;
  if (x.rank() == 0 || y.rank() == 0) {
    (void)node.fail("takes vectors, matrices or stacks of them");
    return {};
  }
  // Vectors become matrices of one row or column, which then go.
  SmallVector<Value> xSizes = b.dims(x.value), ySizes = b.dims(y.value);
  bool xIsVector = x.rank() == 1, yIsVector = y.rank() == 1;
  Value inner = xSizes.back();
  int64_t xStack = std::max<int64_t>(x.rank() - 2, 0),
          yStack = std::max<int64_t>(y.rank() - 2, 0);
  Value otherInner = ySizes[yIsVector ? 0 : y.rank() - 2];
  b.requireEqual(inner, otherInner, "inner dimensions");
  int64_t stack = std::max(xStack, yStack);
  SmallVector<Value> sizes;
  for (int64_t d = 0; d < stack; ++d) {
    int64_t ownX = d - stack + xStack, ownY = d - stack + yStack;
    Value size = ownX >= 0 ? xSizes[ownX] : b.index(1);
    if (ownY >= 0)
      size = b.select(b.equal(size, b.index(1)), ySizes[ownY], size);
    sizes.push_back(size);
    if (ownX >= 0)
      b.requireBroadcast(xSizes[ownX], size);
    if (ownY >= 0)
      b.requireBroadcast(ySizes[ownY], size);
  }
  if (!xIsVector)
    sizes.push_back(xSizes[x.rank() - 2]);
  if (!yIsVector)
    sizes.push_back(ySizes.back());
  // The place in a stack that broadcasts.
  auto place = [&](const Tensor &t, int64_t count, ValueRange at) {
    SmallVector<Value> from;
    for (int64_t d = 0; d < count; ++d) {
      Value i = at[stack - count + d];
      from.push_back(
          b.select(b.equal(b.dim(t.value, d), b.index(1)), b.index(0), i));
    }
    return from;
  };
  return b.generate(sizes, element, [&](ValueRange at) {
    auto sum = b.loop(b.index(0), inner, {zero},
                      [&](Value k, ValueRange carried) -> SmallVector<Value> {
                        SmallVector<Value> fromX = place(x, xStack, at);
                        if (!xIsVector)
                          fromX.push_back(at[stack]);
                        fromX.push_back(k);
                        SmallVector<Value> fromY = place(y, yStack, at);
                        fromY.push_back(k);
                        if (!yIsVector)
                          fromY.push_back(at.back());
                        Value product = mulElements(
                            b, readX(b.extract(x.value, fromX), fromX),
                            readY(b.extract(y.value, fromY), fromY));
                        return {addElements(b, carried[0], product)};
                      });
    return finish(sum[0], at);
  });
}

/// The dimensions of a parameter in another order, for the evaluator of
/// parameters to see.
static Value permuteParameter(TensorBuilder &b, Value tensor,
                              ArrayRef<int64_t> order) {
  auto type = cast<RankedTensorType>(tensor.getType());
  SmallVector<int64_t> shape;
  for (int64_t axis : order)
    shape.push_back(type.getDimSize(axis));
  Value empty = tensor::EmptyOp::create(b, b.loc, shape, type.getElementType());
  return linalg::TransposeOp::create(b, b.loc, tensor, empty, order)
      ->getResult(0);
}

/// Whether the product of \p x with \p weight is a linear's: f32 by a matrix
/// that is known when the package is written, and nothing is empty.
static bool isLinear(TensorBuilder &b, const Tensor &x, const Tensor &weight,
                     int64_t inner) {
  return x.type == TensorProto::FLOAT && weight.type == TensorProto::FLOAT &&
         x.rank() >= 2 && weight.rank() == 2 && b.isParameter(weight.value) &&
         weight.dim(0) > 0 && weight.dim(1) > 0 && x.dim(x.rank() - 1) == inner;
}

Value mlir::qlm::onnx_import::emitLinear(TensorBuilder &b, const Tensor &x,
                                         Value weight, Value bias) {
  SmallVector<Value> sizes = b.dims(x.value);
  auto type = cast<RankedTensorType>(weight.getType());
  Value rows = sizes[0];
  for (int64_t axis = 1; axis + 1 < x.rank(); ++axis)
    rows = b.mul(rows, sizes[axis]);
  Value input =
      x.rank() == 2 ? x.value : b.reshape(x.value, {rows, sizes.back()});
  auto inputType = cast<RankedTensorType>(input.getType());
  Value result = mlir::qlm::LinearOp::create(
      b, b.loc,
      RankedTensorType::get({inputType.getDimSize(0), type.getDimSize(0)},
                            b.getF32Type()),
      input, weight, bias, /*residual=*/Value());
  sizes.back() = b.index(type.getDimSize(0));
  return x.rank() == 2 ? result : b.reshape(result, sizes);
}

Value mlir::qlm::onnx_import::multiplyByParameter(TensorBuilder &b,
                                                  const Tensor &x,
                                                  const Tensor &weight) {
  if (!isLinear(b, x, weight, weight.dim(0)))
    return {};
  return emitLinear(b, x, permuteParameter(b, weight.value, {1, 0}), Value());
}

static LogicalResult emitMatMul(Node &node) {
  const Tensor &x = node.in(0), &y = node.in(1);
  TensorBuilder &b = node.b;
  if (x.type != y.type)
    return node.fail("inputs must have the same element type");
  if (isLinear(b, x, y, y.rank() == 2 ? y.dim(0) : 0))
    return node.set(
        0, emitLinear(b, x, permuteParameter(b, y.value, {1, 0}), Value()),
        x.type);
  if (Value attention = raiseAttention(node))
    return node.set(0, attention, x.type);
  int32_t wide = accumulatorType(x.type);
  auto read = [&](Value e, ValueRange) {
    return convertElement(b, e, x.type, wide);
  };
  Value result = matmul(
      node, x, y, x.elementType(), read, read,
      [&](Value v, ValueRange) { return convertElement(b, v, wide, x.type); },
      b.integer(getStoredType(b.getContext(), wide), 0));
  return result ? node.set(0, result, x.type) : failure();
}

static LogicalResult emitGemm(Node &node) {
  Tensor x = node.in(0), y = node.in(1);
  TensorBuilder &b = node.b;
  if (x.rank() != 2 || y.rank() != 2)
    return node.fail("takes matrices");
  if (node.integer("transA", 0))
    x.value = b.transpose(x.value, {1, 0});
  bool isTurned = node.integer("transB", 0);
  bool hasBias = node.has(2) && node.in(2).rank() == 1 &&
                 node.in(2).dim(0) == y.dim(isTurned ? 0 : 1) &&
                 b.isParameter(node.in(2).value);
  if (isLinear(b, x, y, y.dim(isTurned ? 1 : 0)) &&
      node.number("alpha", 1) == 1 && node.number("beta", 1) == 1 &&
      (!node.has(2) || hasBias)) {
    Value weight = isTurned ? y.value : permuteParameter(b, y.value, {1, 0});
    return node.set(
        0, emitLinear(b, x, weight, hasBias ? node.in(2).value : Value()),
        x.type);
  }
  if (node.integer("transB", 0))
    y.value = b.transpose(y.value, {1, 0});
  int32_t wide = accumulatorType(x.type);
  Type stored = getStoredType(b.getContext(), wide);
  auto read = [&](Value e, ValueRange) {
    return convertElement(b, e, x.type, wide);
  };
  double alpha = node.number("alpha", 1), beta = node.number("beta", 1);
  auto finish = [&](Value v, ValueRange at) {
    if (alpha != 1)
      v = mulElements(b, v, b.constant(stored, alpha));
    if (node.has(2)) {
      Value c = convertElement(b, b.extractBroadcast(node.in(2).value, at),
                               x.type, wide);
      if (beta != 1)
        c = mulElements(b, c, b.constant(stored, beta));
      v = addElements(b, v, c);
    }
    return convertElement(b, v, wide, x.type);
  };
  Value result = matmul(node, x, y, x.elementType(), read, read, finish,
                        b.integer(stored, 0));
  return result ? node.set(0, result, x.type) : failure();
}

//===----------------------------------------------------------------------===//
// Windows
//===----------------------------------------------------------------------===//

std::optional<Windows> Windows::get(Node &node, const Tensor &x,
                                    ArrayRef<int64_t> kernel) {
  TensorBuilder &b = node.b;
  int64_t count = x.rank() - 2;
  Windows w;
  w.kernel.assign(kernel.begin(), kernel.end());
  auto list = [&](StringRef name, int64_t missing, size_t size) {
    auto values = node.integers(name);
    SmallVector<int64_t> result =
        values ? *values : SmallVector<int64_t>(size, missing);
    if (result.size() != size)
      (void)node.fail(name + " must have " + llvm::Twine(size) + " numbers");
    return result;
  };
  if (count < 1 || static_cast<int64_t>(kernel.size()) != count) {
    (void)node.fail("the kernel must have the data's spatial dimensions");
    return std::nullopt;
  }
  w.strides = list("strides", 1, count);
  w.dilations = list("dilations", 1, count);
  SmallVector<int64_t> pads = list("pads", 0, 2 * count);
  if (node.failed())
    return std::nullopt;
  StringRef automatic = node.text("auto_pad", "NOTSET");
  bool roundsUp = node.integer("ceil_mode", 0);
  for (int64_t d = 0; d < count; ++d) {
    if (w.strides[d] < 1 || w.dilations[d] < 1 || kernel[d] < 1) {
      (void)node.fail("strides, dilations and kernels must be at least 1");
      return std::nullopt;
    }
    Value size = b.dim(x.value, d + 2);
    int64_t reach = (kernel[d] - 1) * w.dilations[d] + 1;
    Value low = b.index(pads[d]), high = b.index(pads[d + count]);
    if (automatic.starts_with("SAME")) {
      Value places = b.ceilDiv(size, b.index(w.strides[d]));
      Value needed = b.max(
          b.sub(b.add(b.mul(b.sub(places, b.index(1)), b.index(w.strides[d])),
                      b.index(reach)),
                size),
          b.index(0));
      Value half = b.floorDiv(needed, b.index(2));
      low = automatic == "SAME_UPPER" ? half : b.sub(needed, half);
      high = b.sub(needed, low);
    } else if (automatic == "VALID") {
      low = high = b.index(0);
    }
    Value span = b.sub(b.add(b.add(size, low), high), b.index(reach));
    Value places = roundsUp ? b.ceilDiv(span, b.index(w.strides[d]))
                            : b.floorDiv(span, b.index(w.strides[d]));
    places = b.add(places, b.index(1));
    if (roundsUp) {
      // The last window must begin inside the data or the padding before it.
      Value begin = b.mul(b.sub(places, b.index(1)), b.index(w.strides[d]));
      places = b.select(b.less(begin, b.add(size, low)), places,
                        b.sub(places, b.index(1)));
    }
    w.padLow.push_back(low);
    w.padHigh.push_back(high);
    w.sizes.push_back(b.max(places, b.index(0)));
    w.input.push_back(size);
  }
  return w;
}

std::pair<SmallVector<Value>, Value>
Windows::place(TensorBuilder &b, ValueRange window, ValueRange inside) const {
  SmallVector<Value> at;
  Value fits = b.integer(b.getI1Type(), 1);
  for (size_t d = 0; d < kernel.size(); ++d) {
    Value i = b.sub(b.add(b.mul(window[d], b.index(strides[d])),
                          b.mul(inside[d], b.index(dilations[d]))),
                    padLow[d]);
    Value ok = b.createOrFold<arith::CmpIOp>(b.loc, arith::CmpIPredicate::ult,
                                             i, input[d]);
    fits = b.createOrFold<arith::AndIOp>(b.loc, fits, ok);
    at.push_back(b.max(b.min(i, b.sub(input[d], b.index(1))), b.index(0)));
  }
  return {at, fits};
}

Value mlir::qlm::onnx_import::convolve(Node &node, const Tensor &x,
                                       const Tensor &weight, Type element,
                                       ElementReader readX,
                                       ElementReader readWeight,
                                       ElementFinisher finish, Value zero) {
  TensorBuilder &b = node.b;
  if (weight.rank() != x.rank() || !weight.tensorType().hasStaticShape()) {
    (void)node.fail("the kernel must have a known shape of the data's rank");
    return {};
  }
  int64_t group = node.integer("group", 1);
  int64_t maps = weight.dim(0), depth = weight.dim(1);
  if (group < 1 || maps % group ||
      (!ShapedType::isDynamic(x.dim(1)) && x.dim(1) != depth * group)) {
    (void)node.fail("groups must divide channels and kernels, got " +
                    llvm::Twine(group));
    return {};
  }
  ArrayRef<int64_t> kernel = weight.tensorType().getShape().drop_front(2);
  auto windows = Windows::get(node, x, kernel);
  if (!windows)
    return {};
  SmallVector<Value> sizes{b.dim(x.value, 0), b.index(maps)};
  llvm::append_range(sizes, windows->sizes);
  SmallVector<Value> reduced{b.index(depth)};
  llvm::append_range(reduced, b.indices(kernel));
  return b.generate(sizes, element, [&](ValueRange at) {
    Value first =
        b.mul(b.floorDiv(at[1], b.index(maps / group)), b.index(depth));
    auto sum =
        b.loopNest(reduced, {zero},
                   [&](ValueRange k, ValueRange carried) -> SmallVector<Value> {
                     auto [place, fits] =
                         windows->place(b, at.drop_front(2), k.drop_front(1));
                     SmallVector<Value> fromX{at[0], b.add(first, k[0])};
                     llvm::append_range(fromX, place);
                     SmallVector<Value> fromW{at[1]};
                     llvm::append_range(fromW, k);
                     Value e = readX(b.extract(x.value, fromX), fromX);
                     e = b.select(fits, e, b.integer(e.getType(), 0));
                     Value w =
                         readWeight(b.extract(weight.value, fromW), fromW);
                     return {addElements(b, carried[0], mulElements(b, e, w))};
                   });
    return finish(sum[0], at);
  });
}

static LogicalResult emitConv(Node &node) {
  const Tensor &x = node.in(0), &weight = node.in(1);
  TensorBuilder &b = node.b;
  if (weight.type == x.type)
    if (Value image = convolveImage(node, x, weight.value,
                                    node.has(2) ? node.in(2).value : Value()))
      return node.set(0, image, x.type);
  int32_t wide = accumulatorType(x.type);
  auto read = [&](Value e, ValueRange) {
    return convertElement(b, e, x.type, wide);
  };
  auto finish = [&](Value v, ValueRange at) {
    if (node.has(2))
      v = addElements(
          b, v,
          convertElement(b, b.extract(node.in(2).value, at[1]), x.type, wide));
    return convertElement(b, v, wide, x.type);
  };
  Value result = convolve(node, x, weight, x.elementType(), read, read, finish,
                          b.integer(getStoredType(b.getContext(), wide), 0));
  return result ? node.set(0, result, x.type) : failure();
}

static LogicalResult emitConvTranspose(Node &node) {
  const Tensor &x = node.in(0), &weight = node.in(1);
  TensorBuilder &b = node.b;
  int64_t count = x.rank() - 2;
  if (count < 1 || weight.rank() != x.rank() ||
      !weight.tensorType().hasStaticShape() || !x.tensorType().hasStaticShape())
    return node.fail("takes data and a kernel of known shapes");
  ArrayRef<int64_t> kernel = weight.tensorType().getShape().drop_front(2);
  auto list = [&](StringRef name, int64_t missing, size_t size) {
    auto values = node.integers(name);
    return values && values->size() == size
               ? *values
               : SmallVector<int64_t>(size, missing);
  };
  SmallVector<int64_t> strides = list("strides", 1, count),
                       dilations = list("dilations", 1, count),
                       pads = list("pads", 0, 2 * count),
                       extra = list("output_padding", 0, count), sizes(count);
  auto wanted = node.integers("output_shape");
  StringRef automatic = node.text("auto_pad", "NOTSET");
  for (int64_t d = 0; d < count; ++d) {
    int64_t reach = (kernel[d] - 1) * dilations[d] + 1;
    int64_t full = strides[d] * (x.dim(d + 2) - 1) + extra[d] + reach;
    bool isSame = automatic.starts_with("SAME");
    if (wanted || isSame) {
      sizes[d] = wanted ? (*wanted)[wanted->size() - count + d]
                        : x.dim(d + 2) * strides[d];
      int64_t total = std::max<int64_t>(full - sizes[d], 0);
      pads[d] = automatic == "SAME_UPPER" ? total / 2 : total - total / 2;
      if (!isSame)
        pads[d] = total / 2;
    } else {
      sizes[d] = full - pads[d] - pads[d + count];
    }
    if (sizes[d] < 0)
      return node.fail("the result would have a negative size");
  }
  int64_t group = node.integer("group", 1);
  int64_t depth = x.dim(1) / std::max<int64_t>(group, 1), maps = weight.dim(1);
  if (group < 1 || x.dim(1) % group || weight.dim(0) != x.dim(1))
    return node.fail("groups must divide channels");
  SmallVector<Value> result{b.dim(x.value, 0), b.index(maps * group)};
  llvm::append_range(result, b.indices(sizes));
  SmallVector<Value> reduced{b.index(depth)};
  llvm::append_range(reduced, b.indices(kernel));
  Value zero = b.integer(x.elementType(), 0);
  Value value = b.generate(result, x.elementType(), [&](ValueRange at) {
    Value first = b.mul(b.floorDiv(at[1], b.index(maps)), b.index(depth));
    auto sum = b.loopNest(
        reduced, {zero},
        [&](ValueRange k, ValueRange carried) -> SmallVector<Value> {
          // The input whose window begins so that k falls here, if any.
          Value c = b.add(first, k[0]);
          SmallVector<Value> fromX{at[0], c};
          Value fits = b.integer(b.getI1Type(), 1);
          auto both = [&](Value p, Value q) {
            return b.createOrFold<arith::AndIOp>(b.loc, p, q);
          };
          for (int64_t d = 0; d < count; ++d) {
            Value offset = b.sub(b.add(at[d + 2], b.index(pads[d])),
                                 b.mul(k[d + 1], b.index(dilations[d])));
            Value i = b.floorDiv(offset, b.index(strides[d]));
            fits = both(fits, b.equal(b.mul(i, b.index(strides[d])), offset));
            fits = both(fits, b.createOrFold<arith::CmpIOp>(
                                  b.loc, arith::CmpIPredicate::ult, i,
                                  b.index(x.dim(d + 2))));
            fromX.push_back(
                b.max(b.min(i, b.index(x.dim(d + 2) - 1)), b.index(0)));
          }
          SmallVector<Value> fromW{c, b.rem(at[1], b.index(maps))};
          llvm::append_range(fromW, k.drop_front(1));
          Value e = b.select(fits, b.extract(x.value, fromX), zero);
          return {
              addElements(b, carried[0],
                          mulElements(b, e, b.extract(weight.value, fromW)))};
        });
    Value v = sum[0];
    if (node.has(2))
      v = addElements(b, v, b.extract(node.in(2).value, at[1]));
    return v;
  });
  return node.set(0, value, x.type);
}

static const Operator operators[] = {
    {"", "Conv", 2, 3, emitConv},
    {"", "ConvTranspose", 2, 3, emitConvTranspose},
    {"", "Gemm", 2, 3, emitGemm},
    {"", "MatMul", 2, 2, emitMatMul},
};

ArrayRef<Operator> mlir::qlm::onnx_import::productOperators() {
  return operators;
}
