//===- TileQueueTest.cpp - Every tile is computed once --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/TileQueue.h"

#include "gtest/gtest.h"

#include <thread>
#include <vector>

using namespace qlm;

TEST(TileQueueTest, RangesCoverAllTilesOnceAndEvenly) {
  for (int64_t tiles : {0, 1, 2, 7, 64, 1001})
    for (int threads : {1, 2, 3, 8}) {
      int64_t next = 0;
      for (int i = 0; i < threads; ++i) {
        auto [lo, hi] = tileRange(tiles, i, threads);
        EXPECT_EQ(lo, next);
        EXPECT_LE(hi - lo, tiles / threads + 1);
        next = hi;
      }
      EXPECT_EQ(next, tiles);
    }
}

TEST(TileQueueTest, ThreadsComputeEachTileOnce) {
  for (int64_t tiles : {0, 1, 2, 3, 7, 64, 1001})
    for (int threads : {1, 2, 3, 8})
      for (int64_t chunks : {1, 2, 4}) {
        TileQueue queue(threads);
        std::vector<int> computed(static_cast<size_t>(tiles));
        // A queue serves one step after the other.
        for (int step = 1; step <= 3; ++step) {
          queue.reset(tiles, chunks);
          std::vector<std::thread> workers;
          for (int index = 0; index < threads; ++index)
            workers.emplace_back([&, index] {
              for (;;) {
                auto [lo, hi] = queue.take(index);
                if (lo == hi)
                  break;
                for (int64_t i = lo; i < hi; ++i)
                  ++computed[static_cast<size_t>(i)];
                queue.finish(hi - lo);
              }
              queue.wait();
              // All tiles are visible to whoever waited.
              for (int count : computed)
                EXPECT_EQ(count, step);
            });
          for (std::thread &worker : workers)
            worker.join();
        }
      }
}

TEST(TileQueueTest, AThreadTakesItsOwnPartFirstAndThenTheOthers) {
  TileQueue queue(2);
  queue.reset(/*newTiles=*/8, /*newChunks=*/2);
  using Range = std::pair<int64_t, int64_t>;
  EXPECT_EQ(queue.take(1), Range(4, 6));
  EXPECT_EQ(queue.take(1), Range(6, 8));
  EXPECT_EQ(queue.take(1), Range(0, 2));
  EXPECT_EQ(queue.take(0), Range(2, 4));
  EXPECT_EQ(queue.take(0), Range(0, 0));
}

TEST(TileQueueTest, AThreadThatNeverComesDelaysNothing) {
  TileQueue queue(3);
  queue.reset(/*newTiles=*/10, /*newChunks=*/4);
  for (;;) {
    auto [lo, hi] = queue.take(0);
    if (lo == hi)
      break;
    queue.finish(hi - lo);
  }
  queue.wait();
}
