//===- GraphThreads.h - Runs the launches of a graph ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_GRAPHTHREADS_H
#define QLM_LIB_RUNTIME_GRAPHTHREADS_H

#include "GraphMemory.h"
#include "qlm/Package/GraphFormat.h"
#include "qlm/Runtime/ThreadPool.h"
#include "qlm/Runtime/TileQueue.h"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace qlm {

/// Why a run ends early.
enum class GraphExit { None, SizesContradict, OutOfMemory };

/// Leaves the run that this thread is in.
[[noreturn]] void leaveGraph(GraphExit why);

/// The pool of a graph, with each thread's scratch. One run has it at a time;
/// runs that find it taken compute alone.
class GraphThreads {
public:
  explicit GraphThreads(int threads)
      : pool(threads), queue(threads), scratch(threads) {}

  /// What format::kGraphLaunch holds: runs on the threads of the Use that this
  /// thread is in.
  static void launch(format::KernelFunction kernel, void *const *buffers,
                     const format::StepSizes *sizes, int64_t tiles,
                     int64_t scratchBytes);

  /// What format::kGraphAllocate and format::kGraphRelease hold: memory of the
  /// Use that this thread is in.
  static void *allocate(int64_t bytes);
  static void release(void *memory);

  /// Launches of this thread use \p threads while it lives.
  class Use {
  public:
    explicit Use(GraphThreads &threads);
    /// Ends the run: its memory is taken back.
    ~Use();
    Use(const Use &) = delete;
    Use &operator=(const Use &) = delete;

  private:
    GraphThreads *outer;
    std::unique_lock<std::mutex> lock;
    std::unique_ptr<GraphThreads> own; ///< where the pool was taken
  };

private:
  struct Free {
    void operator()(char *memory) const { std::free(memory); }
  };
  struct Scratch {
    std::unique_ptr<char, Free> memory;
    int64_t bytes = 0;
  };

  void run(format::KernelFunction kernel, void *const *buffers,
           const format::StepSizes *sizes, int64_t tiles);
  /// Gives each thread scratch; false when there is no memory.
  bool reserve(int64_t bytes);

  ThreadPool pool;
  TileQueue queue;
  std::vector<Scratch> scratch;
  GraphMemory memory;
  std::mutex mutex;
};

} // namespace qlm

#endif // QLM_LIB_RUNTIME_GRAPHTHREADS_H
