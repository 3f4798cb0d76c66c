//===- CachePages.h - Where keys and values lie -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A layer's cache: [pages, 2, kvHeads, width] as QlmPlannedOps.td has it. Rows
// of tokens whose bytes divide by 128 are swizzled as AttentionShape.h says.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_CACHEPAGES_H
#define QLM_LIB_LOWER_CUDA_CACHEPAGES_H

#include "Rows.h"

namespace mlir::qlm::cuda {

/// The cache of `qlm.rope_append` or `qlm.paged_attention`.
struct CachePages {
  int64_t kvHeads, headDim, pageTokens;
  /// What one element is: a float, or a code (i8, f8E4M3FN).
  Type element;
  bool hasCodes;
  /// Whether a key's features are neighbours ([pageTokens, headDim]) or a
  /// feature's tokens.
  bool keysByToken;

  template <typename Op> static CachePages get(Op op, int64_t headDim) {
    CachePages pages;
    pages.kvHeads = op.getKvHeads();
    pages.headDim = headDim;
    pages.pageTokens = op.getPageTokens();
    pages.hasCodes = op.getCodes().has_value();
    pages.element = op.getCodes().value_or(getElement(op.getCache()));
    pages.keysByToken = op.getKeysByToken();
    return pages;
  }

  int64_t elementBytes() const { return element.getIntOrFloatBitWidth() / 8; }
  /// Bytes of one head's keys, or values, of a page; scales included.
  int64_t headBytes() const {
    return (headDim * elementBytes() + (hasCodes ? kCacheScaleBytes : 0)) *
           pageTokens;
  }
  int64_t pageBytes() const { return 2 * kvHeads * headBytes(); }

  /// Keys (\p kind 0) or values (1) of \p head (i32) in the page at \p page.
  kernel::Ptr head(kernel::GpuKernelFrame &frame, kernel::Ptr page,
                   int64_t kind, kernel::Val head) const {
    return page.at(kind * kvHeads * headBytes())
        .at(frame.wide(head) * headBytes());
  }
  /// Bytes from \p head's first to feature \p k of the token in \p slot.
  kernel::Val offset(int64_t kind, kernel::Val slot, kernel::Val k) const {
    if (kind == 0 && !keysByToken)
      return (k * pageTokens + slot) * elementBytes();
    if (!keysByToken || headDim * elementBytes() % 128)
      return (slot * headDim + k) * elementBytes();
    // Planes of 128 bytes a token; their 16-byte chunks change places.
    kernel::Val byte = k * elementBytes();
    kernel::Val chunk = ((byte >> 4) ^ slot) & 7;
    return (byte >> 7) * (pageTokens * 128) + slot * 128 + (chunk << 4) +
           (byte & 15);
  }
  /// The scale (f32) of the token in \p slot.
  kernel::Ptr scale(kernel::GpuKernelFrame &frame, kernel::Ptr head,
                    kernel::Val slot) const {
    return head.at(headDim * pageTokens).element(frame.builder().f32(), slot);
  }

  /// The page of position \p position (i32) of sequence \p sequence.
  kernel::Ptr page(kernel::GpuKernelFrame &frame, kernel::Ptr cache,
                   kernel::Ptr blockTables, kernel::Val sequence,
                   kernel::Val position) const {
    kernel::KernelBuilder &b = frame.builder();
    kernel::Val entry =
        sequence * frame.maxPagesPerSequence() + position / pageTokens;
    kernel::Val number = blockTables.element(b.i32(), entry).load(b.i32());
    return cache.at(frame.wide(number) * pageBytes());
  }

  /// Element \p place of the cache in f32, without scale.
  kernel::Val load(kernel::GpuKernelFrame &frame, kernel::Ptr place) const {
    kernel::KernelBuilder &b = frame.builder();
    if (!hasCodes)
      return b.toF32(place.load(element));
    kernel::Val code = place.load(b.i8());
    return element.isInteger(8) ? b.toFloat(code, b.f32())
                                : frame.fromE4M3(code);
  }
};

/// The code (i8) of \p value (f32 or a vector of it), which is scaled already:
/// rounded half to even into i8, or into E4M3 with what is beyond 448 at 448.
kernel::Val emitCode(kernel::GpuKernelFrame &frame, kernel::Val value,
                     Type element);

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_CACHEPAGES_H
