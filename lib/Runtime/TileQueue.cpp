//===- TileQueue.cpp - Shares a launch's tiles among threads --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/TileQueue.h"

#include <sched.h>

using namespace qlm;

/// Polls before the thread offers its core to others: some microseconds.
static constexpr int spinRounds = 1000;

std::pair<int64_t, int64_t> TileQueue::take(int index) {
  for (int offset = 0; offset < threads; ++offset) {
    int owner = (index + offset) % threads;
    auto [lo, hi] = tileRange(tiles, owner, threads);
    int64_t pieces = chunks < hi - lo ? chunks : hi - lo;
    std::atomic<int64_t> &next = parts[owner].next;
    if (next.load(std::memory_order_relaxed) >= pieces)
      continue;
    int64_t piece = next.fetch_add(1, std::memory_order_relaxed);
    if (piece >= pieces)
      continue;
    auto [first, last] = tileRange(hi - lo, piece, pieces);
    return {lo + first, lo + last};
  }
  return {0, 0};
}

void TileQueue::wait() const {
  for (int i = 0; left.load(std::memory_order_acquire) > 0; ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    // On a busy machine the thread waited for may need this core.
    if (i > spinRounds && i % 64 == 0)
      sched_yield();
  }
}
