//===- LinearTables.h - Tables that some weights need -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// NF4 codes are looked up two at a time: entry l + 16 h of the table of pairs
// is f16(table[l]), f16(table[h]) in a word, the tensor cores' register. Each
// pair stands 16 times in a row, and lane i reads copy i % 16:
//
//   bank     0 .. 15        16 .. 31
//          | pair 0 x 16  | pair 1 x 16  |
//          | pair 2 x 16  | pair 3 x 16  |   ...   16 KiB
//
// so that only two lanes can meet in a bank, and do half of the time. By
// arithmetic alone (byte permutations) a pair takes twice as many instructions.
//
// Scales of double quantization are codes themselves:
// scale = map[code] * absmax[index / 256] + offset, where index counts the
// scales of the whole matrix. The map is the other table.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_LINEARTABLES_H
#define QLM_LIB_LOWER_CUDA_LINEARTABLES_H

#include "LinearShape.h"

namespace mlir::qlm::cuda {

/// The tables of one block of threads, in shared memory.
class LinearTables {
public:
  /// Shared memory that \p shape's tables take, in whole 128 bytes.
  static int64_t bytes(const LinearShape &shape);

  LinearTables(kernel::GpuKernelFrame &frame, const LinearShape &shape,
               const LinearBuffers &buffers, kernel::Ptr place)
      : frame(frame), b(frame.builder()), shape(shape), buffers(buffers),
        place(place) {}

  /// Writes the tables; all threads of the block do, and meet in a barrier
  /// before they read.
  void fill();
  /// The pair of NF4 values for codes at bits 6 to 9 (the lower half) and 10
  /// to 13 of \p bits (i32); other bits don't matter.
  kernel::Val pair(kernel::Val bits);
  /// The scale (f32) that is stored at \p stored, of group \p group (i32) of
  /// row \p feature (i32) of w.
  kernel::Val scale(kernel::Ptr stored, kernel::Val feature, kernel::Val group);

private:
  kernel::GpuKernelFrame &frame;
  kernel::KernelBuilder &b;
  const LinearShape &shape;
  const LinearBuffers &buffers;
  kernel::Ptr place;
  kernel::Ptr lanePairs; ///< the lane's copies
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_LINEARTABLES_H
