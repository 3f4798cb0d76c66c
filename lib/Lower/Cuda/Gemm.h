//===- Gemm.h - Linears of many rows on sm_90a ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// y^T = w * x^T with wgmma: 128 features by up to 256 rows of x a thread
// block, or 256 by 128. The weights are the left operand in registers, whatever
// their format: a lane loads its 16 bytes of a line, unpacks (and scales) them,
// and multiplies; x is the right operand in shared memory.
//
//                    rows of x ("tokens"), 16 to 256
//                  +----------------------+
//   64 features    | consumer warpgroup 0 |     each warp: one block of
//                  +----------------------+     16 features
//   64 features    | consumer warpgroup 1 |
//                  +----------------------+
//
// With many rows a warp takes two blocks, 128 features apart: tiles of 256
// features by 128 rows read x half as often.
//
// A producer warpgroup fills a ring of stages: weights by bulk copies of whole
// lines (they need no swizzle, being registers already), before the kernel
// waits for the one before it; x by cp.async in rows of 128 bytes with the
// 128-byte swizzle, so x keeps its plain row-major order in memory.
//
// With few rows, `split` thread blocks share the columns of a tile: they form
// a cluster, and each adds a part of the partial sums of all, in the order of
// the ranks, out of the others' shared memory.
//
// Order of sums: tensor core order within 16 (or 32) columns, columns
// ascending, then ranks ascending. It doesn't depend on the number of rows,
// but on the plan, which the rows' bucket chooses.
//
// x rows must be multiples of 16 bytes; other shapes take the simple kernel.
// Tested and timed by benchmarks/kernels/cuda.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_GEMM_H
#define QLM_LIB_LOWER_CUDA_GEMM_H

#include "LinearShape.h"

namespace mlir::qlm::cuda {

struct GemmPlan {
  int64_t tokens = 0; ///< rows of x of a tile: a multiple of 16
  /// Blocks of features a warp: two for many rows of two-byte inputs.
  int64_t warpBlocks = 1;
  int64_t split = 1; ///< thread blocks of a cluster that share the columns
  int64_t atoms = 1; ///< pieces of 128 bytes of a row of x in a stage
  int64_t stageColumns = 0;
  int64_t stages = 0;               ///< of the ring
  int64_t steps = 0;                ///< stages that cover all columns
  bool shareMultiprocessor = false; ///< two thread blocks on each
  // Bytes of a stage's parts, and offsets in shared memory.
  int64_t inputBytes = 0, codeBytes = 0, scaleBytes = 0, zeroBytes = 0;
  int64_t stageBytes = 0, barriers = 0, tables = 0, sharedBytes = 0;

  /// Features of y that the warps' blocks number h make together; a tile has
  /// warpBlocks times as many.
  static constexpr int64_t kFeatures = 128;
  static constexpr int64_t kTileBlocks = kFeatures / kBlockRows;
  static constexpr int64_t kWarpgroup = 128;
  static constexpr int64_t kConsumers = 2 * kWarpgroup;
  static constexpr int64_t kThreads = kConsumers + kWarpgroup;

  /// Blocks of features of a tile.
  int64_t tileBlocks() const { return kTileBlocks * warpBlocks; }
  int64_t featureTiles(const LinearShape &shape) const {
    return llvm::divideCeil(shape.blocks(), tileBlocks());
  }
  /// Thread blocks for \p rows rows.
  int64_t grid(const LinearShape &shape, int64_t rows) const {
    return featureTiles(shape) * split * llvm::divideCeil(rows, tokens);
  }

  /// Features of y of a warpgroup.
  static int64_t tileFeatures(const LinearShape &shape) {
    return shape.swiglu ? 32 : 64;
  }
  /// Bytes of an element of y on its way out: outliers are added to f32.
  static int64_t tileBytes(const LinearShape &shape) {
    return shape.outliers ? 4 : shape.outputBytes();
  }
  /// Bytes of a row of a warpgroup's part of y on its way out; the padding
  /// spreads rows over the banks.
  static int64_t tilePitch(const LinearShape &shape) {
    return tileFeatures(shape) * tileBytes(shape) + 16;
  }

  /// Bytes of kFeatures features of y on their way out.
  int64_t outgoingBytes(const LinearShape &shape) const {
    return 2 * tokens * tilePitch(shape);
  }

  /// Whether products, not copies, take the time.
  bool takesTurns() const { return tokens * warpBlocks >= 128; }

  static bool serves(const LinearShape &shape);
  /// The plan for up to \p rows rows. \p tokens, \p split, \p warpBlocks: 0
  /// to choose.
  static GemmPlan get(const LinearShape &shape, int64_t rows,
                      int64_t multiprocessors, int64_t tokens = 0,
                      int64_t split = 0, int64_t warpBlocks = 0);
};

/// Writes the body of a GEMM of `kThreads` threads.
void emitGemm(kernel::GpuKernelFrame &frame, const LinearShape &shape,
              const GemmPlan &plan, const LinearBuffers &buffers);

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_GEMM_H
