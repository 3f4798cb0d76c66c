//===- ThreadPool.cpp - Threads that run a step together ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/ThreadPool.h"

#include <climits>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

using namespace qlm;

/// A few hundred microseconds: longer than what one thread is behind another
/// in a launch, or what sampling takes between steps; too short for anybody to
/// notice.
static constexpr int spinRounds = 10000;

static void pauseCpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

void ThreadPool::Signal::wait(uint32_t old) {
  for (int i = 0; i < spinRounds; ++i) {
    if (value.load(std::memory_order_acquire) != old)
      return;
    pauseCpu();
    // On a busy machine the thread waited for may need this core.
    if (i > 1000 && i % 64 == 0)
      sched_yield();
  }
  // Counted before the kernel compares the value: either raise() sees the
  // sleeper, or the kernel sees the new value and doesn't sleep.
  sleepers.fetch_add(1);
  while (value.load() == old)
    syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
  sleepers.fetch_sub(1);
}

void ThreadPool::Signal::raise() {
  value.fetch_add(1);
  if (sleepers.load())
    syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr,
            0);
}

ThreadPool::ThreadPool(int threads) : count(threads < 1 ? 1 : threads) {
  for (int i = 1; i < count; ++i)
    workers.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stopping.store(true, std::memory_order_relaxed);
  epoch.raise();
  for (std::thread &worker : workers)
    worker.join();
}

void ThreadPool::work(int index) {
  for (uint32_t seen = 0;; ++seen) {
    epoch.wait(seen);
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
  epoch.raise();
  function(0);
  barrier();
}

void ThreadPool::barrier() {
  if (count == 1)
    return;
  uint32_t current = phase.get();
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 <
      static_cast<uint32_t>(count))
    return phase.wait(current);
  arrived.store(0, std::memory_order_relaxed);
  phase.raise();
}
