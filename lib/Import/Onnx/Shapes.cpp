//===- Shapes.cpp - Operators that change or make shapes ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// The elements of a one-dimensional integer tensor as indices: constants
/// where they are known. Nothing when its length is not.
static std::optional<SmallVector<Value>> elementsOf(Node &node,
                                                    const Tensor &tensor) {
  TensorBuilder &b = node.b;
  if (tensor.known)
    return b.indices(*tensor.known);
  if (!tensor.sizes.empty())
    return tensor.sizes;
  if (tensor.rank() != 1 || ShapedType::isDynamic(tensor.dim(0))) {
    (void)node.fail("a shape must have a known number of dimensions");
    return std::nullopt;
  }
  SmallVector<Value> elements;
  for (int64_t i = 0; i < tensor.dim(0); ++i)
    elements.push_back(b.toIndex(b.extract(tensor.value, b.index(i))));
  return elements;
}

/// Makes the sizes that \p type declares static; what the graph declares is
/// checked nowhere else.
static void refineSizes(TensorBuilder &b, SmallVectorImpl<Value> &sizes,
                        RankedTensorType type) {
  if (!type || type.getRank() != static_cast<int64_t>(sizes.size()))
    return;
  for (auto [size, known] : llvm::zip(sizes, type.getShape()))
    if (!b.asConstant(size) && !ShapedType::isDynamic(known))
      size = b.index(known);
}

static LogicalResult emitShape(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto clamp = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + x.rank() : i, 0, x.rank());
  };
  int64_t start = clamp(node.integer("start", 0));
  int64_t end = clamp(node.integer("end", x.rank()));
  SmallVector<Value> sizes;
  for (int64_t axis = start; axis < end; ++axis)
    sizes.push_back(b.dim(x.value, axis));
  return node.set(0, b.shapeTensor(sizes), TensorProto::INT64);
}

static Value countOf(TensorBuilder &b, ArrayRef<Value> sizes) {
  Value count = b.index(1);
  for (Value size : sizes)
    count = b.mul(count, size);
  return count;
}

static LogicalResult emitSize(Node &node) {
  TensorBuilder &b = node.b;
  Value count = countOf(b, b.dims(node.in(0).value));
  Value scalar = tensor::FromElementsOp::create(
      b, b.loc, RankedTensorType::get({}, b.getI64Type()),
      b.fromIndex(count, b.getI64Type()));
  return node.set(0, scalar, TensorProto::INT64);
}

/// Whether element \p i of \p wanted, a shape that \p x takes, is its size even
/// where it is 0, which keeps x's dimension: that is 0 too, or else the shape
/// doesn't fit.
static bool keepsZero(TensorBuilder &b, const Tensor &x, ArrayRef<Value> wanted,
                      size_t i) {
  Value own = b.dim(x.value, i);
  if (b.isZeroWith(own, wanted[i]))
    return true;
  if (!b.isZeroWith(countOf(b, b.dims(x.value)), wanted[i]))
    return false;
  bool othersAreSizes = true;
  for (auto [other, size] : llvm::enumerate(wanted))
    if (other != i && b.asConstant(size).value_or(0) <= 0) {
      if (!b.isNatural(size) || b.asConstant(size))
        return false;
      othersAreSizes = false;
    }
  if (!othersAreSizes)
    b.requireZero(own, wanted[i]);
  return true;
}

static LogicalResult emitReshape(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto wanted = elementsOf(node, node.in(1));
  if (!wanted)
    return failure();
  bool zeroIsSize = node.integer("allowzero", 0);
  SmallVector<Value> sizes;
  SmallVector<bool> isKept(std::max<int64_t>(x.rank(), wanted->size()), false);
  for (size_t i = 0; i < wanted->size(); ++i) {
    Value size = (*wanted)[i];
    // 0 keeps the input's dimension.
    bool mayKeep = !zeroIsSize && static_cast<int64_t>(i) < x.rank();
    isKept[i] = mayKeep && b.asConstant(size) == 0;
    if (isKept[i] || (mayKeep && !keepsZero(b, x, *wanted, i)))
      size = b.select(b.equal(size, b.index(0)), b.dim(x.value, i), size);
    sizes.push_back(size);
  }
  // -1 takes what is left: the count over the product of the others. Kept
  // dimensions are in both, so that open ones needn't make the result open.
  Value others = b.index(1), left = b.index(1);
  for (auto [i, size] : llvm::enumerate(sizes))
    if (!isKept[i])
      others =
          b.mul(others, b.select(b.less(size, b.index(0)), b.index(1), size));
  for (int64_t i = 0; i < x.rank(); ++i)
    if (!isKept[i])
      left = b.mul(left, b.dim(x.value, i));
  Value count = countOf(b, b.dims(x.value));
  for (Value &size : sizes)
    if (!b.isNatural(size))
      size = b.select(b.less(size, b.index(0)), b.quotient(left, others), size);
  refineSizes(b, sizes, node.declared(0));
  auto total = b.asConstant(countOf(b, sizes)), own = b.asConstant(count);
  if (total && own && *total != *own)
    return node.fail("cannot reshape " + llvm::Twine(*own) +
                     " elements to a shape of " + llvm::Twine(*total));
  return node.set(0, b.reshape(x.value, sizes), x.type);
}

static LogicalResult emitFlatten(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  int64_t axis = node.integer("axis", 1);
  if (axis < -x.rank() || axis > x.rank())
    return node.fail("axis must be from " + llvm::Twine(-x.rank()) + " to " +
                     llvm::Twine(x.rank()) + ", got " + llvm::Twine(axis));
  if (axis < 0)
    axis += x.rank();
  SmallVector<Value> dims = b.dims(x.value);
  Value rows = countOf(b, ArrayRef(dims).take_front(axis));
  Value columns = countOf(b, ArrayRef(dims).drop_front(axis));
  return node.set(0, b.reshape(x.value, {rows, columns}), x.type);
}

static LogicalResult emitSqueeze(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto given = node.knownInput(1, "axes");
  if (node.failed())
    return failure();
  SmallVector<int64_t> axes;
  if (given) {
    auto checked = node.axes(*given, x.rank());
    if (!checked)
      return failure();
    axes = *checked;
  } else {
    for (int64_t axis = 0; axis < x.rank(); ++axis)
      if (x.dim(axis) == 1)
        axes.push_back(axis);
  }
  SmallVector<Value> sizes;
  for (int64_t axis = 0; axis < x.rank(); ++axis) {
    if (!llvm::is_contained(axes, axis))
      sizes.push_back(b.dim(x.value, axis));
    else if (x.dim(axis) != 1 && !ShapedType::isDynamic(x.dim(axis)))
      return node.fail("only dimensions of 1 can be squeezed, dimension " +
                       llvm::Twine(axis) + " is " + llvm::Twine(x.dim(axis)));
  }
  return node.set(0, b.reshape(x.value, sizes), x.type);
}

static LogicalResult emitUnsqueeze(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto given = node.knownInput(1, "axes");
  if (!given)
    return node.fail("axes are missing");
  int64_t rank = x.rank() + given->size();
  auto axes = node.axes(*given, rank);
  if (!axes)
    return failure();
  SmallVector<Value> sizes;
  int64_t next = 0;
  for (int64_t axis = 0; axis < rank; ++axis)
    sizes.push_back(llvm::is_contained(*axes, axis) ? b.index(1)
                                                    : b.dim(x.value, next++));
  return node.set(0, b.reshape(x.value, sizes), x.type);
}

static LogicalResult emitTranspose(Node &node) {
  const Tensor &x = node.in(0);
  SmallVector<int64_t> order;
  for (int64_t axis = x.rank(); axis-- > 0;)
    order.push_back(axis);
  if (auto given = node.integers("perm")) {
    auto checked = node.axes(*given, x.rank());
    if (!checked)
      return failure();
    if (static_cast<int64_t>(checked->size()) != x.rank())
      return node.fail("perm must name each of " + llvm::Twine(x.rank()) +
                       " dimensions");
    order = *checked;
  }
  return node.set(0, node.b.transpose(x.value, order), x.type);
}

static LogicalResult emitConcat(Node &node) {
  TensorBuilder &b = node.b;
  const Tensor &first = node.in(0);
  auto axis = node.axis(node.integer("axis", 0), first.rank());
  if (!axis)
    return failure();
  SmallVector<Value> parts;
  for (const Tensor &input : node.ins()) {
    if (input.type != first.type || input.rank() != first.rank())
      return node.fail("inputs must have the same element type and rank");
    for (int64_t other = 0; other < first.rank(); ++other)
      if (other != *axis)
        b.requireEqual(b.dim(first.value, other), b.dim(input.value, other),
                       "other dimensions");
    parts.push_back(input.value);
  }
  auto type =
      tensor::ConcatOp::inferResultType(*axis, ValueRange(parts).getTypes());
  return node.set(0, tensor::ConcatOp::create(b, b.loc, type, *axis, parts),
                  first.type);
}

/// Part of \p x from \p offset on, \p size long, along \p axis.
static Value sliceAxis(TensorBuilder &b, Value x, int64_t axis, Value offset,
                       Value size) {
  SmallVector<Value> sizes = b.dims(x);
  sizes[axis] = size;
  auto element = cast<RankedTensorType>(x.getType()).getElementType();
  return b.generate(sizes, element, [&](ValueRange at) {
    SmallVector<Value> from(at);
    from[axis] = b.add(at[axis], offset);
    return b.extract(x, from);
  });
}

static LogicalResult emitSplit(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", 0), x.rank());
  if (!axis)
    return failure();
  auto sizes = node.knownInput(1, "split");
  if (node.failed())
    return failure();
  Value total = b.dim(x.value, *axis);
  int64_t count = node.outputCount();
  Value offset = b.index(0);
  if (sizes && static_cast<int64_t>(sizes->size()) != count)
    return node.fail("split must give one size for each output");
  // Equal parts; the last is smaller when they don't divide.
  Value each = b.ceilDiv(total, b.index(count));
  for (int64_t i = 0; i < count; ++i) {
    Value size = sizes            ? b.index((*sizes)[i])
                 : i + 1 == count ? b.sub(total, offset)
                                  : each;
    (void)node.set(i, sliceAxis(b, x.value, *axis, offset, size), x.type);
    offset = b.add(offset, size);
  }
  auto end = b.asConstant(offset), all = b.asConstant(total);
  if (end && all && *end != *all)
    return node.fail("parts must add up to " + llvm::Twine(*all) + ", got " +
                     llvm::Twine(*end));
  return success();
}

static LogicalResult emitExpand(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto wanted = elementsOf(node, node.in(1));
  if (!wanted)
    return failure();
  int64_t rank = std::max<int64_t>(wanted->size(), x.rank());
  SmallVector<Value> sizes;
  for (int64_t axis = 0; axis < rank; ++axis) {
    int64_t own = axis - rank + x.rank(),
            other = axis - rank + static_cast<int64_t>(wanted->size());
    Value size = own < 0 ? b.index(1) : b.dim(x.value, own);
    if (other >= 0)
      size = b.select(b.equal(size, b.index(1)), (*wanted)[other], size);
    sizes.push_back(size);
  }
  refineSizes(b, sizes, node.declared(0));
  return node.set(0,
                  b.generate(sizes, x.elementType(),
                             [&](ValueRange at) {
                               return b.extractBroadcast(x.value, at);
                             }),
                  x.type);
}

static LogicalResult emitTile(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto repeats = elementsOf(node, node.in(1));
  if (!repeats)
    return failure();
  if (static_cast<int64_t>(repeats->size()) != x.rank())
    return node.fail("repeats must be given for each dimension");
  SmallVector<Value> sizes;
  for (auto [axis, count] : llvm::enumerate(*repeats))
    sizes.push_back(b.mul(b.dim(x.value, axis), count));
  refineSizes(b, sizes, node.declared(0));
  return node.set(0,
                  b.generate(sizes, x.elementType(),
                             [&](ValueRange at) {
                               SmallVector<Value> from;
                               for (auto [axis, i] : llvm::enumerate(at))
                                 from.push_back(b.rem(i, b.dim(x.value, axis)));
                               return b.extract(x.value, from);
                             }),
                  x.type);
}

static LogicalResult emitConstant(Node &node) {
  TensorBuilder &b = node.b;
  if (auto *value = node.find("value")) {
    Tensor tensor = node.makeConstant(value->t());
    if (!tensor)
      return node.fail("the constant cannot be read");
    return node.set(0, tensor.value, tensor.type, tensor.known);
  }
  auto integers = [&](ArrayRef<int64_t> values, ArrayRef<int64_t> shape) {
    Tensor tensor = makeIntegers(b, values, shape, TensorProto::INT64);
    return node.set(0, tensor.value, tensor.type, tensor.known);
  };
  if (auto *value = node.find("value_int"))
    return integers({value->i()}, {});
  if (auto values = node.integers("value_ints"))
    return integers(*values, {static_cast<int64_t>(values->size())});
  auto floats = [&](ArrayRef<float> values, ArrayRef<int64_t> shape) {
    auto type = RankedTensorType::get(shape, b.getF32Type());
    return node.set(0,
                    arith::ConstantOp::create(
                        b, b.loc, DenseElementsAttr::get(type, values)),
                    TensorProto::FLOAT);
  };
  if (auto *value = node.find("value_float"))
    return floats({value->f()}, {});
  if (auto *value = node.find("value_floats"))
    return floats(
        ArrayRef<float>(value->floats().data(), value->floats().size()),
        {value->floats_size()});
  return node.fail("strings and sparse tensors are not handled");
}

static LogicalResult emitConstantOfShape(Node &node) {
  TensorBuilder &b = node.b;
  auto sizes = elementsOf(node, node.in(0));
  if (!sizes)
    return failure();
  refineSizes(b, *sizes, node.declared(0));
  Value element;
  int32_t type = TensorProto::FLOAT;
  if (auto *value = node.find("value")) {
    Tensor tensor = node.makeConstant(value->t());
    if (!tensor || tensor.tensorType().getNumElements() != 1)
      return node.fail("value must have one element");
    type = tensor.type;
    element = b.scalar(tensor.value);
  } else {
    element = b.constant(b.getF32Type(), 0);
  }
  return node.set(0,
                  b.generate(*sizes, element.getType(),
                             [&](ValueRange) { return element; }),
                  type);
}

static LogicalResult emitRange(Node &node) {
  TensorBuilder &b = node.b;
  const Tensor &first = node.in(0);
  int32_t type = first.type;
  Value start = b.scalar(first.value), limit = b.scalar(node.in(1).value),
        delta = b.scalar(node.in(2).value);
  // ceil((limit - start) / delta), at least 0.
  Value count;
  if (isFloatType(type)) {
    auto wide = [&](Value v) {
      return convertElement(b, v, type, TensorProto::DOUBLE);
    };
    Value quotient = arith::DivFOp::create(
        b, b.loc, subElements(b, wide(limit), wide(start)), wide(delta));
    Value down = arith::FPToSIOp::create(b, b.loc, b.getI64Type(), quotient);
    Value back = arith::SIToFPOp::create(b, b.loc, b.getF64Type(), down);
    Value isCut = arith::CmpFOp::create(b, b.loc, arith::CmpFPredicate::OLT,
                                        back, quotient);
    count = arith::AddIOp::create(
        b, b.loc, down,
        arith::ExtUIOp::create(b, b.loc, b.getI64Type(), isCut));
    count = b.toIndex(count);
  } else {
    count =
        b.ceilDiv(b.sub(b.toIndex(limit), b.toIndex(start)), b.toIndex(delta));
  }
  count = b.max(count, b.index(0));
  SmallVector<Value> sizes{count};
  refineSizes(b, sizes, node.declared(0));
  int32_t wide = accumulatorType(type);
  return node.set(
      0,
      b.generate(sizes, first.elementType(),
                 [&](ValueRange at) {
                   Type stored = getStoredType(b.getContext(), wide);
                   Value i = b.fromIndex(at[0], stored);
                   Value v = addElements(
                       b, convertElement(b, start, type, wide),
                       mulElements(b, i, convertElement(b, delta, type, wide)));
                   return convertElement(b, v, wide, type);
                 }),
      type);
}

static LogicalResult emitEyeLike(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  if (x.rank() != 2)
    return node.fail("takes a matrix");
  auto type = static_cast<int32_t>(node.integer("dtype", x.type));
  Type stored = getStoredType(b.getContext(), type);
  if (!stored)
    return node.fail("dtype is not handled");
  Value k = b.index(node.integer("k", 0));
  return node.set(0,
                  b.generate(b.dims(x.value), stored,
                             [&](ValueRange at) {
                               return b.select(b.equal(b.add(at[0], k), at[1]),
                                               b.integer(stored, 1),
                                               b.integer(stored, 0));
                             }),
                  type);
}

/// Blocks of the image to channels and back; \p from maps a result's index to
/// the input's, given block, channels and the index.
static LogicalResult emitDepthToSpace(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  int64_t size = node.integer("blocksize", 0);
  if (x.rank() != 4 || size < 1)
    return node.fail("takes an image [N, C, H, W] and a blocksize of at least "
                     "1");
  Value block = b.index(size), area = b.index(size * size);
  SmallVector<Value> dims = b.dims(x.value);
  Value depth = b.floorDiv(dims[1], area);
  bool columnFirst = node.text("mode", "DCR") == "CRD";
  return node.set(
      0,
      b.generate(
          {dims[0], depth, b.mul(dims[2], block), b.mul(dims[3], block)},
          x.elementType(),
          [&](ValueRange at) {
            Value place =
                b.add(b.mul(b.rem(at[2], block), block), b.rem(at[3], block));
            Value channel = columnFirst ? b.add(b.mul(at[1], area), place)
                                        : b.add(b.mul(place, depth), at[1]);
            return b.extract(x.value, {at[0], channel, b.floorDiv(at[2], block),
                                       b.floorDiv(at[3], block)});
          }),
      x.type);
}
static LogicalResult emitSpaceToDepth(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  int64_t size = node.integer("blocksize", 0);
  if (x.rank() != 4 || size < 1)
    return node.fail("takes an image [N, C, H, W] and a blocksize of at least "
                     "1");
  Value block = b.index(size);
  SmallVector<Value> dims = b.dims(x.value);
  bool columnFirst = node.text("mode", "DCR") == "CRD";
  Value area = b.index(size * size);
  return node.set(
      0,
      b.generate({dims[0], b.mul(dims[1], area), b.floorDiv(dims[2], block),
                  b.floorDiv(dims[3], block)},
                 x.elementType(),
                 [&](ValueRange at) {
                   Value place = columnFirst ? b.rem(at[1], area)
                                             : b.floorDiv(at[1], dims[1]);
                   Value channel = columnFirst ? b.floorDiv(at[1], area)
                                               : b.rem(at[1], dims[1]);
                   return b.extract(
                       x.value,
                       {at[0], channel,
                        b.add(b.mul(at[2], block), b.floorDiv(place, block)),
                        b.add(b.mul(at[3], block), b.rem(place, block))});
                 }),
      x.type);
}

static const Operator operators[] = {
    {"", "Concat", 1, -1, emitConcat},
    {"", "Constant", 0, 0, emitConstant},
    {"", "ConstantOfShape", 1, 1, emitConstantOfShape},
    {"", "DepthToSpace", 1, 1, emitDepthToSpace},
    {"", "Expand", 2, 2, emitExpand},
    {"", "EyeLike", 1, 1, emitEyeLike},
    {"", "Flatten", 1, 1, emitFlatten},
    {"", "Range", 3, 3, emitRange},
    {"", "Reshape", 2, 2, emitReshape},
    {"", "Shape", 1, 1, emitShape},
    {"", "Size", 1, 1, emitSize},
    {"", "SpaceToDepth", 1, 1, emitSpaceToDepth},
    {"", "Split", 1, 2, emitSplit},
    {"", "Squeeze", 1, 2, emitSqueeze},
    {"", "Tile", 2, 2, emitTile},
    {"", "Transpose", 1, 1, emitTranspose},
    {"", "Unsqueeze", 1, 2, emitUnsqueeze},
};

ArrayRef<Operator> mlir::qlm::onnx_import::shapeOperators() {
  return operators;
}
