//===- TileQueue.h - Shares a launch's tiles among threads ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TILEQUEUE_H
#define QLM_RUNTIME_TILEQUEUE_H

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace qlm {

/// The contiguous part of `0 .. tiles` that thread \p index of \p threads
/// computes: parts differ by one tile at most.
inline std::pair<int64_t, int64_t> tileRange(int64_t tiles, int64_t index,
                                             int64_t threads) {
  int64_t share = tiles / threads, rest = tiles % threads;
  int64_t begin = index * share + (index < rest ? index : rest);
  return {begin, begin + share + (index < rest ? 1 : 0)};
}

/// The tiles of one launch in one step. Each thread owns a contiguous part,
/// cut into a few chunks, and takes chunks of the others' parts when its own
/// is done: a thread that lost its core delays the launch by the chunk it
/// holds, not by its whole part.
class TileQueue {
public:
  explicit TileQueue(int threads)
      : threads(threads), parts(new Part[threads]) {}

  /// Before a step, while no thread uses the queue: \p tiles to compute, each
  /// part in up to \p chunks chunks.
  void reset(int64_t newTiles, int64_t newChunks) {
    tiles = newTiles;
    chunks = newChunks;
    for (int i = 0; i < threads; ++i)
      parts[i].next.store(0, std::memory_order_relaxed);
    left.store(newTiles, std::memory_order_release);
  }

  /// Takes the next tiles for thread \p index: [first, second), or an empty
  /// range when none are left to take.
  std::pair<int64_t, int64_t> take(int index);

  /// Says that \p count taken tiles are computed. What was written before is
  /// visible to threads that return from wait().
  void finish(int64_t count) {
    left.fetch_sub(count, std::memory_order_acq_rel);
  }

  /// Waits until all tiles are computed.
  void wait() const;

private:
  struct alignas(64) Part {
    std::atomic<int64_t> next{0}; ///< the first chunk not taken
  };

  const int threads;
  int64_t tiles = 0, chunks = 1;
  std::unique_ptr<Part[]> parts;
  alignas(64) std::atomic<int64_t> left{0};
};

} // namespace qlm

#endif // QLM_RUNTIME_TILEQUEUE_H
