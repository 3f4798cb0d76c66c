//===- Gemm.h - Linears of many rows on sm_90a ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// y^T = w * x^T with wgmma: 128 features by up to 256 rows of x a thread
// block, or 256 by up to 128. The weights are the left operand in registers,
// whatever their format: a lane loads its 16 bytes of a line, unpacks (and
// scales) them, and multiplies; x is the right operand in shared memory.
//
//                    rows of x ("tokens"), 16 to 256
//                  +----------------------+
//   64 features    | consumer warpgroup 0 |     each warp: one block of
//                  +----------------------+     16 features
//   64 features    | consumer warpgroup 1 |
//                  +----------------------+
//
// With many rows a warp takes two blocks, 128 features apart: tiles of 256
// features by up to 128 rows read x half as often.
//
// A producer warpgroup fills a ring of stages by cp.async: two warps copy
// weights (they need no swizzle, being registers already), and don't wait for
// the kernel before this one; two copy x in rows of 128 bytes with the 128-byte
// swizzle, so x keeps its plain row-major order in memory. The copy engine
// takes weights whose blocks have 2 KiB a stage: it starts a copy in some 30
// ns, whatever its length, and 32 short ones a stage were what bounded int4
// (benchmarks/results/2026-11-29-cuda-copies.md).
//
// Consumers unpack a chunk (two or four steps of 16 columns) while the one
// before is multiplied:
//
//   products   | chunk 0 | chunk 1 | chunk 2 |      wait until chunk i - 1 is
//   unpacking       | 1 |     | 2 |     | 3 |       complete, unpack i + 1
//
// Where tiles don't fill the machine's multiprocessors evenly, thread blocks
// share them stage by stage (GemmSpans.cpp). Batch-invariant kernels of few
// rows split a tile's columns among `split` thread blocks instead, whatever the
// number of rows: a cluster, each of which adds a part of the partial sums of
// all, in the order of the ranks, out of the others' shared memory.
//
// Order of sums: tensor core order within 16 (or 32) columns, columns
// ascending, then ranks ascending; of spans, the tile's tail first, then its
// parts in ascending order. It depends on the plan, which the rows' bucket
// chooses, and where spans are cut also on the number of tiles of rows.
//
// x rows must be multiples of 16 bytes; other shapes take the simple kernel.
// Tested and timed by benchmarks/kernels/cuda.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_GEMM_H
#define QLM_LIB_LOWER_CUDA_GEMM_H

#include "LinearShape.h"

namespace mlir::qlm::cuda {

/// Bytes of a row of x in shared memory: one swizzled line.
inline constexpr int64_t kAtomBytes = 128;

struct GemmPlan {
  int64_t tokens = 0; ///< rows of x of a tile: a multiple of 16
  /// Blocks of features a warp: two for many rows of two-byte inputs.
  int64_t warpBlocks = 1;
  int64_t split = 1; ///< thread blocks of a cluster that share the columns
  int64_t atoms = 1; ///< pieces of 128 bytes of a row of x in a stage
  int64_t stageColumns = 0;
  int64_t stages = 0; ///< of the ring
  int64_t steps = 0;  ///< stages that cover all columns
  /// Steps of the tensor cores whose operands are unpacked together, while
  /// those before them are multiplied.
  int64_t chunkSteps = 0;
  bool shareMultiprocessor = false; ///< two thread blocks on each
  /// Thread blocks that share all stages of all tiles; 0: a block (or cluster)
  /// for each tile.
  int64_t spans = 0;
  int64_t outgoingRows = 0; ///< rows of y on their way out at once
  // Bytes of a stage's parts, and offsets in shared memory.
  int64_t inputBytes = 0, codeBytes = 0, scaleBytes = 0, zeroBytes = 0;
  int64_t stageBytes = 0, barriers = 0, tables = 0, outgoing = 0,
          sharedBytes = 0;

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
    if (spans)
      return spans;
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
    return 2 * outgoingRows * tilePitch(shape);
  }
  /// Bytes of a thread block's part of a tile's sums, in the workspace.
  int64_t partBytes() const { return warpBlocks * kFeatures * tokens * 4; }
  /// Bytes of the workspace behind its zeros; 0 without a workspace.
  int64_t scratchBytes() const { return spans * partBytes(); }

  /// Whether the copy engine copies weights: lines of a block are long enough.
  bool bulkCopies(const LinearShape &shape) const {
    return !shape.grouped() && codeBytes / tileBlocks() >= 2048;
  }

  /// Registers that the warpgroups take of 65,536: of one block a
  /// multiprocessor, or of two.
  int64_t producerRegisters() const { return shareMultiprocessor ? 48 : 56; }
  int64_t consumerRegisters() const { return shareMultiprocessor ? 96 : 224; }

  static bool serves(const LinearShape &shape);
  /// What a caller wants of a plan; 0 to choose.
  struct Wish {
    int64_t tokens = 0, split = 0, warpBlocks = 0, atoms = 0, chunkSteps = 0,
            spans = 0;
    bool mayShare = true; ///< thread blocks may share tiles
    bool isAlone = false; ///< one thread block a multiprocessor
  };
  /// The plan for up to \p rows rows.
  static GemmPlan get(const LinearShape &shape, int64_t rows,
                      int64_t multiprocessors, const Wish &wish);

private:
  void chooseTile(const LinearShape &shape, int64_t rows,
                  int64_t multiprocessors, bool mayShare);
  int64_t countSpans(const LinearShape &shape, int64_t tiles,
                     int64_t multiprocessors) const;
  void setStage(const LinearShape &shape);
  void layOut(const LinearShape &shape);
};

/// Writes the body of a GEMM of `kThreads` threads.
void emitGemm(kernel::GpuKernelFrame &frame, const LinearShape &shape,
              const GemmPlan &plan, const LinearBuffers &buffers);

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_GEMM_H
