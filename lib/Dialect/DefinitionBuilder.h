//===- DefinitionBuilder.h - How definitions are spelled --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A definition gives each element of a result by a formula of its indices, and
// sums by loops in ascending order: `tensor.generate`, `tensor.extract`,
// `scf.for`, arith and math. All arithmetic is in f32 and i32.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_DIALECT_DEFINITIONBUILDER_H
#define QLM_LIB_DIALECT_DEFINITIONBUILDER_H

#include "qlm/Dialect/Qlm.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

namespace mlir::qlm {

class DefinitionBuilder {
public:
  DefinitionBuilder(OpBuilder &builder, Location loc)
      : builder(builder), loc(loc) {}

  using Indices = ArrayRef<Value>;
  using ElementFn = llvm::function_ref<Value(Indices)>;
  using StepFn = llvm::function_ref<SmallVector<Value>(Value, ArrayRef<Value>)>;

  //===--------------------------------------------------------------------===//
  // Constants and sizes
  //===--------------------------------------------------------------------===//

  Value index(int64_t value);
  Value f32(double value);
  Value i32(int64_t value);
  /// Size of dimension \p i of \p tensor, as an index.
  Value dim(Value tensor, int64_t i);
  /// Sizes of the dynamic dimensions of \p type, which are those of \p like's
  /// dimension of the same number.
  SmallVector<Value> dynamicSizesLike(RankedTensorType type, Value like);
  /// The size of the first dimension of \p type, that of dimension \p i of
  /// \p like, where it is dynamic; nothing where it is static.
  SmallVector<Value> rowSizes(RankedTensorType type, Value like, int64_t i = 0);

  //===--------------------------------------------------------------------===//
  // Index arithmetic
  //===--------------------------------------------------------------------===//

  Value add(Value a, Value b);
  Value mul(Value a, Value b);
  Value sub(Value a, Value b);
  Value div(Value a, Value b); ///< of index values, rounding down
  Value rem(Value a, Value b);
  Value add(Value a, int64_t b) { return add(a, constantLike(a, b)); }
  Value mul(Value a, int64_t b) { return mul(a, constantLike(a, b)); }
  Value div(Value a, int64_t b) { return div(a, constantLike(a, b)); }
  Value rem(Value a, int64_t b) { return rem(a, constantLike(a, b)); }
  Value less(Value a, Value b);
  Value lessEqual(Value a, Value b);
  Value both(Value a, Value b);
  Value select(Value condition, Value a, Value b);
  Value smaller(Value a, Value b); ///< of index values
  /// The first of the keys before \p end (an index) that a window of \p keys
  /// of them has, or 0 without a window.
  Value windowStart(Value end, std::optional<uint64_t> keys);
  Value f64(double value);
  Value widen(Value a);    ///< f32 to f64
  Value truncate(Value a); ///< f64 to f32
  Value toIndex(Value integer);
  Value toF32(Value integer);

  //===--------------------------------------------------------------------===//
  // Float arithmetic
  //===--------------------------------------------------------------------===//

  Value divide(Value a, Value b);
  Value maximum(Value a, Value b);
  Value minimum(Value a, Value b);
  Value abs(Value a);
  Value exp(Value a);
  Value isZero(Value a);
  /// Rounds half to even and clamps to [lo, hi]; the result is f32.
  Value roundClamp(Value a, double lo, double hi);
  /// x / (1 + exp(-x))
  Value silu(Value x);
  /// cos(a) or sin(a), computed in f64 and rounded to f32.
  Value cosine(Value a);
  Value sine(Value a);
  //===--------------------------------------------------------------------===//
  // Bits and tables
  //===--------------------------------------------------------------------===//

  /// The bits of an f32 as i32, and back.
  Value toBits(Value a);
  Value fromBits(Value a);
  /// Shifts of i32; zeros enter on the right.
  Value shiftLeft(Value a, int64_t bits);
  Value shiftRight(Value a, int64_t bits);
  /// f32 to i32; the value is an integer.
  Value toI32(Value a);
  /// A constant tensor [n] of f32.
  Value table(ArrayRef<float> values);
  /// The number of f32 \p bounds (a constant tensor of \p count) below \p x.
  Value countBelow(Value bounds, int64_t count, Value x);
  /// f32 of the bits of an f8E4M3FN (i32, 0 to 255).
  Value fromFloat8(Value bits);
  /// The bits, i32, of \p x rounded to f8E4M3FN, half to even, at most 448 in
  /// magnitude.
  Value toFloat8(Value x);

  /// \p a rounded to \p type and back to f32.
  Value roundTo(Value a, Type type);

  //===--------------------------------------------------------------------===//
  // Tensors and loops
  //===--------------------------------------------------------------------===//

  /// The element of \p tensor at \p indices, widened to f32 or i32.
  Value at(Value tensor, Indices indices);
  /// The bits, as i32, of an element of \p tensor of f8E4M3FN.
  Value bitsAt(Value tensor, Indices indices);
  /// A tensor whose element at some indices is \p element of them (f32 or
  /// i32), narrowed to the element type.
  Value generate(RankedTensorType type, ArrayRef<Value> dynamicSizes,
                 ElementFn element);
  /// Carries values through \p step for lo <= k < hi.
  SmallVector<Value> loop(Value lo, Value hi, ArrayRef<Value> init,
                          StepFn step);
  /// sum of term(k) for lo <= k < hi, in ascending order, from \p zero.
  Value sum(Value lo, Value hi, Value zero,
            llvm::function_ref<Value(Value)> term);

  /// \p condition ? then() : otherwise, without evaluating then() when false.
  Value guarded(Value condition, llvm::function_ref<Value()> then,
                Value otherwise);

private:
  Value constantLike(Value like, int64_t value);
  Value narrow(Value value, Type type);

  OpBuilder &builder;
  Location loc;
};

} // namespace mlir::qlm

#endif // QLM_LIB_DIALECT_DEFINITIONBUILDER_H
