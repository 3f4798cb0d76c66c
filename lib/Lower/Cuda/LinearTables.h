//===- LinearTables.h - Tables that some weights need -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// NF4 codes are looked up two at a time: entry l + 16 h of the table of pairs
// is f16(table[l]), f16(table[h]) in a word, the tensor cores' register. Each
// pair stands `copies` times in a row, and lane i reads copy i % copies:
//
//   bank     0 .. 15        16 .. 31
//          | pair 0 x 16  | pair 1 x 16  |
//          | pair 2 x 16  | pair 3 x 16  |   ...   16 KiB
//
// With 16 copies two lanes meet in a bank half of the time; with 32 (32 KiB)
// none do. A line of 64 columns takes 16 lookups a lane, so that is what bounds
// a GEMV with 16: 667 lines a multiprocessor of a 22016 x 4096 linear are
// 10,700 cycles of lookups without conflicts, and 10 us are its bytes.
// By arithmetic alone (byte permutations, which run at half of the rate) a word
// of 8 codes takes 21 instructions, with the table 12 and 4 lookups; with rows
// of 256 bytes, 32 copies in each, 8 and 4 lookups (LinearTables::lookUpBytes).
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
  /// Copies of a pair of NF4 values.
  static constexpr int64_t kFewCopies = 16, kAllCopies = kWarp;
  /// As many as fill 256 bytes a pair: places for those that no lane reads.
  static constexpr int64_t kByteCopies = 64;

  /// Shared memory that \p shape's tables take, in whole 128 bytes.
  static int64_t bytes(const LinearShape &shape, int64_t copies);

  LinearTables(kernel::GpuKernelFrame &frame, const LinearShape &shape,
               const LinearBuffers &buffers, kernel::Ptr place, int64_t copies)
      : frame(frame), b(frame.builder()), shape(shape), buffers(buffers),
        place(place), copies(copies) {}

  /// Writes the tables; all threads of the block do, and meet in a barrier
  /// before they read.
  void fill();
  /// The registers of 8 NF4 codes in a word: register j has those at bits 4 j
  /// (the lower half) and 16 + 4 j.
  SmallVector<kernel::Val> lookUp(kernel::Val word);
  /// What the scale of group \p group (i32) of row \p feature (i32) of w
  /// shares with others (f32); null without double quantization.
  kernel::Val common(kernel::Val feature, kernel::Val group);
  /// The scale (f32) that is stored at \p stored, from what it shares.
  kernel::Val scale(kernel::Ptr stored, kernel::Val common);

private:
  void fillPairs();
  SmallVector<kernel::Val> lookUpBytes(kernel::Val word);

  kernel::GpuKernelFrame &frame;
  kernel::KernelBuilder &b;
  const LinearShape &shape;
  const LinearBuffers &buffers;
  kernel::Ptr place;
  int64_t copies;
  kernel::Val laneByte; ///< of the lane's copy
  kernel::Val offset;   ///< of doubly quantized scales
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_LINEARTABLES_H
