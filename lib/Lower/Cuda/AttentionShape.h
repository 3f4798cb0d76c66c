//===- AttentionShape.h - Sizes of attention and bytes of pages -*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// On CUDA a page holds, for keys (0) and values (1) and each KV head, the
// page's rows `[pageTokens, headDim]`, then, in a quantized cache, the rows'
// scales `[pageTokens]` f32. Where a row's bytes divide by 128 the rows are cut
// into planes `[rowBytes / 128, pageTokens, 128]`, and the 16-byte chunk c of a
// plane's row t stands at place c ^ (t % 8):
//
//   row 0   c0 c1 c2 c3 c4 c5 c6 c7
//   row 1   c1 c0 c3 c2 c5 c4 c7 c6
//   row 2   c2 c3 c0 c1 c6 c7 c4 c5   ...
//
// which is the 128-byte swizzle that wgmma and ldmatrix want of shared memory:
// a page's plane is copied there as it is, by one bulk copy, and any eight
// rows' chunks c lie in different banks. Other rows are plain.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_ATTENTIONSHAPE_H
#define QLM_LIB_LOWER_CUDA_ATTENTIONSHAPE_H

#include "AttentionPtx.h"

#include "llvm/Support/MathExtras.h"

namespace mlir::qlm::cuda {

/// Element types of the cache.
enum class KvType { F16, BF16, I8, F8E4M3 };

struct AttentionShape {
  int64_t heads, kvHeads, headDim, pageTokens;
  KvType kv;
  /// f32, f16 or bf16.
  Type query, result;
  /// Of the products of queries and keys.
  double scale;
  /// A token sees the last `window` tokens, itself included; 0: all.
  int64_t window = 0;
  /// Compute capability, 90 for sm_90a.
  int64_t chip = 90;

  int64_t group() const { return heads / kvHeads; }
  bool isQuantized() const { return kv == KvType::I8 || kv == KvType::F8E4M3; }
  /// What keys and values are multiplied as.
  HalfType half() const {
    return kv == KvType::BF16 ? HalfType::BF16 : HalfType::F16;
  }

  int64_t elementBytes() const { return isQuantized() ? 1 : 2; }
  int64_t rowBytes() const { return headDim * elementBytes(); }
  bool isSwizzled() const { return rowBytes() % 128 == 0; }
  /// From one token's row (of a plane) to the next.
  int64_t rowStride() const { return isSwizzled() ? 128 : rowBytes(); }
  /// Bytes of one head's keys or values in a page.
  int64_t codeBytes() const { return rowBytes() * pageTokens; }
  int64_t headBytes() const {
    return codeBytes() + (isQuantized() ? 4 * pageTokens : 0);
  }
  int64_t pageBytes() const { return 2 * kvHeads * headBytes(); }

  /// Byte offset of 16-byte chunk \p chunk of row \p token (i32). Only
  /// \p token % 8 matters but for the term token * rowStride().
  kernel::Val chunkOffset(kernel::Val token, kernel::Val chunk) const {
    if (!isSwizzled())
      return token * rowStride() + chunk * 16;
    return (chunk >> 3) * (pageTokens * 128) + token * 128 +
           (((chunk & 7) ^ (token & 7)) << 4);
  }

  /// The value scales are multiplied by this before they meet f16 weights, so
  /// that the products are of the values' own magnitude.
  double valueScaleFactor() const { return kv == KvType::I8 ? 128.0 : 256.0; }
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_ATTENTIONSHAPE_H
