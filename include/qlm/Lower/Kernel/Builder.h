//===- Builder.h - Writes a kernel as it reads ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A thin layer over MLIR's builders, so that an emitter reads like the kernel
// it emits:
//
//   KernelFrame frame(function, /*buffers=*/3);
//   KernelBuilder &b = frame.builder();
//   b.forRange(frame.lo(), frame.hi(), 1, [&](Val tile) {
//     Ptr x = frame.buffer(0).at(tile * 64), y = frame.buffer(1).at(tile * 64);
//     Val sum = x.load(b.vec(16, b.f32()), 64) + y.load(b.vec(16, b.f32()),
//     64); frame.buffer(2).at(tile * 64).store(sum, 64);
//   });
//
// The IR is made of func, scf, arith, math, vector and llvm operations.
// All index arithmetic is i64 (never `index`), and offsets are bytes.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_KERNEL_BUILDER_H
#define QLM_LOWER_KERNEL_BUILDER_H

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "qlm/Dialect/Qlm.h"

#include <type_traits>

namespace mlir::qlm::kernel {

class KernelBuilder;

/// Registers the dialects that kernels are made of (what a pass that emits
/// kernels declares as dependent).
void registerKernelDialects(DialectRegistry &registry);

/// An SSA value: a scalar or a vector of floats or signless integers. The
/// operators emit one operation each; both operands have the same type, or one
/// is a C++ number, which takes the type of the other.
class Val {
public:
  Val() = default;
  Val(Value value, KernelBuilder *builder) : value(value), builder(builder) {}

  Value get() const { return value; }
  KernelBuilder *getBuilder() const { return builder; }
  explicit operator bool() const { return static_cast<bool>(value); }
  Type type() const { return value.getType(); }
  /// Element type of a vector, or the scalar type itself.
  Type elementType() const { return getElementTypeOrSelf(value.getType()); }
  /// Lanes of a vector; 1 of a scalar.
  int64_t lanes() const;
  bool isFloat() const { return isa<FloatType>(elementType()); }

  /// The element at a constant lane of a vector.
  Val lane(int64_t index) const;

private:
  static Type getElementTypeOrSelf(Type type);

  Value value;
  KernelBuilder *builder = nullptr;
};

Val operator+(Val a, Val b);
Val operator-(Val a, Val b);
Val operator*(Val a, Val b);
/// Float division, or unsigned division of integers (sizes are not negative).
Val operator/(Val a, Val b);
/// Unsigned remainder.
Val operator%(Val a, Val b);
Val operator&(Val a, Val b);
Val operator|(Val a, Val b);
Val operator^(Val a, Val b);
Val operator<<(Val a, Val b);
/// Logical shift (zeros enter).
Val operator>>(Val a, Val b);
Val operator-(Val a);
/// Comparisons are signed for integers, ordered for floats; they give i1, or
/// vectors of i1.
Val operator<(Val a, Val b);
Val operator<=(Val a, Val b);
Val operator>(Val a, Val b);
Val operator>=(Val a, Val b);
Val operator==(Val a, Val b);
Val operator!=(Val a, Val b);

/// A constant of the type of \p like (splat for vectors).
Val constantLike(Val like, int64_t number);
Val constantLike(Val like, double number);
template <typename T> Val literal(Val like, T number) {
  if constexpr (std::is_floating_point_v<T>)
    return constantLike(like, static_cast<double>(number));
  else
    return constantLike(like, static_cast<int64_t>(number));
}

#define QLM_KERNEL_OPERATOR(op)                                                \
  template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>    \
  Val operator op(Val a, T b) {                                                \
    return a op literal(a, b);                                                 \
  }                                                                            \
  template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>    \
  Val operator op(T a, Val b) {                                                \
    return literal(b, a) op b;                                                 \
  }
QLM_KERNEL_OPERATOR(+)
QLM_KERNEL_OPERATOR(-)
QLM_KERNEL_OPERATOR(*)
QLM_KERNEL_OPERATOR(/)
QLM_KERNEL_OPERATOR(%)
QLM_KERNEL_OPERATOR(&)
QLM_KERNEL_OPERATOR(|)
QLM_KERNEL_OPERATOR(^)
QLM_KERNEL_OPERATOR(<<)
QLM_KERNEL_OPERATOR(>>)
QLM_KERNEL_OPERATOR(<)
QLM_KERNEL_OPERATOR(<=)
QLM_KERNEL_OPERATOR(>)
QLM_KERNEL_OPERATOR(>=)
QLM_KERNEL_OPERATOR(==)
QLM_KERNEL_OPERATOR(!=)
#undef QLM_KERNEL_OPERATOR

/// An address. Loads and stores say their alignment in bytes; 0 stands for
/// the size of one element.
class Ptr {
public:
  Ptr() = default;
  Ptr(Value base, KernelBuilder *builder, bool invariant = false)
      : base(base), builder(builder), invariant(invariant) {}

  Value get() const { return base; }
  KernelBuilder *getBuilder() const { return builder; }
  explicit operator bool() const { return static_cast<bool>(base); }

  /// The address \p bytes further.
  Ptr at(Val bytes) const;
  Ptr at(int64_t bytes) const;
  /// The address of element \p index of an array of \p elementType.
  Ptr element(Type elementType, Val index) const;

  /// Loads a scalar or vector.
  Val load(Type type, int64_t alignment = 0) const;
  /// Loads the lanes whose bit in \p mask is set; the others are zero.
  Val loadMasked(VectorType type, Val mask, int64_t alignment = 0) const;
  void store(Val value, int64_t alignment = 0) const;
  void storeMasked(Val value, Val mask, int64_t alignment = 0) const;
  /// Stores the lanes whose bit in \p mask is set, one beside the other.
  void storeCompressed(Val value, Val mask) const;
  /// Asks for the cache line at this address, for reading, in all levels.
  void prefetch() const;

  /// The same address, with the promise that nothing writes the memory while
  /// the kernel runs: the optimizer may move and merge its loads.
  Ptr readOnly() const { return Ptr(base, builder, /*invariant=*/true); }

private:
  Value base;
  KernelBuilder *builder = nullptr;
  bool invariant = false;
};

/// Emits operations at an insertion point.
class KernelBuilder : public OpBuilder {
public:
  KernelBuilder(MLIRContext *context, Location loc)
      : OpBuilder(context), loc(loc) {}

  Location getLoc() const { return loc; }
  void setLoc(Location newLoc) { loc = newLoc; }
  Val val(Value value) { return Val(value, this); }
  /// Whether the machine rounds f32 to bf16 in one instruction (GPUs do);
  /// `fromF32` spells it out in integers otherwise.
  void setNativeBFloat16(bool native) { nativeBFloat16 = native; }

  // Types.
  Type f32() { return getF32Type(); }
  Type f16() { return getF16Type(); }
  Type bf16() { return getBF16Type(); }
  Type i1() { return getI1Type(); }
  Type i8() { return getI8Type(); }
  Type i16() { return getIntegerType(16); }
  Type i32() { return getI32Type(); }
  Type i64() { return getI64Type(); }
  Type ptr() { return LLVM::LLVMPointerType::get(getContext()); }
  VectorType vec(int64_t lanes, Type element) {
    return VectorType::get({lanes}, element);
  }

  // Constants. Of a vector type: a splat. Integers keep the low bits that
  // their type has.
  Val constant(Type type, int64_t number);
  Val constant(Type type, double number);
  Val index(int64_t number) { return constant(i64(), number); }
  Val zero(Type type);
  /// A vector of float constants.
  Val table(ArrayRef<float> values);
  /// A vector of integer constants of \p elementType.
  Val table(Type elementType, ArrayRef<int64_t> values);
  /// Mask whose first \p count of \p lanes lanes are set.
  Val firstLanes(int64_t lanes, int64_t count);
  /// The same for a run-time count (i64).
  Val firstLanes(int64_t lanes, Val count);

  // Arithmetic.
  /// a * b + c, rounded once.
  Val fma(Val a, Val b, Val c);
  /// Signed integer minimum, maximum; of floats, NaN loses (llvm.minnum).
  Val min(Val a, Val b);
  Val max(Val a, Val b);
  Val abs(Val a);
  Val sqrt(Val a);
  /// Rounds floats to integers, halves to even.
  Val roundEven(Val a);
  /// Arithmetic shift (the sign enters).
  Val shiftRightSigned(Val a, int64_t bits);
  /// e^x of f32, relative error below 2e-7; 0 below -87.3, infinity above
  /// 88.72; NaN stays.
  Val exp(Val x);
  Val select(Val condition, Val yes, Val no);

  // Conversions; \p type is the element type, the lanes stay.
  Val bitcast(Val value, Type type);
  Val extendSigned(Val value, Type element);
  Val extendUnsigned(Val value, Type element);
  Val truncate(Val value, Type element);
  /// Signed integer to float.
  Val toFloat(Val value, Type element);
  /// Float to signed integer, towards zero; the value fits.
  Val toInteger(Val value, Type element);
  /// f32 of f16, bf16 or f32 values, exact.
  Val toF32(Val value);
  /// f16 or bf16 of f32 values, half to even; NaN stays NaN.
  Val fromF32(Val value, Type element);

  // Vectors.
  /// The scalar in all lanes.
  Val broadcast(Val scalar, int64_t lanes);
  /// Lanes picked from the concatenation of \p a and \p b.
  Val shuffle(Val a, Val b, ArrayRef<int64_t> lanes);
  /// Lanes [first, first + count) of \p value.
  Val slice(Val value, int64_t first, int64_t count);
  Val concat(Val a, Val b);
  Val insert(Val vector, Val scalar, int64_t lane);
  /// Sum of the lanes, by halves: lane i + lane i + lanes/2, and so on. The
  /// order is fixed.
  Val reduceSum(Val vector);
  Val reduceMax(Val vector);
  /// How many lanes of a mask are set, i64.
  Val countLanes(Val mask);

  // Control flow.
  /// for (i = lo; i < hi; i += step) body(i)
  void forRange(Val lo, Val hi, int64_t step, function_ref<void(Val)> body);
  /// The same with values carried from one iteration to the next; gives their
  /// last values.
  SmallVector<Val>
  forRange(Val lo, Val hi, int64_t step, ArrayRef<Val> init,
           function_ref<SmallVector<Val>(Val, ArrayRef<Val>)> body);
  /// while (condition(values)) values = body(values); gives the last values.
  SmallVector<Val>
  whileTrue(ArrayRef<Val> init, function_ref<Val(ArrayRef<Val>)> condition,
            function_ref<SmallVector<Val>(ArrayRef<Val>)> body);
  void ifThen(Val condition, function_ref<void()> then);
  void ifElse(Val condition, function_ref<void()> then,
              function_ref<void()> otherwise);
  /// Values of whichever branch runs.
  SmallVector<Val> ifElse(Val condition, function_ref<SmallVector<Val>()> then,
                          function_ref<SmallVector<Val>()> otherwise);

  /// Calls an LLVM intrinsic by its full name, e.g.
  /// "llvm.x86.avx512.vpdpbusd.512".
  Val intrinsic(StringRef name, Type result, ArrayRef<Val> arguments);
  /// The same without a result.
  void intrinsic(StringRef name, ArrayRef<Val> arguments);
  /// acc(i32) + sum of 4 products u8 * s8 in each i32 lane; \p acc is
  /// vector<16xi32>, the others vector<64xi8> (AVX512-VNNI), or half of that
  /// (AVX-VNNI).
  Val dotBytes(Val acc, Val unsignedBytes, Val signedBytes);
  /// Products of i16 pairs summed in i32 lanes (vpmaddwd): vectors of 16
  /// (AVX2) or 32 (AVX512BW) i16 give 8 or 16 i32.
  Val dotPairs(Val a, Val b);
  /// table[index mod 16] of 16 floats (vpermps; needs AVX512F).
  Val lookup(Val table, Val index);

private:
  Location loc;
  bool nativeBFloat16 = false;
};

/// Makes an empty kernel: `func.func @name` with the arguments of
/// ::qlm::format::KernelFunction, and a return.
func::FuncOp createKernelFunction(ModuleOp kernels, StringRef name);

/// The body of a kernel: its arguments, and a builder before the return.
class KernelFrame {
public:
  /// Enters \p function (as createKernelFunction makes it) and loads the
  /// addresses of its first \p count buffers.
  KernelFrame(func::FuncOp function, int64_t count);

  KernelBuilder &builder() { return b; }
  Ptr buffer(int64_t index) const { return buffers[index]; }
  /// A size of the step (i64); `one` is 1. Loaded at the current place.
  Val size(SizeKind kind);
  /// Row stride of the block tables, in entries (i64).
  Val maxPagesPerSequence();
  /// The launch's tiles lo .. hi - 1 (i64).
  Val lo() { return b.val(function.getArgument(2)); }
  Val hi() { return b.val(function.getArgument(3)); }
  /// Memory private to the thread, 64-byte aligned.
  Ptr scratch() { return Ptr(function.getArgument(4), &b); }

private:
  func::FuncOp function;
  KernelBuilder b;
  SmallVector<Ptr> buffers;
};

} // namespace mlir::qlm::kernel

#endif // QLM_LOWER_KERNEL_BUILDER_H
