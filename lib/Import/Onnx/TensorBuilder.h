//===- TensorBuilder.h - Writes tensor computations as they read *- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What ONNX's operators are spelled with: elementwise maps with broadcasting,
// tensors given by a formula of their indices, sums along loops. All of it
// becomes linalg, tensor, scf, arith and math operations; shapes that are known
// stay in the types.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_TENSORBUILDER_H
#define QLM_LIB_IMPORT_ONNX_TENSORBUILDER_H

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/SmallVector.h"

#include <map>
#include <optional>
#include <string>
#include <tuple>

namespace mlir::qlm::onnx_import {

/// A value of the graph. ONNX's element types are richer than MLIR's signless
/// ones, so the type goes along; booleans are i1, types of less than a byte
/// and 8-bit floats are stored as i8.
struct Tensor {
  Value value;
  /// onnx::TensorProto::DataType.
  int32_t type = 0;
  /// The elements, where they are whole numbers known while importing: shapes,
  /// axes and what is computed from them.
  std::optional<SmallVector<int64_t>> known;
  /// The elements as indices in the function's block, where they are known but
  /// for open sizes: what shapes and computed shapes of such tensors hold.
  SmallVector<Value> sizes = {};

  explicit operator bool() const { return static_cast<bool>(value); }
  RankedTensorType tensorType() const {
    return cast<RankedTensorType>(value.getType());
  }
  int64_t rank() const { return tensorType().getRank(); }
  Type elementType() const { return tensorType().getElementType(); }
  /// A dimension's size, or ShapedType::kDynamic.
  int64_t dim(int64_t axis) const { return tensorType().getDimSize(axis); }
};

/// Element types.
bool isFloatType(int32_t type);
bool isUnsignedType(int32_t type);
bool isBoolType(int32_t type);
/// The type that elements of \p type are stored in; null when not handled.
Type getStoredType(MLIRContext *context, int32_t type);

/// Whether tensors of \p shape can be counted: at most 2^48 elements, open
/// sizes and those of 0 taken as 1, so that no arithmetic on strides and bytes
/// overflows.
bool isCountable(ArrayRef<int64_t> shape);

/// The function that a graph calls with a condition that must hold.
inline constexpr const char kCheckFunction[] = "qlm_graph_check";

/// Emits at an insertion point. Indices and sizes are values of `index` type;
/// constants among them make dimensions static.
class TensorBuilder : public OpBuilder {
public:
  explicit TensorBuilder(MLIRContext *context)
      : OpBuilder(context), loc(UnknownLoc::get(context)) {}

  Location loc;

  // Rules about sizes. A contradiction that is known while importing becomes
  // the problem; one that depends on open sizes is checked when the graph runs,
  // before the tensor at hand is computed.
  /// Where checks go: the function's block.
  Block *top = nullptr;
  /// The first broken rule since the last takeProblem(); empty when none.
  std::string takeProblem() { return std::exchange(problem, std::string()); }
  void requireEqual(Value a, Value b, const char *what);
  /// \p count indices from 0 on must lie in dimension \p axis of \p tensor.
  void requireFits(Value count, Value tensor, int64_t axis);
  /// \p size must be 0 where \p other is.
  void requireZero(Value size, Value other);
  /// \p size must be 1 or \p other.
  void requireBroadcast(Value size, Value other);

  // Scalars. Arithmetic on indices folds what is known; in the function's block
  // the same operation on the same operands gives the same value.
  Value index(int64_t value);
  /// A constant of a stored type (float or integer).
  Value constant(Type type, double value);
  Value integer(Type type, int64_t value);
  std::optional<int64_t> asConstant(Value index) const;
  Value add(Value a, Value b);
  Value sub(Value a, Value b);
  Value mul(Value a, Value b);
  Value floorDiv(Value a, Value b);
  Value ceilDiv(Value a, Value b);
  Value rem(Value a, Value b);
  /// ONNX's quotient of integers, towards zero, for \p b other than 0.
  Value truncDiv(Value a, Value b);
  /// \p a over \p b, sizes of which the one divides the other; factors that
  /// both have cancel, so that open ones may be 0.
  Value quotient(Value a, Value b);
  Value min(Value a, Value b);
  Value max(Value a, Value b);
  Value select(Value condition, Value yes, Value no);
  /// a < b of indices, signed.
  Value less(Value a, Value b);
  Value equal(Value a, Value b);
  /// Index to a stored integer type, and back.
  Value fromIndex(Value value, Type type);
  Value toIndex(Value value);
  /// Index \p i or, when negative, \p i + \p size.
  Value wrapIndex(Value i, Value size);
  /// Whether \p size is at least 0 whatever open sizes are.
  bool isNatural(Value size) const;
  /// Whether \p product is seen to be 0 wherever \p size is.
  bool isZeroWith(Value product, Value size) const;

  // Tensors.
  /// The size of a dimension; an open one is the same value for all tensors
  /// that have it from the same one.
  Value dim(Value tensor, int64_t axis);
  SmallVector<Value> dims(Value tensor);
  /// Says that the open dimension \p axis of \p tensor is \p size.
  void knowSize(Value tensor, int64_t axis, Value size);
  /// Makes the open dimension \p axis of \p argument be \p size; that they are
  /// equal is checked when the graph runs.
  void takeSize(Value argument, int64_t axis, Value size);
  SmallVector<Value> indices(ArrayRef<int64_t> sizes);
  RankedTensorType typeFor(ArrayRef<Value> sizes, Type element);
  Value extract(Value tensor, ValueRange indices);
  /// The tensor whose element at `i` is body(i).
  Value generate(ArrayRef<Value> sizes, Type element,
                 function_ref<Value(ValueRange)> body);
  /// Loop with several carried values.
  SmallVector<Value>
  loop(Value low, Value high, ValueRange init,
       function_ref<SmallVector<Value>(Value, ValueRange)> body);
  /// Carried values over all indices below \p sizes, the last fastest.
  SmallVector<Value>
  loopNest(ArrayRef<Value> sizes, ValueRange init,
           function_ref<SmallVector<Value>(ValueRange, ValueRange)> body);
  /// Values of whichever branch runs; only that branch is computed.
  Value ifElse(Value condition, Type type, function_ref<Value()> yes,
               function_ref<Value()> no);

  /// Sizes of the broadcast of \p tensors (NumPy's rules). Dimensions that are
  /// not known are taken to fit.
  SmallVector<Value> broadcastSizes(ArrayRef<Value> tensors);
  /// Element of \p tensor that stands at \p indices of the broadcast.
  Value extractBroadcast(Value tensor, ValueRange indices);
  /// body of the elements, with broadcasting. Where \p target, of the result's
  /// type, is given, the result takes its place and body gets its element last.
  Value map(ArrayRef<Value> tensors, Type element,
            function_ref<Value(ValueRange)> body, Value target = Value());
  /// Reorders: result dimension i is the tensor's dimension order[i].
  Value transpose(Value tensor, ArrayRef<int64_t> order);
  /// The same elements in the shape \p sizes, whose product fits.
  Value reshape(Value tensor, ArrayRef<Value> sizes);
  /// Says that \p tensor has the more precise type \p type.
  Value refine(Value tensor, RankedTensorType type);
  /// A rank-0 or one-element tensor's element.
  Value scalar(Value tensor);
  /// A one-dimensional tensor of i64 from indices.
  Value shapeTensor(ArrayRef<Value> sizes);

  /// The function's arguments that are weights.
  llvm::DenseSet<Value> weights;
  /// Whether the elements of \p tensor are known when the package is written:
  /// a constant, a weight, or what only those make.
  bool isParameter(Value tensor) const;

private:
  enum class SizeOp {
    Add,
    Sub,
    Mul,
    FloorDiv,
    CeilDiv,
    TruncDiv,
    Rem,
    Min,
    Max
  };
  /// An operation and its operands: a value, or a constant.
  using SizeKey =
      std::tuple<SizeOp, const void *, int64_t, const void *, int64_t>;
  template <typename Op> Value arithmetic(SizeOp op, Value x, Value y);
  /// Whether a map of linalg can say which elements \p tensor gives to a result
  /// of \p sizes: each of its sizes is 1 or the result's, whatever open ones
  /// turn out to be.
  bool hasStaticBroadcast(Value tensor, ArrayRef<Value> sizes);
  Value broadcast(Value tensor, ArrayRef<Value> sizes);
  bool isOnTop(Value value) const;
  void check(function_ref<Value()> condition);

  std::string problem;
  std::map<SizeKey, Value> sizeValues;
  llvm::DenseMap<std::pair<Value, int64_t>, Value> openSizes;
  /// What indices of loops stay below.
  llvm::DenseMap<Value, Value> bounds;
  llvm::DenseSet<std::pair<Value, std::pair<Value, int64_t>>> fitting;
};

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_TENSORBUILDER_H
