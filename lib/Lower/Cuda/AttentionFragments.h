//===- AttentionFragments.h - Keys and values as matrix operands -*- C++ -*-==//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// mma.m16n8k16 sums over k in any order that both operands agree on. So a lane
// (g = lane / 4, q = lane % 4) takes whole chunks of consecutive features where
// the instruction's picture has single pairs:
//
//   queries, keys   chunks q, q + 4, ... of row g: four features a step
//   values          chunks g, g + 8, ... of tokens 2q, 2q + 1, 2q + 8, 2q + 9:
//                   column n of tile (j, e) is feature (8 j + n) * elements + e
//
// so that loads are 16 bytes wide and no shared memory or transposing load is
// needed between the cache and the tensor cores.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_ATTENTIONFRAGMENTS_H
#define QLM_LIB_LOWER_CUDA_ATTENTIONFRAGMENTS_H

#include "AttentionShape.h"

namespace mlir::qlm::cuda {

class Fragments {
public:
  using Val = kernel::Val;
  using Ptr = kernel::Ptr;

  Fragments(kernel::KernelBuilder &b, const AttentionShape &shape);

  // Sizes, known when the kernel is emitted.

  /// Chunks of 16 bytes in a key's row, and how many one lane takes.
  int64_t keyChunks() const { return shape.rowBytes() / 16; }
  int64_t laneKeyChunks() const { return llvm::divideCeil(keyChunks(), 4); }
  /// Elements of a key chunk: 8 or 16.
  int64_t keyElements() const { return 16 / shape.elementBytes(); }
  /// Bytes and elements of a chunk of values: 16 bytes unless that leaves
  /// lanes without any.
  int64_t valueBytes() const {
    return shape.isQuantized() && shape.rowBytes() < 128 ? 8 : 16;
  }
  int64_t valueElements() const { return valueBytes() / shape.elementBytes(); }
  int64_t valueChunks() const { return shape.rowBytes() / valueBytes(); }
  int64_t laneValueChunks() const { return llvm::divideCeil(valueChunks(), 8); }
  /// Tiles of 8 columns of an output.
  int64_t outputTiles() const { return laneValueChunks() * valueElements(); }

  // Queries.

  /// Words of the query at \p query `[headDim]`, zero where not \p valid, in
  /// the order of keys.
  SmallVector<Val> loadQuery(Ptr query, Val valid);

  // Keys and values of 16 tokens. `first` is the slot of the first in its page.

  struct Block {
    /// [2 tiles][laneKeyChunks][4 words], [4 tokens][laneValueChunks][words].
    SmallVector<Val> keys, values;
    /// Scales of tokens 2q, 2q + 1, 2q + 8, 2q + 9.
    SmallVector<Val> keyScales, valueScales;
  };
  /// Loads from the page's parts of one head, in global or shared memory.
  void loadKeys(Block &block, Ptr keys, Val first);
  void loadValues(Block &block, Ptr values, Val first);

  /// Two tiles of 4 sums: queries of rows g (and g + 8, if any) by 16 keys,
  /// scaled by the key scales.
  SmallVector<Val> multiplyKeys(const Block &block, ArrayRef<Val> low,
                                ArrayRef<Val> high);
  /// outputs[tile][4] += weights [2 tiles][4] * values; where not \p valid
  /// (four flags) values are taken as zero, whatever is there.
  void multiplyValues(const Block &block, ArrayRef<Val> weights,
                      ArrayRef<Val> valid, MutableArrayRef<Val> outputs,
                      bool hasHigh);
  /// Writes row g (or g + 8, \p high) of \p outputs[tile][4], times
  /// \p factor, as \p type to `[headDim]` at \p row.
  void storeOutputs(Ptr row, ArrayRef<Val> outputs, bool high, Val factor,
                    Type type);

  /// The first feature of the columns (2q + odd) of tiles (chunk, 0...):
  /// `valueElements` features follow.
  Val outputFeature(int64_t chunk, int64_t odd);
  /// Whether such columns exist.
  Val outputExists(int64_t chunk, int64_t odd);

  Val group() const { return g; }
  Val quad() const { return q; }

private:
  void loadScales(SmallVectorImpl<Val> &scales, Ptr part, Val first);
  std::pair<Val, Val> decodePairs(Val word);

  kernel::KernelBuilder &b;
  const AttentionShape &shape;
  Ptx ptx;
  Val lane, g, q;
  SmallVector<Val> keyOffsets, valueOffsets;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_ATTENTIONFRAGMENTS_H
