//===- Memory.cpp - How fast the machine reads memory ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Reads 1 GiB in order with 1 and 2 threads, in 1, 2 or 4 streams each, on
// 4 KiB and on 2 MiB pages; prints the best of several runs. No kernel that
// reads weights from memory can be faster.
//
//   qlm-bench-memory [runs]
//
//===----------------------------------------------------------------------===//

#include "ReadMemory.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <thread>
#include <vector>

static constexpr size_t kBytes = size_t(1) << 30;
static constexpr size_t kHugePage = size_t(2) << 20;
/// Seconds of one pass over \p data.
static double timePass(const char *data, size_t threads, size_t streams) {
  [[maybe_unused]] static volatile uint64_t sink;
  auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> pool;
  for (size_t t = 0; t < threads; ++t)
    pool.emplace_back([=] {
      size_t part = kBytes / threads;
      sink = qlm::bench::readMemory(data + t * part, part, streams);
    });
  for (std::thread &thread : pool)
    thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

int main(int argc, char **argv) {
  int runs = argc > 1 ? std::atoi(argv[1]) : 8;
  for (bool huge : {false, true}) {
    void *map = mmap(nullptr, kBytes + kHugePage, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
      std::perror("mmap");
      return 1;
    }
    char *data = reinterpret_cast<char *>(
        (reinterpret_cast<uintptr_t>(map) + kHugePage - 1) / kHugePage *
        kHugePage);
    madvise(data, kBytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    std::fill(data, data + kBytes, char(1));
    for (size_t threads : {1, 2})
      for (size_t streams : {1, 2, 4}) {
        double best = 1e30;
        for (int run = 0; run < runs; ++run)
          best = std::min(best, timePass(data, threads, streams));
        std::printf("pages %s  threads %zu  streams %zu  %5.1f GB/s\n",
                    huge ? "2 MiB" : "4 KiB", threads, streams,
                    kBytes / best / 1e9);
      }
    munmap(map, kBytes + kHugePage);
  }
  return 0;
}
