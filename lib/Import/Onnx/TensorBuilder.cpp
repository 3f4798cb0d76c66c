//===- TensorBuilder.cpp - Writes tensor computations as they read --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TensorBuilder.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "onnx-ml.pb.h"
#include "qlm/Dialect/Graph.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

bool mlir::qlm::onnx_import::isFloatType(int32_t type) {
  return type == TensorProto::FLOAT || type == TensorProto::DOUBLE ||
         type == TensorProto::FLOAT16 || type == TensorProto::BFLOAT16;
}

bool mlir::qlm::onnx_import::isUnsignedType(int32_t type) {
  switch (type) {
  case TensorProto::UINT8:
  case TensorProto::UINT16:
  case TensorProto::UINT32:
  case TensorProto::UINT64:
  case TensorProto::UINT4:
  case TensorProto::UINT2:
  case TensorProto::BOOL:
    return true;
  default:
    return false;
  }
}

bool mlir::qlm::onnx_import::isBoolType(int32_t type) {
  return type == TensorProto::BOOL;
}

Type mlir::qlm::onnx_import::getStoredType(MLIRContext *context, int32_t type) {
  switch (type) {
  case TensorProto::FLOAT:
    return Float32Type::get(context);
  case TensorProto::DOUBLE:
    return Float64Type::get(context);
  case TensorProto::FLOAT16:
    return Float16Type::get(context);
  case TensorProto::BFLOAT16:
    return BFloat16Type::get(context);
  case TensorProto::BOOL:
    return IntegerType::get(context, 1);
  case TensorProto::INT16:
  case TensorProto::UINT16:
    return IntegerType::get(context, 16);
  case TensorProto::INT32:
  case TensorProto::UINT32:
    return IntegerType::get(context, 32);
  case TensorProto::INT64:
  case TensorProto::UINT64:
    return IntegerType::get(context, 64);
  case TensorProto::UNDEFINED:
  case TensorProto::STRING:
  case TensorProto::COMPLEX64:
  case TensorProto::COMPLEX128:
    return {};
  default:
    return TensorProto::DataType_IsValid(type) ? IntegerType::get(context, 8)
                                               : Type();
  }
}

bool mlir::qlm::onnx_import::isCountable(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    if (!ShapedType::isDynamic(size) && size > 0 &&
        (__builtin_mul_overflow(count, size, &count) || count > int64_t(1)
                                                                    << 48))
      return false;
  return true;
}

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

Value TensorBuilder::index(int64_t value) {
  return arith::ConstantIndexOp::create(*this, loc, value);
}

Value TensorBuilder::constant(Type type, double value) {
  if (auto floats = dyn_cast<FloatType>(type)) {
    APFloat number(value);
    bool losesInfo;
    number.convert(floats.getFloatSemantics(), APFloat::rmNearestTiesToEven,
                   &losesInfo);
    return arith::ConstantOp::create(*this, loc, FloatAttr::get(type, number));
  }
  return integer(type, static_cast<int64_t>(value));
}

Value TensorBuilder::integer(Type type, int64_t value) {
  if (isa<FloatType>(type))
    return constant(type, static_cast<double>(value));
  if (isa<IndexType>(type))
    return index(value);
  unsigned width = type.getIntOrFloatBitWidth();
  return arith::ConstantOp::create(
      *this, loc,
      IntegerAttr::get(
          type, APInt(64, static_cast<uint64_t>(value)).zextOrTrunc(width)));
}

Value TensorBuilder::fromIndex(Value value, Type type) {
  if (isa<FloatType>(type)) {
    Value wide = arith::IndexCastOp::create(*this, loc, getI64Type(), value);
    return arith::SIToFPOp::create(*this, loc, type, wide);
  }
  return createOrFold<arith::IndexCastOp>(loc, type, value);
}

Value TensorBuilder::toIndex(Value value) {
  if (isa<IndexType>(value.getType()))
    return value;
  return createOrFold<arith::IndexCastOp>(loc, getIndexType(), value);
}

//===----------------------------------------------------------------------===//
// Rules about sizes
//===----------------------------------------------------------------------===//

bool TensorBuilder::isOnTop(Value value) const {
  return value.getParentBlock() == top || asConstant(value);
}

/// Emits, in the function's block, a call that ends the run when \p condition
/// is false.
void TensorBuilder::check(function_ref<Value()> condition) {
  InsertionGuard guard(*this);
  if (getInsertionBlock() != top)
    setInsertionPointToEnd(top);
  func::CallOp::create(*this, loc, kCheckFunction, TypeRange(),
                       ValueRange(condition()));
}

void TensorBuilder::requireEqual(Value a, Value b, const char *what) {
  auto x = asConstant(a), y = asConstant(b);
  if (x && y) {
    if (*x != *y && problem.empty())
      problem = std::string(what) + " must agree, got " + std::to_string(*x) +
                " and " + std::to_string(*y);
    return;
  }
  if (a != b && isOnTop(a) && isOnTop(b))
    check([&] { return equal(a, b); });
}

void TensorBuilder::requireFits(Value count, Value tensor, int64_t axis) {
  auto type = cast<RankedTensorType>(tensor.getType());
  auto known = asConstant(count);
  if (known && !type.isDynamicDim(axis)) {
    if (*known > type.getDimSize(axis) && problem.empty())
      problem = "shapes contradict each other: " + std::to_string(*known) +
                " elements are wanted from a dimension of " +
                std::to_string(type.getDimSize(axis));
    return;
  }
  if (!isOnTop(count) || !isOnTop(tensor) || count == dim(tensor, axis) ||
      !fitting.insert({count, {tensor, axis}}).second)
    return;
  check([&]() -> Value {
    return arith::CmpIOp::create(*this, loc, arith::CmpIPredicate::sle, count,
                                 dim(tensor, axis));
  });
}

void TensorBuilder::requireZero(Value size, Value other) {
  if (!isOnTop(size) || !isOnTop(other))
    return;
  check([&]() -> Value {
    Value isSize = arith::CmpIOp::create(*this, loc, arith::CmpIPredicate::ne,
                                         other, index(0));
    return arith::OrIOp::create(*this, loc, isSize, equal(size, index(0)));
  });
}

void TensorBuilder::requireBroadcast(Value size, Value other) {
  auto x = asConstant(size), y = asConstant(other);
  if (size == other || (x && *x == 1))
    return;
  if (x && y) {
    if (*x != *y && *y != 1 && problem.empty())
      problem = "dimensions of " + std::to_string(*x) + " and " +
                std::to_string(*y) + " don't broadcast";
    return;
  }
  if (!isOnTop(size) || !isOnTop(other))
    return;
  check([&]() -> Value {
    return arith::OrIOp::create(*this, loc, equal(size, index(1)),
                                equal(size, other));
  });
}

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

SmallVector<Value> TensorBuilder::dims(Value tensor) {
  SmallVector<Value> sizes;
  int64_t rank = cast<RankedTensorType>(tensor.getType()).getRank();
  for (int64_t axis = 0; axis < rank; ++axis)
    sizes.push_back(dim(tensor, axis));
  return sizes;
}

SmallVector<Value> TensorBuilder::indices(ArrayRef<int64_t> sizes) {
  SmallVector<Value> values;
  for (int64_t size : sizes)
    values.push_back(index(size));
  return values;
}

RankedTensorType TensorBuilder::typeFor(ArrayRef<Value> sizes, Type element) {
  SmallVector<int64_t> shape;
  for (Value size : sizes) {
    auto known = asConstant(size);
    if (known && *known < 0 && problem.empty())
      problem = "a size must not be negative, got " + std::to_string(*known);
    shape.push_back(known && *known >= 0 ? *known : ShapedType::kDynamic);
  }
  if (!isCountable(shape)) {
    if (problem.empty())
      problem = "a tensor must have at most 2^48 elements";
    // Nothing is made of what is emitted from here on.
    shape.assign(shape.size(), ShapedType::kDynamic);
  }
  return RankedTensorType::get(shape, element);
}

/// The sizes that \p type leaves open.
static SmallVector<Value> dynamicSizes(RankedTensorType type,
                                       ArrayRef<Value> sizes) {
  SmallVector<Value> open;
  for (auto [i, size] : llvm::enumerate(sizes))
    if (type.isDynamicDim(i))
      open.push_back(size);
  return open;
}

Value TensorBuilder::extract(Value tensor, ValueRange indices) {
  for (auto [axis, i] : llvm::enumerate(indices))
    if (Value bound = bounds.lookup(i))
      requireFits(bound, tensor, axis);
  return tensor::ExtractOp::create(*this, loc, tensor, indices);
}

Value TensorBuilder::generate(ArrayRef<Value> sizes, Type element,
                              function_ref<Value(ValueRange)> body) {
  RankedTensorType type = typeFor(sizes, element);
  return tensor::GenerateOp::create(
      *this, loc, type, dynamicSizes(type, sizes),
      [&](OpBuilder &nested, Location, ValueRange at) {
        InsertionGuard guard(*this);
        setInsertionPointToEnd(nested.getInsertionBlock());
        for (auto [i, size] : llvm::zip_equal(at, sizes))
          bounds[i] = size;
        Value result = body(at);
        tensor::YieldOp::create(*this, loc, result);
      });
}

SmallVector<Value>
TensorBuilder::loop(Value low, Value high, ValueRange init,
                    function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  auto loop = scf::ForOp::create(
      *this, loc, low, high, index(1), init,
      [&](OpBuilder &nested, Location, Value i, ValueRange carried) {
        InsertionGuard guard(*this);
        setInsertionPointToEnd(nested.getInsertionBlock());
        bounds[i] = high;
        scf::YieldOp::create(*this, loc, body(i, carried));
      });
  return SmallVector<Value>(loop.getResults());
}

SmallVector<Value> TensorBuilder::loopNest(
    ArrayRef<Value> sizes, ValueRange init,
    function_ref<SmallVector<Value>(ValueRange, ValueRange)> body) {
  SmallVector<Value> at;
  std::function<SmallVector<Value>(ValueRange)> nest =
      [&](ValueRange carried) -> SmallVector<Value> {
    if (at.size() == sizes.size())
      return body(at, carried);
    return loop(index(0), sizes[at.size()], carried,
                [&](Value i, ValueRange inner) {
                  at.push_back(i);
                  SmallVector<Value> result = nest(inner);
                  at.pop_back();
                  return result;
                });
  };
  return nest(init);
}

Value TensorBuilder::ifElse(Value condition, Type type,
                            function_ref<Value()> yes,
                            function_ref<Value()> no) {
  auto branch = [&](function_ref<Value()> body) {
    return [&, body](OpBuilder &nested, Location) {
      InsertionGuard guard(*this);
      setInsertionPointToEnd(nested.getInsertionBlock());
      scf::YieldOp::create(*this, loc, body());
    };
  };
  (void)type;
  return scf::IfOp::create(*this, loc, condition, branch(yes), branch(no))
      .getResult(0);
}

//===----------------------------------------------------------------------===//
// Broadcasting
//===----------------------------------------------------------------------===//

SmallVector<Value> TensorBuilder::broadcastSizes(ArrayRef<Value> tensors) {
  auto typeOf = [](Value tensor) {
    return cast<RankedTensorType>(tensor.getType());
  };
  int64_t rank = 0;
  for (Value tensor : tensors)
    rank = std::max(rank, typeOf(tensor).getRank());
  SmallVector<Value> sizes;
  for (int64_t axis = 0; axis < rank; ++axis) {
    Value size;
    int64_t givers = 0;
    for (Value tensor : tensors) {
      int64_t own = axis - rank + typeOf(tensor).getRank();
      if (own < 0 || typeOf(tensor).getDimSize(own) == 1)
        continue;
      ++givers;
      if (!typeOf(tensor).isDynamicDim(own)) {
        size = dim(tensor, own);
        break;
      }
      // Either may turn out to be 1.
      Value next = dim(tensor, own);
      size = size ? select(equal(size, index(1)), next, size) : next;
    }
    sizes.push_back(size ? size : index(1));
    if (givers == 1 && (!asConstant(size) || tensors.size() == 1))
      continue;
    for (Value tensor : tensors)
      if (int64_t own = axis - rank + typeOf(tensor).getRank(); own >= 0)
        requireBroadcast(dim(tensor, own), sizes.back());
  }
  return sizes;
}

Value TensorBuilder::extractBroadcast(Value tensor, ValueRange at) {
  auto type = cast<RankedTensorType>(tensor.getType());
  SmallVector<Value> own;
  for (int64_t axis = 0; axis < type.getRank(); ++axis) {
    Value i = at[at.size() - type.getRank() + axis];
    if (Value bound = bounds.lookup(i))
      requireBroadcast(dim(tensor, axis), bound);
    if (type.getDimSize(axis) == 1)
      i = index(0);
    else if (type.isDynamicDim(axis))
      i = select(equal(dim(tensor, axis), index(1)), index(0), i);
    own.push_back(i);
  }
  return extract(tensor, own);
}

bool TensorBuilder::hasStaticBroadcast(Value tensor, ArrayRef<Value> sizes) {
  auto type = cast<RankedTensorType>(tensor.getType());
  for (auto [axis, size] : llvm::enumerate(sizes.take_back(type.getRank())))
    if (type.isDynamicDim(axis)
            ? dim(tensor, axis) != size
            : type.getDimSize(axis) != 1 && !asConstant(size))
      return false;
  return true;
}

/// \p tensor in the sizes of a broadcast. A copy: a map of what turns out to be
/// of one size or of another reads each element through a choice of places, and
/// reading through several such maps would compute each element anew.
Value TensorBuilder::broadcast(Value tensor, ArrayRef<Value> sizes) {
  auto type = cast<RankedTensorType>(tensor.getType());
  return generate(sizes.take_back(type.getRank()), type.getElementType(),
                  [&](ValueRange at) { return extractBroadcast(tensor, at); });
}

Value TensorBuilder::map(ArrayRef<Value> tensors, Type element,
                         function_ref<Value(ValueRange)> body, Value target) {
  SmallVector<Value> sizes = broadcastSizes(tensors);
  SmallVector<Value> spread(tensors);
  for (Value &tensor : spread)
    if (!hasStaticBroadcast(tensor, sizes))
      tensor = broadcast(tensor, sizes);
  int64_t rank = sizes.size();
  SmallVector<AffineMap> maps;
  for (Value tensor : spread) {
    auto type = cast<RankedTensorType>(tensor.getType());
    SmallVector<AffineExpr> places;
    for (int64_t axis = 0; axis < type.getRank(); ++axis)
      places.push_back(type.getDimSize(axis) == 1
                           ? getAffineConstantExpr(0)
                           : getAffineDimExpr(rank - type.getRank() + axis));
    maps.push_back(AffineMap::get(rank, 0, places, getContext()));
  }
  maps.push_back(getMultiDimIdentityMap(rank));
  RankedTensorType type = typeFor(sizes, element);
  bool hasTarget = static_cast<bool>(target);
  if (!target)
    target = tensor::EmptyOp::create(*this, loc, type.getShape(), element,
                                     dynamicSizes(type, sizes));
  SmallVector<utils::IteratorType> iterators(rank,
                                             utils::IteratorType::parallel);
  return linalg::GenericOp::create(
             *this, loc, type, spread, target, maps, iterators,
             [&](OpBuilder &nested, Location, ValueRange arguments) {
               InsertionGuard guard(*this);
               setInsertionPointToEnd(nested.getInsertionBlock());
               linalg::YieldOp::create(
                   *this, loc,
                   body(arguments.take_front(spread.size() + hasTarget)));
             })
      .getResult(0);
}

Value TensorBuilder::transpose(Value tensor, ArrayRef<int64_t> order) {
  SmallVector<Value> sizes;
  for (int64_t axis : order)
    sizes.push_back(dim(tensor, axis));
  auto element = cast<RankedTensorType>(tensor.getType()).getElementType();
  return generate(sizes, element, [&](ValueRange at) {
    SmallVector<Value> from(order.size());
    for (auto [i, axis] : llvm::enumerate(order))
      from[axis] = at[i];
    return extract(tensor, from);
  });
}

Value TensorBuilder::reshape(Value tensor, ArrayRef<Value> sizes) {
  auto from = cast<RankedTensorType>(tensor.getType());
  RankedTensorType type = typeFor(sizes, from.getElementType());
  if (type == from && type.hasStaticShape())
    return tensor;
  Value count = index(1), own = index(1);
  for (Value size : sizes)
    count = mul(count, size);
  for (Value size : dims(tensor))
    own = mul(own, size);
  requireEqual(count, own, "numbers of elements before and after a reshape");
  return tensor::ReshapeOp::create(*this, loc, type, tensor,
                                   shapeTensor(sizes));
}

Value TensorBuilder::refine(Value tensor, RankedTensorType type) {
  if (tensor.getType() == type)
    return tensor;
  return tensor::CastOp::create(*this, loc, type, tensor);
}

Value TensorBuilder::scalar(Value tensor) {
  int64_t rank = cast<RankedTensorType>(tensor.getType()).getRank();
  return extract(tensor, SmallVector<Value>(rank, index(0)));
}

Value TensorBuilder::shapeTensor(ArrayRef<Value> sizes) {
  SmallVector<int64_t> known;
  for (Value size : sizes)
    if (auto value = asConstant(size))
      known.push_back(*value);
  if (known.size() == sizes.size())
    return arith::ConstantOp::create(*this, loc, getI64TensorAttr(known));
  SmallVector<Value> elements;
  for (Value size : sizes)
    elements.push_back(fromIndex(size, getI64Type()));
  return tensor::FromElementsOp::create(
      *this, loc,
      RankedTensorType::get({static_cast<int64_t>(sizes.size())}, getI64Type()),
      elements);
}

bool TensorBuilder::isParameter(Value tensor) const {
  if (weights.contains(tensor))
    return true;
  Operation *op = tensor.getDefiningOp();
  if (!op)
    return false;
  if (op->hasTrait<OpTrait::ConstantLike>())
    return true;
  return isa<graph::DequantizeOp>(op) &&
         llvm::all_of(op->getOperands(),
                      [&](Value operand) { return isParameter(operand); });
}
