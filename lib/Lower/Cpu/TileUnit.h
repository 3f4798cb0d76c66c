//===- TileUnit.h - Matrix registers of bf16 --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// AMX's registers ("tiles") are 16 rows of 64 bytes. `multiply` adds to a tile
// of 16 x 16 f32 sums
//
//   sums[i, j] += sum over k < 32 of a[i, k] * b[k, j]
//
// with a as 16 rows of 32 bf16, and b as 16 rows of 16 pairs: b[2 p + e, j] is
// element e of pair j of row p. Each row of the sums depends on its own row of
// a alone, and its order of additions on nothing.
//
// Machines without AMX can run the same code on tiles in memory, far slower:
// tests do.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_TILEUNIT_H
#define QLM_LIB_LOWER_CPU_TILEUNIT_H

#include "qlm/Lower/Cpu/Target.h"
#include "qlm/Lower/Kernel/Builder.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace mlir::qlm::cpu {

/// Rows of a tile, and bytes of a row.
inline constexpr int64_t kTileRows = 16, kTileBytes = 64;
inline constexpr int64_t kTileSize = kTileRows * kTileBytes;
/// f32 columns of a tile, and what one multiplication sums over.
inline constexpr int64_t kTileColumns = 16, kTileDepth = 32;

class TileUnit {
public:
  /// Emits into \p function by \p b.
  TileUnit(kernel::KernelBuilder &b, func::FuncOp function,
           const Target &target)
      : b(b), function(function), inMemory(target.tilesInMemory) {}

  kernel::Val zero();
  /// Rows that are \p stride bytes apart.
  kernel::Val load(kernel::Ptr from, int64_t stride);
  void store(kernel::Val tile, kernel::Ptr to, int64_t stride);
  /// The sums, which mustn't be used again, with the products added.
  kernel::Val multiply(kernel::Val sums, kernel::Val a, kernel::Val b);

private:
  /// A tile in memory, at the function's beginning.
  kernel::Ptr makeTile();
  void call(StringRef name, ArrayRef<kernel::Val> arguments,
            function_ref<void(ArrayRef<kernel::Val>)> body);
  void copyRows(kernel::Val to, kernel::Val toStride, kernel::Val from,
                kernel::Val fromStride);
  void emitProducts(ArrayRef<kernel::Val> tiles);

  kernel::KernelBuilder &b;
  func::FuncOp function;
  bool inMemory;
};

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_TILEUNIT_H
