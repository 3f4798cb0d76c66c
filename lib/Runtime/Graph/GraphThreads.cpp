//===- GraphThreads.cpp - Runs the launches of a graph --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GraphThreads.h"

#include "qlm/Package/LaunchScratch.h"

using namespace qlm;

/// Chunks of each thread's part of a launch: an idle thread takes the others'
/// last ones. Few tiles stay together, where what they share is made once a
/// chunk; many share nothing.
static constexpr int64_t kChunks = 2, kMostChunks = 8;
static constexpr int64_t kManyTiles = 8, kTilesApart = 32;

static int64_t getChunks(const format::StepSizes &sizes, int64_t tiles,
                         int64_t threads) {
  static_assert(format::kSizeTilesApart == format::kSizeSequences);
  if (sizes.sequences || tiles >= kTilesApart)
    return kMostChunks;
  return tiles > kManyTiles * threads ? kChunks : 1;
}

static thread_local GraphThreads *current = nullptr;

GraphThreads::Use::Use(GraphThreads &threads)
    : outer(current), lock(threads.mutex, std::try_to_lock) {
  if (!lock.owns_lock())
    own = std::make_unique<GraphThreads>(1);
  current = own ? own.get() : &threads;
}

GraphThreads::Use::~Use() {
  current->memory.finish();
  current = outer;
}

void *GraphThreads::allocate(int64_t bytes) {
  void *memory = bytes < 0
                     ? nullptr
                     : current->memory.allocate(static_cast<size_t>(bytes));
  if (!memory)
    leaveGraph(GraphExit::OutOfMemory);
  return memory;
}

void GraphThreads::release(void *memory) { current->memory.release(memory); }

/// Kernels read up to 63 bytes past what they are given.
bool GraphThreads::reserve(int64_t bytes) {
  size_t size = (static_cast<size_t>(bytes) + 127) / 64 * 64;
  for (Scratch &each : scratch) {
    if (each.memory && each.bytes >= bytes)
      continue;
    each.memory.reset(static_cast<char *>(std::aligned_alloc(64, size)));
    if (!each.memory)
      return false;
    each.bytes = bytes;
  }
  return true;
}

void GraphThreads::run(format::KernelFunction kernel, void *const *buffers,
                       const format::StepSizes *sizes, int64_t tiles) {
  for (Scratch &each : scratch)
    format::beginLaunch(each.memory.get());
  if (pool.size() == 1 || tiles == 1)
    return kernel(buffers, sizes, 0, tiles, scratch[0].memory.get());
  queue.reset(tiles, getChunks(*sizes, tiles, pool.size()));
  pool.run([&](int index) {
    char *memory = scratch[static_cast<size_t>(index)].memory.get();
    for (;;) {
      auto [lo, hi] = queue.take(index);
      if (lo == hi)
        return;
      kernel(buffers, sizes, lo, hi, memory);
    }
  });
}

void GraphThreads::launch(format::KernelFunction kernel, void *const *buffers,
                          const format::StepSizes *sizes, int64_t tiles,
                          int64_t scratchBytes) {
  if (!tiles)
    return;
  if (!current->reserve(scratchBytes))
    leaveGraph(GraphExit::OutOfMemory);
  current->run(kernel, buffers, sizes, tiles);
}
