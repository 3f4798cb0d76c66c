//===- Harness.h - Memory and threads of the kernel benchmarks --*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_BENCHMARKS_KERNELS_HARNESS_H
#define QLM_BENCHMARKS_KERNELS_HARNESS_H

#include <atomic>
#include <cstdint>

namespace mlir::qlm::bench {

inline constexpr int64_t kHugePage = int64_t(2) << 20;

/// Zeroed memory on large pages, kept until the program ends.
char *allocate(int64_t bytes);

/// Lets threads start each launch together.
class Barrier {
public:
  explicit Barrier(int threads) : threads(threads) {}
  void wait() {
    int now = generation.load();
    if (++arrived == threads) {
      arrived = 0;
      ++generation;
      return;
    }
    while (generation.load() == now)
      ;
  }

private:
  const int threads;
  std::atomic<int> arrived{0}, generation{0};
};

} // namespace mlir::qlm::bench

#endif // QLM_BENCHMARKS_KERNELS_HARNESS_H
