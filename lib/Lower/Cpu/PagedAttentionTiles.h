//===- PagedAttentionTiles.h - Attention in matrix registers ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The block of PagedAttentionBlock.h on matrix registers of bf16, for caches
// whose elements are bf16 or codes (which bf16 holds exactly). Queries and
// weights are sums of two bf16 each, q = q1 + q2 with |q - q1 - q2| below
// 2^-17 |q|, so that the results are nearly those of f32 arithmetic:
//
//   scores   s[q, u] = sum over steps of 32 features, ascending, of
//                      q1 . k and then q2 . k
//   values   o[q, d] = o[q, d] * c + sum over steps of 32 keys, ascending, of
//                      p1 . v and then p2 . v
//
// Sums inside a step are the processor's. All 64 keys take part, those that a
// query doesn't see with p = 0; a row's result depends on nothing else. Keys
// past the run's last are replaced by zeros. What a later token of the run has
// written may be NaN or infinite, and 0 * NaN is NaN: if so, the queries take
// turns, each with zeros for the keys that it doesn't see.
//
// Operands of the registers are copied once for all queries of the run:
//
//   keys    16 features x 2 apart        a slice: [tileDim / 32] tiles
//           +--------------------+       pair p of row r and key u is
//           | k[0,u] k[1,u]  ... |       features 2 r and 2 r + 1 of key u
//   values  16 keys x 2 apart            32 keys: [headDim / 16] tiles
//           | v[0,d] v[1,d]  ... |       pair d of row r is feature d of
//                                        keys 2 r and 2 r + 1
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_PAGEDATTENTIONTILES_H
#define QLM_LIB_LOWER_CPU_PAGEDATTENTIONTILES_H

#include "Emitters.h"
#include "PagedAttentionBlock.h"

namespace mlir::qlm::cpu {

class AttentionTiles : public AttentionBlock {
public:
  AttentionTiles(kernel::KernelFrame &frame, const AttentionShape &shape,
                 const AttentionScratch &layout, const KernelRequest &request)
      : AttentionBlock(frame, shape, layout),
        unit(frame.builder(), request.function, request.target),
        hasBf16Vectors(request.target.avx512Bf16) {}

  /// Whether caches of \p pages are for matrix registers on \p target.
  static bool isFor(const PageLayout &pages, const Target &target) {
    return target.amxBf16 && (pages.codes || pages.element.isBF16());
  }

  /// Clears what no copy writes in a run of \p rows queries.
  void emitPadding(kernel::Val rows);
  /// Keeps a chunk of a query, scaled.
  void storeQuery(kernel::Val row, kernel::Val first, kernel::Val values);
  /// The meeting of the first \p rows queries with a block. Without \p base
  /// all see it as a whole; else it starts at that position and holds \p keys
  /// keys.
  void emitBlock(kernel::Val rows, kernel::Val base, kernel::Val keys);

private:
  std::pair<kernel::Val, kernel::Val> split(kernel::Val values);
  std::pair<kernel::Val, kernel::Val> splitTwo(kernel::Val first,
                                               kernel::Val second);
  kernel::Val interleave(kernel::Val both);
  kernel::Val loadPair(kernel::Ptr even, kernel::Ptr odd);
  kernel::Val loadNeighbours(kernel::Ptr rows);
  void copyKeys();
  /// Copies the first \p count values (all where it is null) but for the first
  /// \p hidden (null: none); gives the largest exponent there is, in place, of
  /// bf16 elements.
  kernel::Val copyValues(kernel::Val count, kernel::Val hidden);
  void emitTileScores(kernel::Val firstRow);
  void emitSliceScores(kernel::Val firstRow, int64_t slice, kernel::Val slot);
  void emitLaneMaxima(kernel::Val firstRow, kernel::Val rows, kernel::Val base,
                      kernel::Val slot);
  kernel::Val emitMaxima();
  void emitRowWeights(kernel::Val i, kernel::Val row, kernel::Val base,
                      kernel::Val slot);
  kernel::Val emitFactors(kernel::Val firstRow, kernel::Val rows,
                          kernel::Val base, kernel::Val slot);
  void emitRescaled(kernel::Val firstRow, kernel::Val rows,
                    kernel::Val factors);
  void emitTileSoftmax(kernel::Val firstRow, kernel::Val rows,
                       kernel::Val base);
  void emitProducts(kernel::Ptr outputs, int64_t stride, kernel::Val weightRow,
                    int64_t firstTile, int64_t tiles);
  void emitTileValues(kernel::Val firstRow);
  void emitOneByOne(kernel::Val firstRow, kernel::Val rows, kernel::Val base);
  void emitBeside(kernel::Val rows, kernel::Val base);

  kernel::Ptr keyTile(kernel::Val slice, int64_t number) {
    return at(layout.keyTiles)
        .at(slice * (shape.keyTiles() * kTileSize))
        .at(number * kTileSize);
  }
  kernel::Ptr valueTile(int64_t depth, int64_t number) {
    return at(layout.valueTiles)
        .at((depth * shape.valueTiles() + number) * kTileSize);
  }

  TileUnit unit;
  bool hasBf16Vectors;
};

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_PAGEDATTENTIONTILES_H
