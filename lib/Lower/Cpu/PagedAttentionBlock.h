//===- PagedAttentionBlock.h - Attention to a block of keys -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The inner part of PagedAttention.cpp: some queries of one KV head meet a
// block of 64 keys. Blocks are aligned to positions, not to tokens of the step,
// so that every query sees the same blocks whatever it is computed with.
//
//   scores   s[q, u] = sum_d query[q, d] * k[d, u], d ascending
//   softmax  m' = max(m, max_u s), c = 2^(m - m'), p = 2^(s - m'),
//            l = l * c + (p0 + p1) + (p2 + p3), the p_j vectors of 16 keys
//   values   o[q, d] = o[q, d] * c + sum_u p[q, u] * v[u, d], u ascending
//
// With codes, s is multiplied by the key's scale after its sum, and p, once it
// is in l, by the value's: the sums over d and u are of codes.
//
// Queries come scaled by `scale * log2 e`, so that powers of two do. A query
// sees keys u < keys[q], of a window only the last of them; a block without
// such keys leaves m, l and o as they are, bit for bit (c is exactly 1, p is
// 0). That may be a query's first block where there is a window, so its m
// begins with the lowest number then, not with -infinity, whose difference
// from itself is NaN.
//
// Scores and values are outer products: `rows` queries times a few vectors,
// whose sums stay in registers over the loop. In picture, on AVX512:
//
//           32 keys of one feature d          32 features of one value u
//           [16] [16]                         [16] [16]
//   q0[d] *  s    s                  p0[u] *   o    o
//   ...                              ...
//   q7[d] *  s    s                  p7[u] *   o    o
//
// Ten loads for sixteen multiply-adds: loads are not the limit, and there are
// more sums than a multiply-add takes cycles on two units.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_PAGEDATTENTIONBLOCK_H
#define QLM_LIB_LOWER_CPU_PAGEDATTENTIONBLOCK_H

#include "Pages.h"
#include "TileUnit.h"

namespace mlir::qlm::cpu {

/// Keys of one softmax update.
inline constexpr int64_t kBlockKeys = 64;
/// Keys of a vector of scores, and what page sizes are multiples of. On AVX2
/// such a vector is two registers.
inline constexpr int64_t kSliceKeys = 16;
inline constexpr int64_t kBlockSlices = kBlockKeys / kSliceKeys;
/// Multiplications of matrix registers that sum over a block.
inline constexpr int64_t kBlockDepths = kBlockKeys / kTileDepth;

/// The sizes that the code is made for.
struct AttentionShape {
  PageLayout pages;
  /// Query heads of a KV head.
  int64_t group = 1;
  /// f32 lanes of a register: 16 or 8.
  int64_t lanes = 16;
  /// Whether products are those of matrix registers: PagedAttentionTiles.h.
  bool tiles = false;
  /// The last keys that a query sees; 0: all.
  int64_t window = 0;
  /// Features of a value, and elements from one to the next key's, where they
  /// aren't headDim.
  int64_t valueDim = 0, valueStride = 0;

  int64_t paddedDim() const {
    int64_t unit = tiles ? std::max(lanes, kTileColumns) : lanes;
    return (std::max(pages.headDim, valueDim) + unit - 1) / unit * unit;
  }
  /// The same of values and results alone.
  int64_t paddedValueDim() const {
    return valueDim ? (valueDim + lanes - 1) / lanes * lanes : paddedDim();
  }
  int64_t elementsPerValue() const {
    return valueStride ? valueStride : pages.headDim;
  }
  /// Sums that registers hold beside their operands.
  int64_t sums() const { return lanes == 16 ? 24 : 12; }
  /// headDim rounded up to what a multiplication of tiles sums over.
  int64_t tileDim() const { return keyTiles() * kTileDepth; }
  /// Tiles of the keys of a slice, and of the values of 32 keys.
  int64_t keyTiles() const {
    return (pages.headDim + kTileDepth - 1) / kTileDepth;
  }
  int64_t valueTiles() const {
    return (pages.headDim + kTileColumns - 1) / kTileColumns;
  }
  /// Queries of different tokens that are computed at once.
  int64_t rowsAtOnce() const { return tiles ? kTileRows : lanes == 16 ? 8 : 6; }
  /// Heads of one token that are computed at once, as even as they get.
  int64_t headsAtOnce() const {
    int64_t passes = (group + rowsAtOnce() - 1) / rowsAtOnce();
    return (group + passes - 1) / passes;
  }
  /// Consecutive tokens of a sequence that share their loads.
  int64_t tokensAtOnce() const {
    return std::max<int64_t>(2, kBlockKeys / group);
  }
  /// Queries that the scratch has room for.
  int64_t maxRows() const {
    int64_t rows = tokensAtOnce() * group;
    return (rows + rowsAtOnce() - 1) / rowsAtOnce() * rowsAtOnce();
  }
};

/// Byte offsets in a thread's scratch.
struct AttentionScratch {
  explicit AttentionScratch(const AttentionShape &shape);

  /// Of each query: `[rows, paddedDim]` f32, the sums l as `[rows, 16]` f32,
  /// the maximum m as f32, and the number of its keys as i64.
  int64_t queries, outputs, sums, maxima, keys;
  /// Of the queries computed at once: s, then p, as `[rows, 64]` f32; c.
  int64_t weights, corrections;
  /// Addresses of the block's slices: 16 columns of keys `[headDim,
  /// pageTokens]`, and 16 rows of values `[pageTokens, headDim]`.
  int64_t keySlices, valueSlices;
  /// With codes: addresses of the slices' scales.
  int64_t keyScales, valueScales;
  /// The same of the next block.
  int64_t nextKeySlices, nextValueSlices, nextKeyScales, nextValueScales;
  /// Addresses of each block.
  int64_t addresses;
  /// With tiles: the queries as sums of two bf16, `[rows, tileDim]`; the
  /// block's keys as `[slices, keyTiles]` and its values as `[depths,
  /// valueTiles]` tiles; p as sums of two bf16, `[32, 64]`, of 16 queries and,
  /// as s, of the 16 before or after; the largest s of each lane of 16 rows,
  /// `[16, 16]`; a result of 16 rows of which one is wanted.
  int64_t highQueries, lowQueries, keyTiles, valueTiles;
  int64_t highWeights, lowWeights, laneMaxima, oneResult;
  int64_t bytes;
};

/// The larger of two floats in one instruction; \p b where one is NaN.
kernel::Val larger(kernel::KernelBuilder &builder, kernel::Val a,
                   kernel::Val b);

/// Emits the meeting of queries with a block of keys.
class AttentionBlock {
public:
  AttentionBlock(kernel::KernelFrame &frame, const AttentionShape &shape,
                 const AttentionScratch &layout)
      : frame(frame), b(frame.builder()), shape(shape), layout(layout) {}

  /// A block that all queries see as a whole. \p fetchNext asks for the next
  /// block meanwhile: a single token meets each block once, from memory.
  void emitWhole(kernel::Val firstRow, int64_t rows, bool fetchNext);
  /// A block that starts at position \p base, of which each query sees its
  /// own keys; only slices that one of them sees are touched. Queries are in
  /// the order of their positions, which \p samePosition says to be equal.
  void emitPartial(kernel::Val firstRow, int64_t rows, kernel::Val base,
                   bool samePosition);

  kernel::Ptr query(kernel::Val row) { return padded(layout.queries, row); }
  kernel::Ptr output(kernel::Val row) { return padded(layout.outputs, row); }
  /// l, as 16 partial sums.
  kernel::Ptr sums(kernel::Val row) {
    return at(layout.sums).at(row * (kSliceKeys * 4));
  }
  kernel::Ptr maximum(kernel::Val row) {
    return at(layout.maxima).element(b.f32(), row);
  }
  kernel::Ptr keys(kernel::Val row) {
    return at(layout.keys).element(b.i64(), row);
  }
  kernel::Ptr keySlice(kernel::Val slice) {
    return at(layout.keySlices).element(b.ptr(), slice);
  }
  kernel::Ptr valueSlice(kernel::Val slice) {
    return at(layout.valueSlices).element(b.ptr(), slice);
  }
  /// What follows is there with codes only.
  kernel::Ptr keyScales(kernel::Val slice) {
    return at(layout.keyScales).element(b.ptr(), slice);
  }
  kernel::Ptr valueScales(kernel::Val slice) {
    return at(layout.valueScales).element(b.ptr(), slice);
  }
  kernel::Ptr nextKeyScales(kernel::Val slice) {
    return at(layout.nextKeyScales).element(b.ptr(), slice);
  }
  kernel::Ptr nextValueScales(kernel::Val slice) {
    return at(layout.nextValueScales).element(b.ptr(), slice);
  }
  kernel::Ptr nextKeySlice(kernel::Val slice) {
    return at(layout.nextKeySlices).element(b.ptr(), slice);
  }
  kernel::Ptr nextValueSlice(kernel::Val slice) {
    return at(layout.nextValueSlices).element(b.ptr(), slice);
  }

protected:
  /// What a query makes of the scores of a block.
  struct RowWeights {
    SmallVector<kernel::Val> slices;
    /// Masks of the keys that it sees; none if it sees all.
    SmallVector<kernel::Val> seen;
    /// c in all lanes.
    kernel::Val factor;
  };
  RowWeights emitRowSoftmax(kernel::Val i, kernel::Val row, kernel::Val base);

  void emitScores(kernel::Val firstRow, int64_t rows, kernel::Val firstSlice,
                  int64_t slices, bool fetchNext);
  void emitSoftmax(kernel::Val firstRow, int64_t rows, kernel::Val base);
  void emitValues(kernel::Val firstRow, int64_t rows, kernel::Val least,
                  kernel::Val most, bool fetchNext);
  kernel::Val countKeys(kernel::Val row, kernel::Val base);
  kernel::Val countHidden(kernel::Val row, kernel::Val base);
  kernel::Val maskSeen(kernel::Val row, kernel::Val base, int64_t slice);
  SmallVector<kernel::Val> emitProducts(kernel::Val count, kernel::Val feature,
                                        int64_t rows, int64_t vectors,
                                        ArrayRef<kernel::Val> init,
                                        bool fetchNext);
  SmallVector<kernel::Val> emitMarked(kernel::Val from, kernel::Val to,
                                      kernel::Val feature, int64_t rows,
                                      int64_t vectors,
                                      ArrayRef<kernel::Val> init);
  /// The scales of a slice, as its products want them; \p place holds their
  /// address.
  kernel::Val loadScales(kernel::Ptr place);
  kernel::Val powerOfTwo(kernel::Val x);
  void forFeatures(int64_t rows, function_ref<void(kernel::Val, int64_t)> body);

  kernel::Ptr at(int64_t offset) { return frame.scratch().at(offset); }
  kernel::Ptr padded(int64_t offset, kernel::Val row) {
    return at(offset).at(row * (shape.paddedDim() * 4));
  }
  /// s or p of a query computed now.
  kernel::Ptr weights(kernel::Val row) {
    return at(layout.weights).at(row * (kBlockKeys * 4));
  }
  kernel::Ptr weightSlice(kernel::Val row, int64_t slice) {
    return weights(row).at(slice * (kSliceKeys * 4));
  }
  kernel::Ptr correction(kernel::Val row) {
    return at(layout.corrections).element(b.f32(), row);
  }

  kernel::KernelFrame &frame;
  kernel::KernelBuilder &b;
  AttentionShape shape;
  AttentionScratch layout;
};

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_PAGEDATTENTIONBLOCK_H
