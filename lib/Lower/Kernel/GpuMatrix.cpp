//===- GpuMatrix.cpp - Matrix instructions of a GPU kernel ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Kernel/GpuMatrix.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

static std::string typeName(MatrixType type) {
  switch (type) {
  case MatrixType::F16:
    return "f16";
  case MatrixType::BF16:
    return "bf16";
  case MatrixType::S8:
    return "s8";
  case MatrixType::E4M3:
    return "e4m3";
  }
  llvm_unreachable("all types are covered");
}

static std::string sumName(MatrixType type) {
  return type == MatrixType::S8 ? "s32" : "f32";
}

static Type structOf(Type element, int64_t count) {
  return LLVM::LLVMStructType::getLiteral(element.getContext(),
                                          SmallVector<Type>(count, element));
}

static SmallVector<Val> unpackStruct(KernelBuilder &b, Value packed,
                                     int64_t count) {
  SmallVector<Val> values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(
        b.val(LLVM::ExtractValueOp::create(b, b.getLoc(), packed, i)));
  return values;
}

/// "{$first, ..., $last}" of \p count operands.
static std::string registerList(int64_t first, int64_t count) {
  std::string text = "{";
  for (int64_t i = 0; i < count; ++i)
    text += (i ? ", $" : "$") + std::to_string(first + i);
  return text + "}";
}

//===----------------------------------------------------------------------===//
// Warps
//===----------------------------------------------------------------------===//

SmallVector<Val> kernel::warpMultiply(MatrixType type, ArrayRef<Val> d,
                                      ArrayRef<Val> a, ArrayRef<Val> b) {
  KernelBuilder &builder = *d[0].getBuilder();
  bool integer = type == MatrixType::S8;
  std::string in = typeName(type), sum = sumName(type);
  std::string text = "mma.sync.aligned.m16n8k" +
                     std::to_string(matrixColumns(type)) + ".row.col." + sum +
                     "." + in + "." + in + "." + sum +
                     " {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, "
                     "{$10, $11, $12, $13};";
  SmallVector<Val> operands(a);
  operands.append(b.begin(), b.end());
  operands.append(d.begin(), d.end());
  Value result = inlinePtx(builder, structOf(d[0].type(), 4), text,
                           integer ? "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r,r"
                                   : "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
                           operands, /*effects=*/false);
  return unpackStruct(builder, result, 4);
}

SmallVector<Val> kernel::loadMatrices(Ptr row, bool transposed) {
  KernelBuilder &b = *row.getBuilder();
  std::string text = "ldmatrix.sync.aligned.m8n8.x4" +
                     std::string(transposed ? ".trans" : "") +
                     ".shared.b16 {$0, $1, $2, $3}, [$4];";
  Value result = inlinePtx(b, structOf(b.i32(), 4), text, "=r,=r,=r,=r,r",
                           {sharedAddress(b, row)}, /*effects=*/true);
  return unpackStruct(b, result, 4);
}

//===----------------------------------------------------------------------===//
// Warpgroups
//===----------------------------------------------------------------------===//

Val kernel::swizzledDescriptor(KernelBuilder &b, Val address) {
  // Address and offsets are in units of 16 bytes: groups of 8 rows follow each
  // other after 1024 bytes; bits 62-63 choose the 128-byte swizzle.
  constexpr int64_t kSwizzle128 = int64_t(1) << 62;
  constexpr int64_t kStrideOf8Rows = int64_t(1024 >> 4) << 32;
  constexpr int64_t kLeadingUnused = int64_t(1) << 16;
  Val start = b.extendUnsigned((address >> 4) & 0x3FFF, b.i64());
  return start | (kSwizzle128 | kStrideOf8Rows | kLeadingUnused);
}

Type Wgmma::sumType() { return type == MatrixType::S8 ? b.i32() : b.f32(); }

Type Wgmma::structType() { return structOf(sumType(), count()); }

Val Wgmma::zero() {
  Value all = LLVM::UndefOp::create(b, b.getLoc(), structType());
  Value none = b.zero(sumType()).get();
  for (int64_t i = 0; i < count(); ++i)
    all = LLVM::InsertValueOp::create(b, b.getLoc(), all, none, i);
  return b.val(all);
}

Val Wgmma::element(Val sums, int64_t index) {
  return b.val(LLVM::ExtractValueOp::create(b, b.getLoc(), sums.get(), index));
}

Val Wgmma::pack(ArrayRef<Val> numbers) {
  Value all = LLVM::UndefOp::create(b, b.getLoc(), structType());
  for (auto [i, number] : llvm::enumerate(numbers))
    all = LLVM::InsertValueOp::create(b, b.getLoc(), all, number.get(), i);
  return b.val(all);
}

Val Wgmma::emit(Val sums, ArrayRef<Val> operands, const std::string &a,
                const std::string &aConstraints, bool aShared,
                bool transposed) {
  // The sums are outputs, and inputs tied to them; what follows them starts at
  // operand 2 * count().
  std::string in = typeName(type);
  bool half = type == MatrixType::F16 || type == MatrixType::BF16;
  std::string tail = type == MatrixType::S8 ? ", p" : ", p, 1, 1";
  if (half)
    tail += std::string(aShared ? ", 0" : "") + (transposed ? ", 1" : ", 0");
  std::string text =
      "{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" +
      std::to_string(columns) + "k" + std::to_string(matrixColumns(type)) +
      "." + sumName(type) + "." + in + "." + in + " " +
      registerList(0, count()) + ", " + a + ", $" +
      std::to_string(2 * count() + static_cast<int64_t>(operands.size()) - 1) +
      tail + "; }";
  std::string constraints;
  for (int64_t i = 0; i < count(); ++i)
    constraints += type == MatrixType::S8 ? "=r," : "=f,";
  for (int64_t i = 0; i < count(); ++i)
    constraints += std::to_string(i) + ",";
  constraints += aConstraints + "l";
  SmallVector<Val> all = unpackStruct(b, sums.get(), count());
  all.append(operands.begin(), operands.end());
  return b.val(
      inlinePtx(b, structType(), text, constraints, all, /*effects=*/true));
}

Val Wgmma::multiply(Val sums, ArrayRef<Val> a, Val tile, bool transposed) {
  SmallVector<Val> operands(a);
  operands.push_back(tile);
  return emit(sums, operands, registerList(2 * count(), 4), "r,r,r,r,",
              /*aShared=*/false, transposed);
}

Val Wgmma::multiplyShared(Val sums, Val aTile, Val tile, bool transposed) {
  return emit(sums, {aTile, tile}, "$" + std::to_string(2 * count()), "l,",
              /*aShared=*/true, transposed);
}

void Wgmma::fence(KernelBuilder &b) {
  inlinePtx(b, Type(), "wgmma.fence.sync.aligned;", "", {}, /*effects=*/true);
}

void Wgmma::commit(KernelBuilder &b) {
  inlinePtx(b, Type(), "wgmma.commit_group.sync.aligned;", "", {},
            /*effects=*/true);
}

void Wgmma::wait(KernelBuilder &b, int64_t pending) {
  inlinePtx(b, Type(),
            "wgmma.wait_group.sync.aligned " + std::to_string(pending) + ";",
            "", {}, /*effects=*/true);
}

Val Wgmma::wait(Val sums, int64_t pending) {
  std::string constraints;
  for (int64_t i = 0; i < count(); ++i)
    constraints += type == MatrixType::S8 ? "=r," : "=f,";
  for (int64_t i = 0; i < count(); ++i)
    constraints += (i ? "," : "") + std::to_string(i);
  return b.val(inlinePtx(b, structType(),
                         "wgmma.wait_group.sync.aligned " +
                             std::to_string(pending) + ";",
                         constraints, unpackStruct(b, sums.get(), count()),
                         /*effects=*/true));
}

//===----------------------------------------------------------------------===//
// Bits
//===----------------------------------------------------------------------===//

Val kernel::andOr(Val a, Val b, Val c) {
  // The lookup table of (a & b) | c.
  KernelBuilder &builder = *a.getBuilder();
  return builder.val(inlinePtx(builder, builder.i32(),
                               "lop3.b32 $0, $1, $2, $3, 0xEA;", "=r,r,r,r",
                               {a, b, c}, /*effects=*/false));
}

Val kernel::permuteBytes(Val low, Val high, Val selector) {
  KernelBuilder &b = *low.getBuilder();
  return b.val(inlinePtx(b, b.i32(), "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r",
                         {low, high, selector}, /*effects=*/false));
}
