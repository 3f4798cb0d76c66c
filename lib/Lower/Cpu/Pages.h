//===- Pages.h - Addresses in a page of the KV cache ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A cache is `[pages, 2, kvHeads, headDim * pageTokens]`; the last dimension
// is `[headDim, pageTokens]` for keys (index 0) and `[pageTokens, headDim]`
// for values (index 1).
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

  static PageLayout get(RankedTensorType cache, int64_t kvHeads,
                        int64_t pageTokens) {
    return {cache.getElementType(), kvHeads, cache.getDimSize(3) / pageTokens,
            pageTokens};
  }

  int64_t elementBytes() const { return element.getIntOrFloatBitWidth() / 8; }
  /// Bytes of one head's keys, or values.
  int64_t headBytes() const { return headDim * pageTokens * elementBytes(); }
  int64_t pageBytes() const { return 2 * kvHeads * headBytes(); }

  /// The keys `[headDim, pageTokens]` of a head of the page at \p page.
  kernel::Ptr keys(kernel::Ptr page, kernel::Val head) const {
    return page.at(head * headBytes());
  }
  /// The values `[pageTokens, headDim]` of a head.
  kernel::Ptr values(kernel::Ptr page, kernel::Val head) const {
    return page.at((head + kvHeads) * headBytes());
  }
};

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_PAGES_H
