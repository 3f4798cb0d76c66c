//===- ThreadPool.h - Threads that run a step together ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_THREADPOOL_H
#define QLM_RUNTIME_THREADPOOL_H

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace qlm {

/// Runs one function on a fixed set of threads at once, the caller's among
/// them. Between runs the workers spin for some microseconds, then sleep, so
/// that an idle pool costs nothing.
class ThreadPool {
public:
  /// Starts \p threads - 1 workers; \p threads is at least 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  int size() const { return count; }

  /// Calls `body(index)` on every thread, the caller being index 0, and
  /// returns when all have finished. One caller at a time.
  void run(const std::function<void(int)> &body);

  /// Inside run(): waits until every thread has come here. What any thread
  /// wrote before is visible to all after.
  void barrier();

private:
  /// A counter that threads wait on, alone on its cache line: it is polled
  /// while its neighbours are written.
  class alignas(64) Signal {
  public:
    uint32_t get() const { return value.load(std::memory_order_relaxed); }
    /// Waits until the counter differs from \p old: spins first, then sleeps.
    void wait(uint32_t old);
    /// Counts up and wakes all sleepers.
    void raise();

  private:
    std::atomic<uint32_t> value{0};
    std::atomic<uint32_t> sleepers{0};
  };

  void work(int index);

  const int count;
  const std::function<void(int)> *body = nullptr;
  std::atomic<bool> stopping{false};
  Signal epoch; ///< a run begins
  Signal phase; ///< a barrier opens
  alignas(64) std::atomic<uint32_t> arrived{0};
  std::vector<std::thread> workers;
};

} // namespace qlm

#endif // QLM_RUNTIME_THREADPOOL_H
