//===- ReadMemory.h - Reads memory as fast as it goes -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_BENCHMARKS_KERNELS_READMEMORY_H
#define QLM_BENCHMARKS_KERNELS_READMEMORY_H

#include <cstddef>
#include <cstdint>

namespace qlm::bench {

typedef uint64_t Line __attribute__((vector_size(64), aligned(64)));

/// Reads \p size bytes at \p data (64-byte aligned) in \p streams equal
/// streams, each rounded down to 512 bytes; gives a value that depends on all
/// that was read.
__attribute__((target_clones("default", "avx2", "avx512f"))) static uint64_t
readMemory(const char *data, size_t size, size_t streams) {
  constexpr size_t kPrefetchBytes = 2048;
  Line sums[8] = {};
  size_t part = size / streams / sizeof(sums) * sizeof(sums);
  for (size_t i = 0; i < part; i += sizeof(sums))
    for (size_t s = 0; s < streams; ++s) {
      const char *line = data + s * part + i;
      for (size_t v = 0; v < 8; ++v, line += sizeof(Line)) {
        sums[v] ^= *reinterpret_cast<const Line *>(line);
        __builtin_prefetch(line + kPrefetchBytes);
      }
    }
  uint64_t all = 0;
  for (const Line &sum : sums)
    for (int lane = 0; lane < 8; ++lane)
      all ^= sum[lane];
  return all;
}

} // namespace qlm::bench

#endif // QLM_BENCHMARKS_KERNELS_READMEMORY_H
