//===- Threads.h - Work that threads share ----------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_NUMERICS_THREADS_H
#define QLM_LIB_QUANTIZE_NUMERICS_THREADS_H

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace qlm::numerics {

/// Runs `work(0)`, ... `work(threads - 1)` side by side.
template <typename Work> void runThreads(int threads, Work work) {
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i)
    helpers.emplace_back(work, i);
  work(0);
  for (std::thread &helper : helpers)
    helper.join();
}

/// Calls `work(i)` for each i below \p count, which threads take in turn.
template <typename Work>
void forEachIndex(int64_t count, int threads, Work work) {
  std::atomic<int64_t> next{0};
  runThreads(threads, [&](int) {
    for (int64_t i = next++; i < count; i = next++)
      work(i);
  });
}

} // namespace qlm::numerics

#endif // QLM_LIB_QUANTIZE_NUMERICS_THREADS_H
