//===- Attention.h - Kernels of qlm.paged_attention on CUDA -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_ATTENTION_H
#define QLM_LIB_LOWER_CUDA_ATTENTION_H

#include "AttentionShape.h"

namespace mlir::qlm::cuda {

/// What the kernels of attention read and write; sizes are i32.
struct AttentionBuffers {
  /// `query` and `result` are `[tokens, heads * headDim]`, `workspace` is
  /// there where the variant needs one.
  kernel::Ptr query, cache, positions, tokenSequences, blockTables, result,
      workspace;
  /// Dynamic shared memory, aligned to 1024 bytes.
  kernel::Ptr shared;
  kernel::Val tokens, sequences, maxPages;
};

/// How decoding attention cuts its work.
struct DecodePlan {
  /// Blocks that may share a token and KV head; a power of two up to 16.
  int64_t splits;
  /// How many share those of a short context; a power of two up to `splits`.
  int64_t fewest;
  int64_t warps;
  /// Chunks that bulk copies bring to shared memory ahead of their use; 0:
  /// warps load their keys and values straight from the pages.
  int64_t stages;
  /// Whether pages may be copied before the previous kernel has ended: where
  /// each sequence has one row, as only that row's key and value are new.
  bool isEarly;
  /// Whether the last block of a row and KV head watches the others' parts,
  /// which lie among the workspace's zeros, instead of counting them.
  bool isWatched;
  /// The most rows a step has (counters of a workspace).
  int64_t maxRows;
  /// Blocks of the grid for a row, blocksPerRow or more: see `spread`.
  int64_t gridPerRow;

  /// \p mostSplits: what few rows need to fill the machine; more rows lose
  /// less to combining with half of it.
  static constexpr int64_t kFewRows = 4, kSplitsOfFew = 16, kSplitsOfMany = 8;
  /// Blocks that fill the machine from kFewRows rows on, and the chunks that
  /// one block takes before another one helps it.
  static constexpr int64_t kBlocksOfMany = 32, kChunksOfBlock = 16;
  static DecodePlan get(const AttentionShape &shape, int64_t maxRows,
                        int64_t mostSplits);
  /// Whether a context's length decides how many blocks share it.
  bool isAdaptive() const { return fewest < splits; }
  /// Heads that a block computes, and blocks that the heads of a KV head take.
  static int64_t rows(const AttentionShape &shape);
  static int64_t tiles(const AttentionShape &shape);

  int64_t threads() const { return 32 * warps; }
  /// Blocks of one row.
  int64_t blocksPerRow(const AttentionShape &shape) const;
  /// Gives few rows blocks without work, so that each of \p processors has as
  /// many blocks as the others. A multiprocessor without one would take two of
  /// a dependent launch's, and that launch would last twice as long.
  void spread(const AttentionShape &shape, int64_t processors);
  /// Stages, or the warps' parts, which take their place.
  int64_t stageBytes(const AttentionShape &shape) const;
  int64_t sharedBytes(const AttentionShape &shape) const;
  /// Whether blocks have parts in the workspace; where they begin, and those
  /// of its bytes that are behind the zeros.
  bool hasParts() const { return splits > 1; }
  int64_t partsOffset() const;
  int64_t partBytes(const AttentionShape &shape) const;
  int64_t scratchBytes(const AttentionShape &shape) const;
};

/// Attention of one query row at a time over the context, split among blocks:
/// see AttentionDecode.cpp.
void emitDecodeAttention(kernel::KernelBuilder &b, const AttentionShape &shape,
                         const DecodePlan &plan,
                         const AttentionBuffers &buffers);

/// How prefilling attention cuts its work with mma.sync.
struct PrefillPlan {
  int64_t warps;

  static PrefillPlan get(const AttentionShape &shape);
  int64_t threads() const { return 32 * warps; }
  /// Query rows of one head in a block.
  int64_t blockRows() const { return 16 * warps; }
  int64_t sharedBytes(const AttentionShape &shape) const;
};

/// Flash attention of a step's rows in tiles: see AttentionPrefill.cpp. The
/// grid has `heads` blocks for every `blockRows` rows.
void emitPrefillAttention(kernel::KernelBuilder &b, const AttentionShape &shape,
                          const PrefillPlan &plan,
                          const AttentionBuffers &buffers);

/// How prefilling attention cuts its work with wgmma.
struct WgmmaPlan {
  /// Warpgroups that multiply, 64 query rows each, and keys of a block.
  int64_t consumers, blockKeys;
  /// Blocks of keys, and tiles of queries, in shared memory at once.
  int64_t stages, slots;
  /// Blocks that a multiprocessor holds, and those of a launch.
  int64_t blocksPerProcessor, grid;
  /// Heads whose tiles come after one another where positions reach
  /// `longContext`; all before.
  int64_t headsAtOnce, longContext;

  static constexpr int64_t kGroupRows = 64;
  /// Rows of a page that one copy brings at most.
  static constexpr int64_t kMaxCopyRows = 64;

  static bool serves(const AttentionShape &shape);
  /// For steps of up to \p rows rows.
  static WgmmaPlan get(const AttentionShape &shape, int64_t rows,
                       int64_t processors);
  /// Steps of so many rows or fewer take tiles of 64 rows: tiles of 128 would
  /// be no more than multiprocessors, the longest as long, and take longer.
  /// 0 where two blocks don't fit a multiprocessor.
  static int64_t mostRowsOfShort(const AttentionShape &shape,
                                 int64_t processors);
  int64_t threads() const { return 128 * (consumers + 1); }
  int64_t blockRows() const { return kGroupRows * consumers; }
  /// Positions and sequences of a tile's rows, and its number.
  int64_t rowsBytes() const { return blockRows() * 8 + 32; }
  int64_t sharedBytes(const AttentionShape &shape) const;
};

/// The same for sm_90a: see AttentionWgmma.cpp. The grid has `grid` blocks for
/// a step of any size; the workspace has a counter of tiles.
void emitWgmmaAttention(kernel::KernelBuilder &b, const AttentionShape &shape,
                        const WgmmaPlan &plan, const AttentionBuffers &buffers);

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_ATTENTION_H
