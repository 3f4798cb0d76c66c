//===- Sizes.cpp - Arithmetic on indices and sizes ------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Whether two open sizes are equal decides whether tensors are broadcast, and
// so what code a map becomes. Sizes are therefore kept in one form: an open
// dimension is the value that the tensor was made with, down to an input of the
// graph, and arithmetic on sizes is written once and simplified as it is.
//
//===----------------------------------------------------------------------===//

#include "TensorBuilder.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Dialect/Qlm.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;

std::optional<int64_t> TensorBuilder::asConstant(Value index) const {
  return getConstantIntValue(index);
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

template <typename Op>
Value TensorBuilder::arithmetic(SizeOp op, Value x, Value y) {
  auto create = [&]() -> Value { return Op::create(*this, loc, x, y); };
  if (getInsertionBlock() != top)
    return create();
  auto operand = [&](Value value) -> std::pair<const void *, int64_t> {
    if (auto known = asConstant(value))
      return {nullptr, *known};
    return {value.getAsOpaquePointer(), 0};
  };
  auto [first, firstKnown] = operand(x);
  auto [second, secondKnown] = operand(y);
  Value &value = sizeValues[{op, first, firstKnown, second, secondKnown}];
  if (!value)
    value = create();
  return value;
}

/// \p fold of two constants, or nothing.
template <typename Fold>
static std::optional<int64_t> foldConstants(Value x, Value y, Fold fold) {
  auto constX = getConstantIntValue(x), constY = getConstantIntValue(y);
  int64_t result;
  if (constX && constY && fold(*constX, *constY, result))
    return result;
  return std::nullopt;
}

Value TensorBuilder::add(Value a, Value b) {
  if (auto sum = foldConstants(a, b, [](int64_t x, int64_t y, int64_t &sum) {
        return !__builtin_add_overflow(x, y, &sum);
      }))
    return index(*sum);
  if (asConstant(a) == 0)
    return b;
  if (asConstant(b) == 0)
    return a;
  return arithmetic<arith::AddIOp>(SizeOp::Add, a, b);
}

Value TensorBuilder::sub(Value a, Value b) {
  if (auto difference =
          foldConstants(a, b, [](int64_t x, int64_t y, int64_t &difference) {
            return !__builtin_sub_overflow(x, y, &difference);
          }))
    return index(*difference);
  if (a == b)
    return index(0);
  if (asConstant(b) == 0)
    return a;
  return arithmetic<arith::SubIOp>(SizeOp::Sub, a, b);
}

/// The value and the constant that a product is of; 1 where there is none.
static std::pair<Value, int64_t> splitProduct(Value value) {
  if (auto product = value.getDefiningOp<arith::MulIOp>())
    if (auto factor = getConstantIntValue(product.getRhs()))
      return {product.getLhs(), *factor};
  return {value, 1};
}

Value TensorBuilder::mul(Value a, Value b) {
  auto multiply = [](int64_t x, int64_t y, int64_t &product) {
    return !__builtin_mul_overflow(x, y, &product);
  };
  if (auto product = foldConstants(a, b, multiply))
    return index(*product);
  if (asConstant(a))
    std::swap(a, b);
  auto factor = asConstant(b);
  if (factor == 1)
    return a;
  if (factor == 0)
    return b;
  // Constants stand last, as one.
  auto [value, own] = splitProduct(a);
  int64_t both;
  if (factor && own != 1 && multiply(own, *factor, both))
    return mul(value, index(both));
  if (!factor && own != 1)
    return mul(mul(value, b), index(own));
  if (auto [other, constant] = splitProduct(b); !factor && constant != 1)
    return mul(mul(a, other), index(constant));
  return arithmetic<arith::MulIOp>(SizeOp::Mul, a, b);
}

Value TensorBuilder::floorDiv(Value a, Value b) {
  if (auto quotient =
          foldConstants(a, b, [](int64_t x, int64_t y, int64_t &quotient) {
            if (y == 0 || y == -1)
              return false;
            quotient = x / y - (x % y != 0 && (x < 0) != (y < 0));
            return true;
          }))
    return index(*quotient);
  if (asConstant(b) == 1)
    return a;
  return arithmetic<arith::FloorDivSIOp>(SizeOp::FloorDiv, a, b);
}

Value TensorBuilder::ceilDiv(Value a, Value b) {
  if (auto quotient =
          foldConstants(a, b, [](int64_t x, int64_t y, int64_t &quotient) {
            if (y == 0 || y == -1)
              return false;
            quotient = x / y + (x % y != 0 && (x < 0) == (y < 0));
            return true;
          }))
    return index(*quotient);
  if (asConstant(b) == 1)
    return a;
  return arithmetic<arith::CeilDivSIOp>(SizeOp::CeilDiv, a, b);
}

Value TensorBuilder::truncDiv(Value a, Value b) {
  if (auto quotient =
          foldConstants(a, b, [](int64_t x, int64_t y, int64_t &quotient) {
            if (y == 0 || y == -1)
              return false;
            quotient = x / y;
            return true;
          }))
    return index(*quotient);
  if (asConstant(b) == 1)
    return a;
  auto [value, factor] = splitProduct(a);
  if (auto divisor = asConstant(b))
    if (*divisor > 0 && factor % *divisor == 0 && isNatural(a))
      return mul(value, index(factor / *divisor));
  return arithmetic<arith::DivSIOp>(SizeOp::TruncDiv, a, b);
}

Value TensorBuilder::rem(Value a, Value b) {
  if (auto rest = foldConstants(a, b, [](int64_t x, int64_t y, int64_t &rest) {
        if (y == 0 || y == -1)
          return false;
        rest = x % y;
        return true;
      }))
    return index(*rest);
  return arithmetic<arith::RemSIOp>(SizeOp::Rem, a, b);
}

Value TensorBuilder::min(Value a, Value b) {
  if (auto least =
          foldConstants(a, b, [](int64_t x, int64_t y, int64_t &least) {
            least = std::min(x, y);
            return true;
          }))
    return index(*least);
  for (auto [x, y] : {std::pair(a, b), std::pair(b, a)})
    if (auto limit = asConstant(x)) {
      if (*limit == INT64_MAX)
        return y;
      if (*limit <= 0 && isNatural(y))
        return x;
    }
  if (a == b)
    return a;
  return arithmetic<arith::MinSIOp>(SizeOp::Min, a, b);
}

Value TensorBuilder::max(Value a, Value b) {
  if (auto most = foldConstants(a, b, [](int64_t x, int64_t y, int64_t &most) {
        most = std::max(x, y);
        return true;
      }))
    return index(*most);
  for (auto [x, y] : {std::pair(a, b), std::pair(b, a)})
    if (auto limit = asConstant(x); limit && *limit <= 0 && isNatural(y))
      return y;
  if (a == b)
    return a;
  return arithmetic<arith::MaxSIOp>(SizeOp::Max, a, b);
}

/// The open factors of \p value, and its constant one.
static int64_t splitFactors(Value value, SmallVectorImpl<Value> &open) {
  if (auto known = getConstantIntValue(value))
    return *known;
  if (auto product = value.getDefiningOp<arith::MulIOp>()) {
    int64_t left = splitFactors(product.getLhs(), open);
    int64_t right = splitFactors(product.getRhs(), open), both;
    if (!__builtin_mul_overflow(left, right, &both))
      return both;
    open.clear();
  }
  open.push_back(value);
  return 1;
}

Value TensorBuilder::quotient(Value a, Value b) {
  SmallVector<Value> above, below;
  int64_t known = splitFactors(a, above), divisor = splitFactors(b, below);
  for (Value &factor : above)
    if (auto *found = llvm::find(below, factor); found != below.end()) {
      below.erase(found);
      factor = Value();
    }
  llvm::erase(above, Value());
  if (divisor > 0 && known % divisor == 0) {
    known /= divisor;
    divisor = 1;
  }
  Value rest = index(known), under = index(divisor);
  for (Value factor : above)
    rest = mul(rest, factor);
  for (Value factor : below)
    under = mul(under, factor);
  return floorDiv(rest, max(under, index(1)));
}

//===----------------------------------------------------------------------===//
// Choices
//===----------------------------------------------------------------------===//

bool TensorBuilder::isZeroWith(Value product, Value size) const {
  SmallVector<Value> factors, others;
  return splitFactors(size, factors) != 0 &&
         (splitFactors(product, others) == 0 ||
          llvm::all_of(factors, [&](Value factor) {
            return llvm::is_contained(others, factor);
          }));
}

bool TensorBuilder::isNatural(Value size) const {
  if (auto known = asConstant(size))
    return *known >= 0;
  Operation *op = size.getDefiningOp();
  if (!op)
    return false;
  if (isa<tensor::DimOp>(op))
    return true;
  auto operandIs = [&](unsigned i) { return isNatural(op->getOperand(i)); };
  if (isa<arith::AddIOp, arith::MulIOp, arith::MinSIOp, arith::FloorDivSIOp,
          arith::CeilDivSIOp, arith::DivSIOp>(op))
    return operandIs(0) && operandIs(1);
  if (isa<arith::MaxSIOp>(op))
    return operandIs(0) || operandIs(1);
  if (isa<arith::SelectOp>(op))
    return operandIs(1) && operandIs(2);
  return false;
}

Value TensorBuilder::select(Value condition, Value yes, Value no) {
  if (auto known = getConstantIntValue(condition))
    return *known ? yes : no;
  if (yes == no)
    return yes;
  return arith::SelectOp::create(*this, loc, condition, yes, no);
}

static Value compare(TensorBuilder &b, arith::CmpIPredicate predicate, Value x,
                     Value y) {
  return b.createOrFold<arith::CmpIOp>(b.loc, predicate, x, y);
}

Value TensorBuilder::less(Value a, Value b) {
  if (auto limit = asConstant(b); limit && *limit <= 0 && isNatural(a))
    return arith::ConstantIntOp::create(*this, loc, getI1Type(), 0);
  return compare(*this, arith::CmpIPredicate::slt, a, b);
}

Value TensorBuilder::equal(Value a, Value b) {
  for (auto [x, y] : {std::pair(a, b), std::pair(b, a)})
    if (auto known = asConstant(x); known && *known < 0 && isNatural(y))
      return arith::ConstantIntOp::create(*this, loc, getI1Type(), 0);
  return compare(*this, arith::CmpIPredicate::eq, a, b);
}

Value TensorBuilder::wrapIndex(Value i, Value size) {
  return select(less(i, index(0)), add(i, size), i);
}

//===----------------------------------------------------------------------===//
// Dimensions
//===----------------------------------------------------------------------===//

/// The value that stands for the open dimension \p axis of \p type in \p open.
static Value takeOpen(RankedTensorType type, int64_t axis, ValueRange open) {
  return open[type.getNumDynamicDims() -
              llvm::count_if(type.getShape().drop_front(axis),
                             ShapedType::isDynamic)];
}

/// The size that an open dimension of \p tensor was given by what made it; else
/// null, and \p tensor the one that it is that dimension of.
static Value findSize(Value &tensor, int64_t axis) {
  while (Operation *op = tensor.getDefiningOp()) {
    auto type = cast<RankedTensorType>(tensor.getType());
    if (auto generate = dyn_cast<tensor::GenerateOp>(op))
      return takeOpen(type, axis, generate.getDynamicExtents());
    if (auto empty = dyn_cast<tensor::EmptyOp>(op))
      return takeOpen(type, axis, empty.getDynamicSizes());
    if (auto reshape = dyn_cast<tensor::ReshapeOp>(op)) {
      auto shape = reshape.getShape().getDefiningOp<tensor::FromElementsOp>();
      auto size =
          shape ? shape.getElements()[axis].getDefiningOp<arith::IndexCastOp>()
                : arith::IndexCastOp();
      return size ? size.getIn() : Value();
    }
    if (auto wider = dyn_cast<tensor::ExpandShapeOp>(op))
      return takeOpen(type, axis, wider.getOutputShape());
    Value from;
    if (auto parts = dyn_cast<tensor::ConcatOp>(op)) {
      if (axis != static_cast<int64_t>(parts.getDim()))
        from = parts.getInputs()[0];
    } else if (auto made = dyn_cast<DestinationStyleOpInterface>(op)) {
      from = made.getTiedOpOperand(cast<OpResult>(tensor))->get();
    } else if (auto narrow = dyn_cast<tensor::CollapseShapeOp>(op)) {
      // Dimensions before the first that is made of several.
      if (llvm::all_of(narrow.getReassociationIndices(),
                       [&](const ReassociationIndices &group) {
                         return group.front() > axis || group.size() == 1;
                       }))
        from = narrow.getSrc();
    } else if (isa<tensor::CastOp, LinearOp>(op) ||
               isa_and_present<graph::GraphDialect>(op->getDialect())) {
      // Linears, operations on images and codes have their input's open sizes.
      from = op->getOperand(0);
    }
    if (!from || !cast<RankedTensorType>(from.getType()).isDynamicDim(axis))
      return {};
    tensor = from;
  }
  return {};
}

Value TensorBuilder::dim(Value tensor, int64_t axis) {
  auto type = cast<RankedTensorType>(tensor.getType());
  if (!type.isDynamicDim(axis))
    return index(type.getDimSize(axis));
  if (Value size = openSizes.lookup({tensor, axis}))
    return size;
  Value size = findSize(tensor, axis);
  if (size && isOnTop(size))
    return size;
  if (!isOnTop(tensor))
    return tensor::DimOp::create(*this, loc, tensor, axis);
  Value &open = openSizes[{tensor, axis}];
  if (!open) {
    InsertionGuard guard(*this);
    setInsertionPointAfterValue(tensor);
    open = tensor::DimOp::create(*this, loc, tensor, axis);
  }
  return open;
}

void TensorBuilder::takeSize(Value argument, int64_t axis, Value size) {
  requireEqual(dim(argument, axis), size, "dimensions of one name");
  knowSize(argument, axis, size);
}

void TensorBuilder::knowSize(Value tensor, int64_t axis, Value size) {
  if (cast<RankedTensorType>(tensor.getType()).isDynamicDim(axis))
    openSizes[{tensor, axis}] = size;
}
