//===- Pages.h - Addresses in a page of the KV cache ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A cache is `[pages, 2, kvHeads, headDim * pageTokens]`; the last dimension
// is `[headDim, pageTokens]` for keys (index 0) and `[pageTokens, headDim]`
// for values (index 1). With codes, `[pageTokens]` f32 scales follow in it.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_PAGES_H
#define QLM_LIB_LOWER_CPU_PAGES_H

#include "qlm/Lower/Kernel/Builder.h"

namespace mlir::qlm::cpu {

/// The sizes of a page and of its parts.
struct PageLayout {
  Type element;
  int64_t kvHeads = 0, headDim = 0, pageTokens = 0;
  /// What the bytes are, i8 or f8E4M3FN; null in a cache of floats.
  Type codes;

  /// Of a `qlm.rope_append` or `qlm.paged_attention`.
  template <typename Op> static PageLayout get(Op op) {
    auto cache = cast<RankedTensorType>(op.getCache().getType());
    auto pageTokens = static_cast<int64_t>(op.getPageTokens());
    Type codes = op.getCodes().value_or(Type());
    int64_t headDim =
        cache.getDimSize(3) / pageTokens - (codes ? kCacheScaleBytes : 0);
    return {cache.getElementType(), static_cast<int64_t>(op.getKvHeads()),
            headDim, pageTokens, codes};
  }

  int64_t elementBytes() const { return element.getIntOrFloatBitWidth() / 8; }
  /// Bytes of one head's keys, or values, without scales.
  int64_t dataBytes() const { return headDim * pageTokens * elementBytes(); }
  /// Bytes of one head's keys, or values.
  int64_t headBytes() const {
    return dataBytes() + (codes ? kCacheScaleBytes * pageTokens : 0);
  }
  int64_t pageBytes() const { return 2 * kvHeads * headBytes(); }

  /// The keys `[headDim, pageTokens]` of a head of the page at \p page.
  kernel::Ptr keys(kernel::Ptr page, kernel::Val head) const {
    return page.at(head * headBytes());
  }
  /// The values `[pageTokens, headDim]` of a head.
  kernel::Ptr values(kernel::Ptr page, kernel::Val head) const {
    return page.at((head + kvHeads) * headBytes());
  }
  /// The scales of the keys or values at \p data.
  kernel::Ptr scales(kernel::Ptr data) const { return data.at(dataBytes()); }

  /// Loads consecutive elements as f32; of codes, the numbers that they are
  /// times `1 / unit()`.
  kernel::Val load(kernel::KernelBuilder &b, kernel::Ptr place,
                   int64_t lanes) const;
  /// What a scale is multiplied by to fit what `load` gives.
  double unit() const;
};

/// The codes, of \p type (i8 or f8E4M3FN), of f32 numbers that are within the
/// bound of these but for rounding.
kernel::Val encodeNumbers(kernel::KernelBuilder &b, kernel::Val numbers,
                          Type type);
/// The f32 that codes of f8E4M3FN, i8 bits, are, times 2^-8.
kernel::Val decodeFloat8(kernel::KernelBuilder &b, kernel::Val bits);

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_PAGES_H
