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

#include <optional>
#include <string>

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
  /// \p size must be 1 or \p other.
  void requireBroadcast(Value size, Value other);

  // Scalars.
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

  // Tensors.
  Value dim(Value tensor, int64_t axis);
  SmallVector<Value> dims(Value tensor);
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
  /// body of the elements, with broadcasting.
  Value map(ArrayRef<Value> tensors, Type element,
            function_ref<Value(ValueRange)> body);
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
  bool isOnTop(Value value) const;
  void check(function_ref<Value()> condition);

  std::string problem;
  /// What indices of loops stay below.
  llvm::DenseMap<Value, Value> bounds;
  llvm::DenseSet<std::pair<Value, std::pair<Value, int64_t>>> fitting;
};

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_TENSORBUILDER_H
