//===- CpuExecutor.h - Runs a step on the processor's threads ---*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CPU_CPUEXECUTOR_H
#define QLM_LIB_RUNTIME_CPU_CPUEXECUTOR_H

#include "WeightsCopy.h"
#include "qlm/Runtime/Executor.h"
#include "qlm/Runtime/MappedMemory.h"
#include "qlm/Runtime/ThreadPool.h"
#include "qlm/Runtime/TileQueue.h"

#include <memory>
#include <vector>

namespace qlm {

/// Runs each launch's tiles on a pool of threads. The step's memory is mapped
/// here; weights are read where the package has them, or from a copy that is
/// made while steps run.
class CpuExecutor final : public Executor {
public:
  /// See Executor::create.
  static Result<std::unique_ptr<Executor>> create(const Package &package,
                                                  int threads, bool reserve);

  Status run() override;
  float *logits(int64_t row) override;
  void forEach(int64_t count,
               const std::function<void(int64_t)> &body) override;
  int threads() const override { return pool.size(); }
  void settle() override;
  const MappedMemory &weightsMemory() const override {
    return weights.data() ? weights : package.weightsMemory();
  }

private:
  /// A launch with its addresses.
  struct BoundLaunch {
    format::KernelFunction kernel;
    std::vector<void *> buffers;
    Tiles tiles;
    bool onLogitRows; ///< rows are those of the logits, not the tokens
    std::unique_ptr<TileQueue> queue;
    bool isObserved = false;
  };

  CpuExecutor(const Package &package, int threads);
  Status allocate(bool reserve);
  void bind();
  void *address(const LaunchArgument &argument) const;
  void adoptCopy();
  void resetQueues();
  void runThread(int index);

  ThreadPool pool;
  MappedMemory arena, cache, logitsMemory;
  std::vector<MappedMemory> scratch; ///< one a thread
  std::vector<BoundLaunch> launches;
  MappedMemory weights; ///< the copy, once it is used
  std::unique_ptr<WeightsCopy> copy;
};

} // namespace qlm

#endif // QLM_LIB_RUNTIME_CPU_CPUEXECUTOR_H
