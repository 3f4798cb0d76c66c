//===- Gemv.h - Linears of a few rows on a GPU ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One to eight rows of x: the time is that of reading the weights. One block
// of threads a multiprocessor; each owns neighbouring blocks of 16 features
// and walks all columns of all of them in one pass.
//
//   columns -->   slot: 8 warps side by side, each `depth` lines
//              +----+----+----+----+----+----+----+----+
//   block 0    | w0 | w1 | w2 | w3 | w4 | w5 | w6 | w7 |  one bulk copy
//              +----+----+----+----+----+----+----+----+
//   block 1    | w0 | w1 | ...                            the next
//     ...
//
// Another warp fills a ring of slots with bulk copies, before the kernel waits
// for the one before it: the weights depend on nothing.
//
// x lies in shared memory so that ldmatrix gives the tensor cores' right
// operand (8 rows of x are its 8 columns). A warp copies its own columns there
// by cp.async, four rounds ahead, and waits for no other; it loads them once a
// round and uses them for all blocks.
//
// Where one thread block takes a multiprocessor, or sums are few, there are two
// teams of eight warps. Each has half of the blocks; both walk the same ring,
// and a slot belongs to one of them:
//
//   round 0: | blocks of team 0 | blocks of team 1 | round 1: | team 0 | ...
//
// A warp's sums stay in registers until the end, where the eight warps add
// theirs in a fixed order.
//
// Order of sums: a warp adds its columns in ascending order in f32 (a group's
// first, unscaled, then times the scale), then the eight warps in ascending
// order. Kernels for one or two rows give a warp twice as many neighbouring
// columns, so their order is another one than that of kernels for more.
//
// With pairDistance a thread block owns pairs of blocks; LinearPairs.h takes
// their sums.
//
// Registers: 4 sums a block (2 of one row in groups), so at most 14 blocks;
// with at most 96 registers and about 100 KiB of shared memory two kernels
// share a multiprocessor, and the next one's weights arrive while this one
// ends. Where groups and several rows need more registers, one block takes all:
// spilling 408 bytes cost a 22016 x 4096 linear of 8 rows 7 of 36 us. So does
// one that looks NF4 up, which takes more instructions than bytes allow: all
// warps that have room. 17 warps leave 96 registers each, being five on one
// of four schedulers; two blocks of 17 leave 56.
//
// Tested and timed by benchmarks/kernels/cuda.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_GEMV_H
#define QLM_LIB_LOWER_CUDA_GEMV_H

#include "LinearPairs.h"

namespace mlir::qlm::cuda {

/// How a GEMV is cut; see the picture above.
struct GemvPlan {
  int64_t maxRows = 1; ///< 1, 2, 4 or 8
  int64_t grid = 0;
  /// Groups of kColumnWarps warps that multiply: each has blocks of its own.
  int64_t teams = 1;
  int64_t teamBlocks = 0; ///< blocks of features of a team, at most
  int64_t blockCount = 0; ///< blocks of 16 features of a thread block, at most
  int64_t depth = 1;      ///< neighbouring lines of a warp in a slot
  int64_t rounds = 0;     ///< slots of a block of features
  int64_t slots = 0;
  int64_t tableCopies = 32; ///< of LinearTables
  /// The block takes the registers and shared memory of two.
  bool isAlone = false;
  // Bytes of a slot's parts, and offsets in shared memory.
  int64_t codeBytes = 0, slotScaleBytes = 0, slotZeroBytes = 0;
  int64_t slotBytes = 0, input = 0, sums = 0, barriers = 0, tables = 0,
          pairs = 0, outliers = 0, sharedBytes = 0;

  int64_t warpColumns(const LinearShape &shape) const {
    return depth * shape.lineColumns();
  }
  /// Thread blocks that a multiprocessor holds.
  int64_t residentBlocks() const {
    return !isAlone && sharedBytes <= kHalfShared ? 2 : 1;
  }
  /// Threads that share the outliers of a row for a feature; 0: each result's
  /// thread adds all of them at the end.
  int64_t outlierThreads(const LinearShape &shape) const {
    return shape.outliers ? consumers() / (features() * maxRows) : 0;
  }
  /// Features of a thread block, at most.
  int64_t features() const { return blockCount * kBlockRows; }
  /// The same, if every team had its most.
  int64_t sumFeatures() const { return teams * teamBlocks * kBlockRows; }
  /// Every slot is used once.
  bool fitsWhole() const { return slots >= rounds * blockCount; }

  int64_t warps() const { return teams * kColumnWarps; } ///< that multiply
  int64_t consumers() const { return warps() * kWarp; }  ///< their threads
  int64_t threads() const { return consumers() + kWarp; }

  /// Rows of x, the columns of a tensor core's result.
  static constexpr int64_t kMostRows = 8;
  /// Warps that share the columns of a block of features.
  static constexpr int64_t kColumnWarps = 8;
  /// Shared memory of a block of which a multiprocessor holds two. A block of a
  /// kernel for one row has no less, so that of each launch a multiprocessor
  /// takes one.
  static constexpr int64_t kHalfShared = 113 * 1024;

  /// Whether a GEMV serves \p shape with \p rows rows.
  static bool serves(const LinearShape &shape, int64_t rows);
  /// \p pairs: what takes the pairs of \p shape, if it has any.
  static GemvPlan get(const LinearShape &shape, int64_t rows,
                      int64_t multiprocessors,
                      const LinearPairs *pairs = nullptr);

private:
  int64_t inputBytes(const LinearShape &shape) const;
  int64_t tableBytes(const LinearShape &shape) const;
  void choose(const LinearShape &shape, int64_t multiprocessors);
  void layOut(const LinearShape &shape, const LinearPairs *linearPairs);
};

/// Writes the body of a GEMV of `plan.threads()` threads.
void emitGemv(kernel::GpuKernelFrame &frame, const LinearShape &shape,
              const GemvPlan &plan, const LinearBuffers &buffers,
              LinearPairs *pairs = nullptr);

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_GEMV_H
