//===- GpuMatrix.h - Matrix instructions of a GPU kernel --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// mma.sync (a warp's product, sm_80) and wgmma (a warpgroup's, sm_90a). Both
// give lane l of a warp, with r = l / 4 and q = l % 4, the same parts:
//
//   A, 16 rows x 16 columns of 16 bits: four registers of two values:
//        (r, 2q..2q+1) (r+8, 2q..) (r, 2q+8..) (r+8, 2q+8..)
//     or 16 rows x 32 columns of 8 bits: four registers of four values:
//        (r, 4q..4q+3) (r+8, 4q..) (r, 4q+16..) (r+8, 4q+16..)
//   B, 16 (or 32) rows k x 8 columns n, mma.sync only: two registers:
//        n = r, k = 2q..2q+1 and 2q+8..2q+9 (or 4q..4q+3 and 4q+16..)
//   D, 16 rows x 8 columns: four f32 or i32:
//        (r, 2q) (r, 2q+1) (r+8, 2q) (r+8, 2q+1)
//
// Warp w of a warpgroup has rows 16w .. 16w+15 of wgmma's 64, and D's n / 8
// blocks of 8 columns follow one another.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_KERNEL_GPUMATRIX_H
#define QLM_LOWER_KERNEL_GPUMATRIX_H

#include "qlm/Lower/Kernel/GpuAsync.h"

namespace mlir::qlm::kernel {

/// Element types of both operands; sums are f32, or i32 of int8.
enum class MatrixType { F16, BF16, S8, E4M3 };

/// Columns of one instruction (K): 16 or 32.
constexpr int64_t matrixColumns(MatrixType type) {
  return type == MatrixType::F16 || type == MatrixType::BF16 ? 16 : 32;
}

/// D + A * B of one warp, m16n8; \p a are four i32, \p b two, \p d four sums.
/// E4M3 needs sm_89.
SmallVector<Val> warpMultiply(MatrixType type, ArrayRef<Val> d, ArrayRef<Val> a,
                              ArrayRef<Val> b);

/// Loads four 8 x 8 matrices of 16 bits (ldmatrix): lane l gives the address
/// of row l % 8 of matrix l / 8, and gets two neighbours of row l / 4 of each.
SmallVector<Val> loadMatrices(Ptr row, bool transposed = false);

/// The descriptor (i64) of a tile of rows of 128 bytes in shared memory with
/// 128-byte swizzle: the 16-byte piece p of row r stands at piece p ^ (r % 8).
/// \p address (sharedAddress) is a multiple of 1024. Adding `bytes >> 4` moves
/// along a row.
Val swizzledDescriptor(KernelBuilder &b, Val address);

/// Products of a warpgroup: 64 rows by `columns` (a multiple of 8 up to 256).
class Wgmma {
public:
  Wgmma(KernelBuilder &b, MatrixType type, int64_t columns)
      : b(b), type(type), columns(columns) {}

  /// The sums of a lane, one value of a struct type: columns / 2 numbers.
  int64_t count() const { return columns / 2; }
  Val zero();
  Val element(Val sums, int64_t index);
  /// The inverse: \p numbers as one value.
  Val pack(ArrayRef<Val> numbers);

  /// sums + A * B, under way until `wait`. \p a are the lane's four registers,
  /// which stay untouched until then; \p tile describes B, columns x k,
  /// row-major in k unless \p transposed (16-bit types).
  Val multiply(Val sums, ArrayRef<Val> a, Val tile, bool transposed = false);
  /// The same with A in shared memory, row-major in k.
  Val multiplyShared(Val sums, Val aTile, Val tile, bool transposed = false);

  /// Orders registers and shared memory before the products that follow.
  static void fence(KernelBuilder &b);
  static void commit(KernelBuilder &b);
  /// Waits until at most \p pending committed groups are under way.
  static void wait(KernelBuilder &b, int64_t pending);
  /// The same; gives \p sums as they are after it, so that nothing that uses
  /// them moves before the wait.
  Val wait(Val sums, int64_t pending);

private:
  Type sumType();
  Type structType();
  Val emit(Val sums, ArrayRef<Val> operands, const std::string &a,
           const std::string &aConstraints, bool aShared, bool transposed);

  KernelBuilder &b;
  MatrixType type;
  int64_t columns;
};

/// (a & b) | c in one instruction.
Val andOr(Val a, Val b, Val c);
/// Bytes picked by the nibbles of \p selector from \p low (0-3) and \p high
/// (4-7); all i32.
Val permuteBytes(Val low, Val high, Val selector);

} // namespace mlir::qlm::kernel

#endif // QLM_LOWER_KERNEL_GPUMATRIX_H
