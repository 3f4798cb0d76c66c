//===- Indexing.cpp - Operators that pick and place elements --------------===//
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

/// An index that the data holds: negative ones count from the end, and all are
/// kept inside the dimension, so that no input reads or writes elsewhere.
static Value safeIndex(TensorBuilder &b, Value element, Value size) {
  Value i = b.wrapIndex(b.toIndex(element), size);
  return b.max(b.min(i, b.sub(size, b.index(1))), b.index(0));
}

static LogicalResult emitGather(Node &node) {
  const Tensor &x = node.in(0), &places = node.in(1);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", 0), x.rank());
  if (!axis)
    return failure();
  SmallVector<Value> sizes = b.dims(x.value), inner = b.dims(places.value);
  Value size = sizes[*axis];
  sizes.erase(sizes.begin() + *axis);
  sizes.insert(sizes.begin() + *axis, inner.begin(), inner.end());
  return node.set(0,
                  b.generate(sizes, x.elementType(),
                             [&](ValueRange at) {
                               Value i = b.extract(
                                   places.value, at.slice(*axis, inner.size()));
                               SmallVector<Value> from(at.take_front(*axis));
                               from.push_back(safeIndex(b, i, size));
                               llvm::append_range(
                                   from, at.drop_front(*axis + inner.size()));
                               return b.extract(x.value, from);
                             }),
                  x.type);
}

static LogicalResult emitGatherElements(Node &node) {
  const Tensor &x = node.in(0), &places = node.in(1);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", 0), x.rank());
  if (!axis || places.rank() != x.rank())
    return node.fail("data and indices must have the same rank");
  return node.set(0,
                  b.generate(b.dims(places.value), x.elementType(),
                             [&](ValueRange at) {
                               SmallVector<Value> from(at);
                               from[*axis] =
                                   safeIndex(b, b.extract(places.value, at),
                                             b.dim(x.value, *axis));
                               return b.extract(x.value, from);
                             }),
                  x.type);
}

/// The index vector at the end of \p places, for the dimensions of \p x from
/// \p first on.
static SmallVector<Value> readIndices(TensorBuilder &b, const Tensor &x,
                                      const Tensor &places, ValueRange prefix,
                                      int64_t first, int64_t count) {
  SmallVector<Value> result;
  for (int64_t d = 0; d < count; ++d) {
    SmallVector<Value> at(prefix);
    at.push_back(b.index(d));
    result.push_back(
        safeIndex(b, b.extract(places.value, at), b.dim(x.value, first + d)));
  }
  return result;
}

static LogicalResult emitGatherND(Node &node) {
  const Tensor &x = node.in(0), &places = node.in(1);
  TensorBuilder &b = node.b;
  int64_t batch = node.integer("batch_dims", 0);
  int64_t count = places.rank() ? places.dim(places.rank() - 1) : 0;
  if (ShapedType::isDynamic(count) || batch < 0 || count < 1 ||
      batch >= places.rank() || batch + count > x.rank())
    return node.fail("indices must have a last dimension that is known and at "
                     "most the data's rank");
  SmallVector<Value> sizes = b.dims(places.value);
  sizes.pop_back();
  int64_t outer = sizes.size();
  for (int64_t d = batch + count; d < x.rank(); ++d)
    sizes.push_back(b.dim(x.value, d));
  return node.set(0,
                  b.generate(sizes, x.elementType(),
                             [&](ValueRange at) {
                               SmallVector<Value> from(at.take_front(batch));
                               llvm::append_range(
                                   from, readIndices(b, x, places,
                                                     at.take_front(outer),
                                                     batch, count));
                               llvm::append_range(from, at.drop_front(outer));
                               return b.extract(x.value, from);
                             }),
                  x.type);
}

/// What a scattered element becomes.
static std::optional<Value> combineScattered(Node &node, StringRef how,
                                             Value old, Value update) {
  TensorBuilder &b = node.b;
  int32_t type = node.in(0).type;
  if (how == "none")
    return update;
  if (how == "add")
    return addElements(b, old, update);
  if (how == "mul")
    return mulElements(b, old, update);
  if (how == "max")
    return maxElements(b, old, update, type);
  if (how == "min")
    return minElements(b, old, update, type);
  (void)node.fail("reduction must be none, add, mul, max or min");
  return std::nullopt;
}

static Value insert(TensorBuilder &b, Value element, Value tensor,
                    ValueRange at) {
  return tensor::InsertOp::create(b, b.loc, element, tensor, at);
}

static LogicalResult emitScatterElements(Node &node) {
  const Tensor &x = node.in(0), &places = node.in(1), &updates = node.in(2);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", 0), x.rank());
  if (!axis || places.rank() != x.rank() || updates.rank() != x.rank())
    return node.fail("data, indices and updates must have the same rank");
  StringRef how = node.text("reduction", "none");
  auto result = b.loopNest(
      b.dims(places.value), {x.value},
      [&](ValueRange at, ValueRange carried) -> SmallVector<Value> {
        SmallVector<Value> to(at);
        to[*axis] =
            safeIndex(b, b.extract(places.value, at), b.dim(x.value, *axis));
        auto element = combineScattered(node, how, b.extract(carried[0], to),
                                        b.extract(updates.value, at));
        return {element ? insert(b, *element, carried[0], to) : carried[0]};
      });
  return node.failed() ? failure() : node.set(0, result[0], x.type);
}

static LogicalResult emitScatterND(Node &node) {
  const Tensor &x = node.in(0), &places = node.in(1), &updates = node.in(2);
  TensorBuilder &b = node.b;
  int64_t count = places.rank() ? places.dim(places.rank() - 1) : 0;
  if (ShapedType::isDynamic(count) || count < 1 || count > x.rank())
    return node.fail("indices must have a last dimension that is known and at "
                     "most the data's rank");
  StringRef how = node.text("reduction", "none");
  int64_t outer = places.rank() - 1;
  auto result = b.loopNest(
      b.dims(updates.value), {x.value},
      [&](ValueRange at, ValueRange carried) -> SmallVector<Value> {
        SmallVector<Value> to =
            readIndices(b, x, places, at.take_front(outer), 0, count);
        llvm::append_range(to, at.drop_front(outer));
        auto element = combineScattered(node, how, b.extract(carried[0], to),
                                        b.extract(updates.value, at));
        return {element ? insert(b, *element, carried[0], to) : carried[0]};
      });
  return node.failed() ? failure() : node.set(0, result[0], x.type);
}

/// Start and end of a slice of \p size elements as the standard clamps them.
static std::pair<Value, Value> clampSlice(TensorBuilder &b, Value start,
                                          Value end, Value size, bool forward) {
  Value zero = b.index(0), last = b.sub(size, b.index(1));
  start = b.wrapIndex(start, size);
  end = b.wrapIndex(end, size);
  if (forward)
    return {b.max(b.min(start, size), zero), b.max(b.min(end, size), zero)};
  return {b.max(b.min(start, last), zero),
          b.max(b.min(end, last), b.index(-1))};
}

static LogicalResult emitSlice(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  const Tensor &starts = node.in(1), &ends = node.in(2);
  if (starts.rank() != 1 || ShapedType::isDynamic(starts.dim(0)))
    return node.fail("starts must have a known length");
  int64_t count = starts.dim(0);
  if (ends.rank() != 1 || ends.dim(0) != count)
    return node.fail("starts and ends must have the same length");
  auto axes = node.knownInput(3), steps = node.knownInput(4);
  if (node.failed())
    return failure();
  if (!axes)
    axes = llvm::to_vector(llvm::seq<int64_t>(0, count));
  axes = node.axes(*axes, x.rank());
  if (!axes)
    return failure();
  if (static_cast<int64_t>(axes->size()) != count ||
      (steps && static_cast<int64_t>(steps->size()) != count))
    return node.fail("axes and steps must have the length of starts");
  SmallVector<Value> sizes = b.dims(x.value), first(x.rank(), b.index(0));
  SmallVector<int64_t> step(x.rank(), 1);
  auto element = [&](const Tensor &tensor, int64_t i) {
    if (tensor.known)
      return b.index((*tensor.known)[i]);
    return tensor.sizes.empty() ? b.toIndex(b.extract(tensor.value, b.index(i)))
                                : tensor.sizes[i];
  };
  for (int64_t i = 0; i < count; ++i) {
    int64_t axis = (*axes)[i];
    step[axis] = steps ? (*steps)[i] : 1;
    if (step[axis] == 0 || step[axis] == INT64_MIN)
      return node.fail("step must not be " + llvm::Twine(step[axis]));
    auto [low, high] = clampSlice(b, element(starts, i), element(ends, i),
                                  sizes[axis], step[axis] > 0);
    first[axis] = low;
    Value span = step[axis] > 0 ? b.sub(high, low) : b.sub(low, high);
    sizes[axis] =
        b.max(b.ceilDiv(span, b.index(std::abs(step[axis]))), b.index(0));
  }
  if (RankedTensorType type = node.declared(0);
      type && type.getRank() == x.rank())
    for (auto [size, known] : llvm::zip(sizes, type.getShape()))
      if (!b.asConstant(size) && !ShapedType::isDynamic(known))
        size = b.index(known);
  return node.set(0,
                  b.generate(sizes, x.elementType(),
                             [&](ValueRange at) {
                               SmallVector<Value> from;
                               for (int64_t d = 0; d < x.rank(); ++d)
                                 from.push_back(b.add(
                                     first[d], b.mul(at[d], b.index(step[d]))));
                               return b.extract(x.value, from);
                             }),
                  x.type);
}

/// Mirrors an index into [0, size): without repeating the border, or with.
static Value reflect(TensorBuilder &b, Value i, Value size) {
  // Period 2 (size - 1); one element reflects to itself.
  Value last = b.max(b.sub(size, b.index(1)), b.index(1));
  Value period = b.mul(last, b.index(2));
  Value j = b.rem(b.add(b.rem(i, period), period), period);
  Value folded = b.select(b.less(last, j), b.sub(period, j), j);
  return b.min(folded, b.sub(size, b.index(1)));
}

static LogicalResult emitPad(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto pads = node.knownInput(1), given = node.knownInput(3);
  if (!pads || node.failed())
    return failure();
  auto axes = given ? node.axes(*given, x.rank())
                    : llvm::to_vector(llvm::seq<int64_t>(0, x.rank()));
  if (!axes)
    return failure();
  if (pads->size() != 2 * axes->size())
    return node.fail("pads must give two numbers for each axis");
  StringRef mode = node.text("mode", "constant");
  SmallVector<Value> sizes = b.dims(x.value);
  SmallVector<int64_t> before(x.rank(), 0);
  for (auto [i, axis] : llvm::enumerate(*axes)) {
    before[axis] = (*pads)[i];
    sizes[axis] =
        b.add(sizes[axis], b.index((*pads)[i] + (*pads)[i + axes->size()]));
    if (auto size = b.asConstant(sizes[axis]); size && *size < 0)
      return node.fail("pads take more than dimension " + llvm::Twine(axis) +
                       " has");
  }
  Value fill =
      node.has(2) ? b.scalar(node.in(2).value) : b.integer(x.elementType(), 0);
  SmallVector<Value> own = b.dims(x.value);
  auto body = [&](ValueRange at) -> Value {
    SmallVector<Value> from;
    Value inside;
    for (int64_t d = 0; d < x.rank(); ++d) {
      Value i = b.sub(at[d], b.index(before[d]));
      if (mode == "reflect") {
        i = reflect(b, i, own[d]);
      } else if (mode == "wrap") {
        i = b.rem(b.add(b.rem(i, own[d]), own[d]), own[d]);
      } else {
        Value fits = b.createOrFold<arith::CmpIOp>(
            b.loc, arith::CmpIPredicate::ult, i, own[d]);
        inside =
            inside ? b.createOrFold<arith::AndIOp>(b.loc, inside, fits) : fits;
        i = b.max(b.min(i, b.sub(own[d], b.index(1))), b.index(0));
      }
      from.push_back(i);
    }
    if (mode != "constant" || !inside)
      return b.extract(x.value, from);
    return b.ifElse(
        inside, x.elementType(), [&] { return b.extract(x.value, from); },
        [&] { return fill; });
  };
  if (mode != "constant" && mode != "reflect" && mode != "wrap" &&
      mode != "edge")
    return node.fail("mode must be constant, reflect, edge or wrap");
  return node.set(0, b.generate(sizes, x.elementType(), body), x.type);
}

static LogicalResult emitTrilu(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  if (x.rank() < 2)
    return node.fail("takes at least two dimensions");
  Value k = node.has(1) ? b.toIndex(b.scalar(node.in(1).value)) : b.index(0);
  bool isUpper = node.integer("upper", 1);
  return node.set(0,
                  b.generate(b.dims(x.value), x.elementType(),
                             [&](ValueRange at) {
                               Value diagonal = b.add(at[x.rank() - 2], k);
                               Value column = at[x.rank() - 1];
                               Value drops = isUpper ? b.less(column, diagonal)
                                                     : b.less(diagonal, column);
                               return b.select(drops,
                                               b.integer(x.elementType(), 0),
                                               b.extract(x.value, at));
                             }),
                  x.type);
}

static LogicalResult emitOneHot(Node &node) {
  const Tensor &places = node.in(0), &values = node.in(2);
  TensorBuilder &b = node.b;
  int64_t rank = places.rank() + 1;
  auto axis = node.axis(node.integer("axis", -1), rank);
  auto depth = node.knownInput(1);
  Value size;
  if (node.failed() && node.declared(0) && node.declared(0).getRank() == rank &&
      axis && !node.declared(0).isDynamicDim(*axis))
    size = b.index(node.declared(0).getDimSize(*axis));
  else if (depth && depth->size() == 1)
    size = b.index(depth->front());
  if (!axis || !size)
    return node.fail("depth must be one known number");
  SmallVector<Value> sizes = b.dims(places.value);
  sizes.insert(sizes.begin() + *axis, size);
  int32_t type = places.type;
  return node.set(
      0,
      b.generate(sizes, values.elementType(),
                 [&](ValueRange at) {
                   SmallVector<Value> from(at);
                   from.erase(from.begin() + *axis);
                   Value e = b.extract(places.value, from);
                   if (isFloatType(type))
                     e = convertElement(b, e, type, TensorProto::INT64);
                   Value i = b.wrapIndex(b.toIndex(e), size);
                   Value isHot = b.equal(i, at[*axis]);
                   return b.extract(values.value,
                                    b.select(isHot, b.index(1), b.index(0)));
                 }),
      values.type);
}

static LogicalResult emitReverseSequence(Node &node) {
  const Tensor &x = node.in(0), &lengths = node.in(1);
  TensorBuilder &b = node.b;
  auto batch = node.axis(node.integer("batch_axis", 1), x.rank());
  auto time = node.axis(node.integer("time_axis", 0), x.rank());
  if (!batch || !time)
    return failure();
  return node.set(
      0,
      b.generate(b.dims(x.value), x.elementType(),
                 [&](ValueRange at) {
                   Value length =
                       b.min(b.toIndex(b.extract(lengths.value, at[*batch])),
                             b.dim(x.value, *time));
                   SmallVector<Value> from(at);
                   Value mirrored = b.sub(b.sub(length, b.index(1)), at[*time]);
                   from[*time] =
                       b.select(b.less(at[*time], length), mirrored, at[*time]);
                   return b.extract(x.value, from);
                 }),
      x.type);
}

/// The k best along an axis, best first; ties go to the lower index.
static LogicalResult emitTopK(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", -1), x.rank());
  if (!axis)
    return failure();
  Value k;
  if (node.in(1).known)
    k = b.index(node.in(1).known->front());
  else
    k = b.toIndex(b.scalar(node.in(1).value));
  SmallVector<Value> sizes = b.dims(x.value);
  Value size = sizes[*axis];
  sizes[*axis] = k;
  if (RankedTensorType type = node.declared(0);
      type && type.getRank() == x.rank() && !b.asConstant(k) &&
      !type.isDynamicDim(*axis))
    sizes[*axis] = b.index(type.getDimSize(*axis));
  bool wantsMax = node.integer("largest", 1);
  // An element's rank is the number of those before it in the order; the
  // element of rank r stands at place r.
  auto places = b.generate(sizes, b.getI64Type(), [&](ValueRange at) {
    auto element = [&](Value i) {
      SmallVector<Value> from(at);
      from[*axis] = i;
      return b.extract(x.value, from);
    };
    auto isBefore = [&](Value i, Value e, Value j, Value f) -> Value {
      Value better = wantsMax ? lessElements(b, f, e, x.type)
                              : lessElements(b, e, f, x.type);
      Value worse = wantsMax ? lessElements(b, e, f, x.type)
                             : lessElements(b, f, e, x.type);
      Value first =
          arith::CmpIOp::create(b, b.loc, arith::CmpIPredicate::slt, i, j);
      return arith::SelectOp::create(
          b, b.loc, better, b.integer(b.getI1Type(), 1),
          arith::SelectOp::create(b, b.loc, worse, b.integer(b.getI1Type(), 0),
                                  first));
    };
    auto found = b.loop(
        b.index(0), size, {b.index(0)},
        [&](Value i, ValueRange carried) -> SmallVector<Value> {
          Value e = element(i);
          auto rank = b.loop(
              b.index(0), size, {b.index(0)},
              [&](Value j, ValueRange count) -> SmallVector<Value> {
                Value before = isBefore(j, element(j), i, e);
                return {b.add(count[0],
                              arith::SelectOp::create(b, b.loc, before,
                                                      b.index(1), b.index(0)))};
              });
          Value isHere = b.equal(rank[0], at[*axis]);
          return {arith::SelectOp::create(b, b.loc, isHere, i, carried[0])};
        });
    return b.fromIndex(found[0], b.getI64Type());
  });
  (void)node.set(1, places, TensorProto::INT64);
  return node.set(0,
                  b.generate(b.dims(places), x.elementType(),
                             [&](ValueRange at) {
                               SmallVector<Value> from(at);
                               from[*axis] = b.toIndex(b.extract(places, at));
                               return b.extract(x.value, from);
                             }),
                  x.type);
}

/// Crops or pads the axes around their centre.
static LogicalResult emitCenterCropPad(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto shape = node.knownInput(1);
  if (!shape)
    return failure();
  auto given = node.integers("axes");
  auto axes = given ? node.axes(*given, x.rank())
                    : llvm::to_vector(llvm::seq<int64_t>(0, x.rank()));
  if (!axes || axes->size() != shape->size())
    return node.fail("shape must give a size for each axis");
  SmallVector<Value> sizes = b.dims(x.value), offset(x.rank(), b.index(0));
  SmallVector<Value> own = sizes;
  for (auto [axis, size] : llvm::zip(*axes, *shape)) {
    Value wanted = b.index(size), has = own[axis];
    // Cropping starts at half the surplus, padding at half the lack.
    Value crop = b.floorDiv(b.max(b.sub(has, wanted), b.index(0)), b.index(2));
    Value pad = b.floorDiv(b.max(b.sub(wanted, has), b.index(0)), b.index(2));
    offset[axis] = b.sub(crop, pad);
    sizes[axis] = wanted;
  }
  auto body = [&](ValueRange at) -> Value {
    SmallVector<Value> from;
    Value inside = b.integer(b.getI1Type(), 1);
    for (int64_t d = 0; d < x.rank(); ++d) {
      Value i = b.add(at[d], offset[d]);
      Value fits = b.createOrFold<arith::CmpIOp>(
          b.loc, arith::CmpIPredicate::ult, i, own[d]);
      inside = b.createOrFold<arith::AndIOp>(b.loc, inside, fits);
      from.push_back(b.max(b.min(i, b.sub(own[d], b.index(1))), b.index(0)));
    }
    return arith::SelectOp::create(b, b.loc, inside, b.extract(x.value, from),
                                   b.integer(x.elementType(), 0));
  };
  return node.set(0, b.generate(sizes, x.elementType(), body), x.type);
}

static const Operator operators[] = {
    {"", "CenterCropPad", 2, 2, emitCenterCropPad},
    {"", "Gather", 2, 2, emitGather},
    {"", "GatherElements", 2, 2, emitGatherElements},
    {"", "GatherND", 2, 2, emitGatherND},
    {"", "OneHot", 3, 3, emitOneHot},
    {"", "Pad", 2, 4, emitPad},
    {"", "ReverseSequence", 2, 2, emitReverseSequence},
    {"", "ScatterElements", 3, 3, emitScatterElements},
    {"", "ScatterND", 3, 3, emitScatterND},
    {"", "Slice", 3, 5, emitSlice},
    {"", "TopK", 2, 2, emitTopK},
    {"", "Trilu", 1, 2, emitTrilu},
};

ArrayRef<Operator> mlir::qlm::onnx_import::indexingOperators() {
  return operators;
}
