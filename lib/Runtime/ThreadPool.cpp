//===- ThreadPool.cpp - Threads that run a step together ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/ThreadPool.h"

#include <climits>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

using namespace qlm;

/// About 20 microseconds: longer than the gap between two launches, shorter
/// than anything a person or a neighbour would notice.
static constexpr int spinRounds = 1000;

static void pauseCpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Waits until \p word differs from \p old: spins first, then sleeps.
static void waitWhile(std::atomic<uint32_t> &word, uint32_t old) {
  for (int i = 0; i < spinRounds; ++i) {
    if (word.load(std::memory_order_acquire) != old)
      return;
    pauseCpu();
  }
  while (word.load(std::memory_order_acquire) == old)
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
}

static void wakeAll(std::atomic<uint32_t> &word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

ThreadPool::ThreadPool(int threads) : count(threads < 1 ? 1 : threads) {
  for (int i = 1; i < count; ++i)
    workers.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stopping.store(true, std::memory_order_relaxed);
  epoch.fetch_add(1, std::memory_order_release);
  wakeAll(epoch);
  for (std::thread &worker : workers)
    worker.join();
}

void ThreadPool::work(int index) {
  for (uint32_t seen = 0;; ++seen) {
    waitWhile(epoch, seen);
    if (stopping.load(std::memory_order_relaxed))
      return;
    (*body)(index);
    barrier();
  }
}

void ThreadPool::run(const std::function<void(int)> &function) {
  if (count == 1)
    return function(0);
  body = &function;
  epoch.fetch_add(1, std::memory_order_release);
  wakeAll(epoch);
  function(0);
  barrier();
}

void ThreadPool::barrier() {
  if (count == 1)
    return;
  uint32_t current = phase.load(std::memory_order_relaxed);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 <
      static_cast<uint32_t>(count))
    return waitWhile(phase, current);
  arrived.store(0, std::memory_order_relaxed);
  phase.fetch_add(1, std::memory_order_release);
  wakeAll(phase);
}
