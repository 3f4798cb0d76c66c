//===- Reductions.cpp - Operators that combine elements along axes --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

namespace {
/// How a reduction treats elements: before, between and after.
struct Reduction {
  enum Kind { Sum, Product, Minimum, Maximum } combine = Sum;
  bool takesAbs = false, takesSquare = false, takesExp = false;
  bool givesMean = false, givesRoot = false, givesLog = false;
};
} // namespace

static Reduction reductionOf(StringRef op) {
  using R = Reduction;
  return llvm::StringSwitch<Reduction>(op)
      .Case("ReduceSum", R{})
      .Case("ReduceMean", R{R::Sum, false, false, false, true, false, false})
      .Case("ReduceProd", R{R::Product})
      .Case("ReduceMin", R{R::Minimum})
      .Case("ReduceMax", R{R::Maximum})
      .Case("ReduceL1", R{R::Sum, true})
      .Case("ReduceL2", R{R::Sum, false, true, false, false, true, false})
      .Case("ReduceSumSquare", R{R::Sum, false, true})
      .Case("ReduceLogSum", R{R::Sum, false, false, false, false, false, true})
      .Default(R{R::Sum, false, false, true, false, false, true});
}

static Value initial(TensorBuilder &b, Reduction::Kind kind, int32_t type) {
  Type stored = getStoredType(b.getContext(), type);
  switch (kind) {
  case Reduction::Sum:
    return b.integer(stored, 0);
  case Reduction::Product:
    return b.integer(stored, 1);
  case Reduction::Minimum:
    return highestElement(b, type);
  case Reduction::Maximum:
    return lowestElement(b, type);
  }
  return {};
}

static Value combine(TensorBuilder &b, Reduction::Kind kind, Value x, Value y,
                     int32_t type) {
  switch (kind) {
  case Reduction::Sum:
    return addElements(b, x, y);
  case Reduction::Product:
    return mulElements(b, x, y);
  case Reduction::Minimum:
    return minElements(b, x, y, type);
  case Reduction::Maximum:
    return maxElements(b, x, y, type);
  }
  return {};
}

/// The axes of \p x in the order of its dimensions; all of them by default.
static std::optional<SmallVector<int64_t>> getAxes(Node &node,
                                                   const Tensor &x) {
  auto given = node.knownInput(1, "axes");
  if (node.failed())
    return std::nullopt;
  SmallVector<int64_t> axes;
  if (given && !given->empty()) {
    auto checked = node.axes(*given, x.rank());
    if (!checked)
      return std::nullopt;
    axes = *checked;
    llvm::sort(axes);
  } else if (!node.integer("noop_with_empty_axes", 0)) {
    axes = llvm::to_vector(llvm::seq<int64_t>(0, x.rank()));
  }
  return axes;
}

/// Carries one value along \p axes of \p x, for each place of the other
/// dimensions; axes stay as 1 when \p keep. \p finish gets the value and gives
/// the element.
static Value reduce(TensorBuilder &b, const Tensor &x, ArrayRef<int64_t> axes,
                    bool keep, Type element, Value init,
                    function_ref<Value(Value, Value)> step,
                    function_ref<Value(Value)> finish) {
  SmallVector<Value> sizes, reduced;
  SmallVector<int64_t> places; // of x's dimensions in the result, or -1
  for (int64_t axis = 0; axis < x.rank(); ++axis) {
    bool isReduced = llvm::is_contained(axes, axis);
    places.push_back(isReduced ? -1 : sizes.size());
    if (isReduced)
      reduced.push_back(b.dim(x.value, axis));
    if (!isReduced || keep)
      sizes.push_back(isReduced ? b.index(1) : b.dim(x.value, axis));
  }
  return b.generate(sizes, element, [&](ValueRange at) {
    auto sum = b.loopNest(
        reduced, {init},
        [&](ValueRange along, ValueRange carried) -> SmallVector<Value> {
          SmallVector<Value> from;
          size_t next = 0;
          for (int64_t place : places)
            from.push_back(place < 0 ? along[next++] : at[place]);
          return {step(carried[0], b.extract(x.value, from))};
        });
    return finish(sum[0]);
  });
}

static LogicalResult emitReduce(Node &node) {
  Tensor x = node.in(0);
  TensorBuilder &b = node.b;
  Reduction how = reductionOf(node.op());
  auto axes = getAxes(node, x);
  if (!axes)
    return failure();
  bool isFloat = isFloatType(x.type);
  if (!isFloat && (how.givesLog || how.givesRoot || how.takesExp) &&
      isBoolType(x.type))
    return node.fail("takes numbers");
  bool keep = node.integer("keepdims", 1);
  // Integer means and logarithms go through f64.
  int32_t wide = accumulatorType(x.type);
  if (!isFloat && (how.givesLog || how.givesRoot || how.takesExp))
    wide = TensorProto::DOUBLE;
  Value count = b.index(1);
  for (int64_t axis : *axes)
    count = b.mul(count, b.dim(x.value, axis));
  bool isBool = isBoolType(x.type);

  // e^x is summed relative to the maximum, which can't overflow.
  Value peak;
  if (how.takesExp)
    peak = reduce(
        b, x, *axes, /*keep=*/true, getStoredType(b.getContext(), wide),
        lowestElement(b, wide),
        [&](Value best, Value e) {
          return maxElements(b, best, convertElement(b, e, x.type, wide), wide);
        },
        [&](Value best) { return best; });
  Tensor input = x;
  if (how.takesExp) {
    Type stored = getStoredType(b.getContext(), wide);
    input.value = b.map({x.value, peak}, stored, [&](ValueRange e) {
      Value v = convertElement(b, e[0], x.type, wide);
      Value isInfinite = arith::CmpFOp::create(
          b, b.loc, arith::CmpFPredicate::OEQ,
          math::AbsFOp::create(b, b.loc, e[1]), highestElement(b, wide));
      Value base = arith::SelectOp::create(b, b.loc, isInfinite,
                                           b.constant(stored, 0), e[1]);
      return math::ExpOp::create(b, b.loc, subElements(b, v, base)).getResult();
    });
    input.type = wide;
  }
  auto step = [&](Value carried, Value e) -> Value {
    if (isBool && how.combine != Reduction::Sum)
      return how.combine == Reduction::Maximum
                 ? Value(arith::OrIOp::create(b, b.loc, carried, e))
                 : Value(arith::AndIOp::create(b, b.loc, carried, e));
    Value v = convertElement(b, e, input.type, wide);
    if (how.takesAbs && !isUnsignedType(wide))
      v = isa<FloatType>(v.getType())
              ? Value(math::AbsFOp::create(b, b.loc, v))
              : Value(math::AbsIOp::create(b, b.loc, v));
    if (how.takesSquare)
      v = mulElements(b, v, v);
    return combine(b, how.combine, carried, v, wide);
  };
  auto finish = [&](Value v) -> Value {
    if (how.givesMean)
      v = divElements(b, v, b.fromIndex(count, v.getType()), wide);
    if (how.givesRoot)
      v = math::SqrtOp::create(b, b.loc, v);
    if (how.givesLog)
      v = math::LogOp::create(b, b.loc, v);
    return how.takesExp ? v : convertElement(b, v, wide, x.type);
  };
  Value init = initial(b, how.combine, wide);
  if (isBool)
    init = b.integer(b.getI1Type(), how.combine != Reduction::Maximum);
  Type element =
      how.takesExp ? getStoredType(b.getContext(), wide) : x.elementType();
  Value result = reduce(b, input, *axes, keep || how.takesExp, element, init,
                        step, finish);
  if (!how.takesExp)
    return node.set(0, result, x.type);
  Value sum = b.map({result, peak}, x.elementType(), [&](ValueRange e) {
    Value isInfinite = arith::CmpFOp::create(
        b, b.loc, arith::CmpFPredicate::OEQ,
        math::AbsFOp::create(b, b.loc, e[1]), highestElement(b, wide));
    Value base = arith::SelectOp::create(b, b.loc, isInfinite,
                                         b.constant(e[1].getType(), 0), e[1]);
    return convertElement(b, addElements(b, e[0], base), wide, x.type);
  });
  if (!keep) {
    SmallVector<Value> sizes;
    for (int64_t axis = 0; axis < x.rank(); ++axis)
      if (!llvm::is_contained(*axes, axis))
        sizes.push_back(b.dim(x.value, axis));
    sum = b.reshape(sum, sizes);
  }
  return node.set(0, sum, x.type);
}

static LogicalResult emitArg(Node &node, bool wantsMax) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", 0), x.rank());
  if (!axis)
    return failure();
  bool keep = node.integer("keepdims", 1);
  bool takesLast = node.integer("select_last_index", 0);
  SmallVector<Value> sizes;
  for (int64_t d = 0; d < x.rank(); ++d)
    if (d != *axis || keep)
      sizes.push_back(d == *axis ? b.index(1) : b.dim(x.value, d));
  Value result = b.generate(sizes, b.getI64Type(), [&](ValueRange at) {
    auto place = [&](Value i) {
      SmallVector<Value> from;
      size_t next = 0;
      for (int64_t d = 0; d < x.rank(); ++d) {
        from.push_back(d == *axis ? i : at[next]);
        if (d != *axis || keep)
          ++next;
      }
      return b.extract(x.value, from);
    };
    auto best = b.loop(
        b.index(1), b.dim(x.value, *axis), {place(b.index(0)), b.index(0)},
        [&](Value i, ValueRange carried) -> SmallVector<Value> {
          Value e = place(i);
          Value isBetter = wantsMax ? lessElements(b, carried[0], e, x.type)
                                    : lessElements(b, e, carried[0], x.type);
          if (takesLast) {
            Value isWorse = wantsMax ? lessElements(b, e, carried[0], x.type)
                                     : lessElements(b, carried[0], e, x.type);
            isBetter = arith::XOrIOp::create(b, b.loc, isWorse,
                                             b.integer(b.getI1Type(), 1));
          }
          return {arith::SelectOp::create(b, b.loc, isBetter, e, carried[0]),
                  arith::SelectOp::create(b, b.loc, isBetter, i, carried[1])};
        });
    return b.fromIndex(best[1], b.getI64Type());
  });
  return node.set(0, result, TensorProto::INT64);
}
static LogicalResult emitArgMax(Node &node) { return emitArg(node, true); }
static LogicalResult emitArgMin(Node &node) { return emitArg(node, false); }

/// Sum or product of all elements up to each one.
static LogicalResult emitCumulative(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto given = node.knownInput(1);
  if (!given || given->size() != 1)
    return node.fail("axis must be one number");
  auto axis = node.axis(given->front(), x.rank());
  if (!axis)
    return failure();
  bool isExclusive = node.integer("exclusive", 0),
       isReverse = node.integer("reverse", 0);
  auto kind = node.op() == "CumSum" ? Reduction::Sum : Reduction::Product;
  int32_t wide = accumulatorType(x.type);
  Value size = b.dim(x.value, *axis);
  Value result =
      b.generate(b.dims(x.value), x.elementType(), [&](ValueRange at) {
        Value i = at[*axis], next = b.add(i, b.index(1));
        Value low = isReverse ? (isExclusive ? next : i) : b.index(0);
        Value high = isReverse ? size : (isExclusive ? i : next);
        auto sum =
            b.loop(low, high, {initial(b, kind, wide)},
                   [&](Value j, ValueRange carried) -> SmallVector<Value> {
                     SmallVector<Value> from(at);
                     from[*axis] = j;
                     Value e = convertElement(b, b.extract(x.value, from),
                                              x.type, wide);
                     return {combine(b, kind, carried[0], e, wide)};
                   });
        return convertElement(b, sum[0], wide, x.type);
      });
  return node.set(0, result, x.type);
}

/// Each step rounds to the type of \p x, as the standard's formula does, but
/// for the sum: that of 65,505 ones is more than float16 has.
Value mlir::qlm::onnx_import::softmax(TensorBuilder &b, const Tensor &x,
                                      int64_t axis, bool givesLog) {
  int32_t wide = accumulatorType(x.type);
  Type stored = getStoredType(b.getContext(), wide);
  auto round = [&](Value v) { return roundElement(b, v, wide, x.type); };
  Value peak = reduce(
      b, x, {axis}, /*keep=*/true, stored, lowestElement(b, wide),
      [&](Value best, Value e) {
        return maxElements(b, best, convertElement(b, e, x.type, wide), wide);
      },
      [](Value best) { return best; });
  Tensor shifted{b.map({x.value, peak}, stored,
                       [&](ValueRange e) {
                         return round(subElements(
                             b, convertElement(b, e[0], x.type, wide), e[1]));
                       }),
                 wide,
                 {}};
  Tensor powers{b.map({shifted.value}, stored,
                      [&](ValueRange e) -> Value {
                        return round(math::ExpOp::create(b, b.loc, e[0]));
                      }),
                wide,
                {}};
  Value sum = reduce(
      b, powers, {axis}, /*keep=*/true, stored, b.constant(stored, 0),
      [&](Value s, Value e) { return addElements(b, s, e); },
      [&](Value s) -> Value {
        s = roundSum(b, s, wide, x.type);
        return givesLog ? round(math::LogOp::create(b, b.loc, s)) : s;
      });
  return b.map({givesLog ? shifted.value : powers.value, sum}, x.elementType(),
               [&](ValueRange e) {
                 Value v = givesLog ? subElements(b, e[0], e[1])
                                    : divElements(b, e[0], e[1], wide);
                 return convertElement(b, v, wide, x.type);
               });
}

static LogicalResult emitSoftmaxLike(Node &node) {
  const Tensor &x = node.in(0);
  auto axis = node.axis(node.integer("axis", -1), x.rank());
  if (!axis)
    return failure();
  return node.set(0, softmax(node.b, x, *axis, node.op() == "LogSoftmax"),
                  x.type);
}

static LogicalResult emitHardmax(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto axis = node.axis(node.integer("axis", -1), x.rank());
  if (!axis)
    return failure();
  Value result =
      b.generate(b.dims(x.value), x.elementType(), [&](ValueRange at) {
        auto place = [&](Value i) {
          SmallVector<Value> from(at);
          from[*axis] = i;
          return b.extract(x.value, from);
        };
        auto best = b.loop(
            b.index(1), b.dim(x.value, *axis), {place(b.index(0)), b.index(0)},
            [&](Value i, ValueRange carried) -> SmallVector<Value> {
              Value e = place(i);
              Value isBetter = lessElements(b, carried[0], e, x.type);
              return {
                  arith::SelectOp::create(b, b.loc, isBetter, e, carried[0]),
                  arith::SelectOp::create(b, b.loc, isBetter, i, carried[1])};
            });
        return b.select(b.equal(best[1], at[*axis]),
                        b.constant(x.elementType(), 1),
                        b.constant(x.elementType(), 0));
      });
  return node.set(0, result, x.type);
}

static const Operator operators[] = {
    {"", "ArgMax", 1, 1, emitArgMax},
    {"", "ArgMin", 1, 1, emitArgMin},
    {"", "CumProd", 2, 2, emitCumulative},
    {"", "CumSum", 2, 2, emitCumulative},
    {"", "Hardmax", 1, 1, emitHardmax},
    {"", "LogSoftmax", 1, 1, emitSoftmaxLike},
    {"", "ReduceL1", 1, 2, emitReduce},
    {"", "ReduceL2", 1, 2, emitReduce},
    {"", "ReduceLogSum", 1, 2, emitReduce},
    {"", "ReduceLogSumExp", 1, 2, emitReduce},
    {"", "ReduceMax", 1, 2, emitReduce},
    {"", "ReduceMean", 1, 2, emitReduce},
    {"", "ReduceMin", 1, 2, emitReduce},
    {"", "ReduceProd", 1, 2, emitReduce},
    {"", "ReduceSum", 1, 2, emitReduce},
    {"", "ReduceSumSquare", 1, 2, emitReduce},
    {"", "Softmax", 1, 1, emitSoftmaxLike},
};

ArrayRef<Operator> mlir::qlm::onnx_import::reductionOperators() {
  return operators;
}
