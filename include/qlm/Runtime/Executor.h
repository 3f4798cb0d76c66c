//===- Executor.h - Runs the launches of a step -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_EXECUTOR_H
#define QLM_RUNTIME_EXECUTOR_H

#include "qlm/Runtime/Package.h"
#include "qlm/Runtime/StepBatch.h"
#include "qlm/Runtime/StepProfile.h"
#include "qlm/Runtime/ThreadPool.h"
#include "qlm/Runtime/TileQueue.h"

#include <memory>
#include <vector>

namespace qlm {

/// The memory of a package's plan, and its launches bound to it. Not thread
/// safe: one step at a time.
class Executor {
public:
  /// Maps arena, caches and logits and starts \p threads threads. The memory is
  /// touched as it is used, or all of it at once when \p reserve. The package
  /// must outlive the executor. Errors: ResourceExhausted.
  static Result<std::unique_ptr<Executor>> create(const Package &package,
                                                  int threads, bool reserve);

  /// Where the next step's rows are put.
  StepBatch &batch() { return *step; }

  /// Runs one step over batch(). A step without rows does nothing.
  void run();

  /// Logits of the step's \p row -th wanted row, float32 [vocabularySize];
  /// valid, and free to be changed, until the next step.
  float *logits(int64_t row) const;

  int threads() const { return pool.size(); }

  /// Weight bytes that one step reads.
  int64_t bytesPerStep() const;

  /// From now on, adds up each launch's time in \p profile (or stops, when
  /// null).
  void setProfile(StepProfile *profile);

private:
  /// A launch with its addresses.
  struct BoundLaunch {
    format::KernelFunction kernel;
    std::vector<void *> buffers;
    int64_t tileCount, tileBlock;
    TileSize tileSize;
    std::unique_ptr<TileQueue> queue;
  };

  Executor(const Package &package, int threads);
  Status allocate(bool reserve);
  void bind();
  void *address(const LaunchArgument &argument) const;
  void resetQueues();
  void runThread(int index);

  const Package &package;
  ThreadPool pool;
  std::unique_ptr<StepBatch> step;
  MappedMemory arena, cache, logitsMemory;
  std::vector<MappedMemory> scratch; ///< one a thread
  std::vector<BoundLaunch> launches;
  StepProfile *profile = nullptr;
};

} // namespace qlm

#endif // QLM_RUNTIME_EXECUTOR_H
