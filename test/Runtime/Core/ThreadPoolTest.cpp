//===- ThreadPoolTest.cpp - Threads meet at barriers and sleep when idle --===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/ThreadPool.h"

#include "gtest/gtest.h"

#include <chrono>
#include <ctime>

using namespace qlm;

TEST(ThreadPoolTest, EveryThreadSeesWhatOthersWroteBeforeABarrier) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    std::vector<int> values(static_cast<size_t>(threads), 0);
    std::atomic<int> failures{0};
    for (int round = 0; round < 50; ++round)
      pool.run([&](int index) {
        for (int phase = 0; phase < 4; ++phase) {
          values[static_cast<size_t>(index)] = round * 4 + phase;
          pool.barrier();
          for (int value : values)
            failures += value != round * 4 + phase;
          pool.barrier();
        }
      });
    EXPECT_EQ(failures, 0) << threads;
  }
}

TEST(ThreadPoolTest, IdleWorkersUseNoTime) {
  ThreadPool pool(4);
  pool.run([](int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::clock_t begin = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  double used = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  EXPECT_LT(used, 0.05);
}
