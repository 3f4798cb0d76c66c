//===- GraphMemory.cpp - Memory of a graph's buffers ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GraphMemory.h"

#include <algorithm>
#include <cstdint>

using namespace qlm;

static constexpr size_t kLine = 64;

void *GraphMemory::allocate(size_t bytes) {
  Block *best = nullptr;
  for (Block &block : blocks)
    if (!block.isTaken && block.bytes >= bytes && block.bytes / 2 <= bytes &&
        (!best || block.bytes < best->bytes))
      best = &block;
  if (!best) {
    if (bytes > SIZE_MAX - 2 * kLine)
      return nullptr;
    size_t size = (bytes + 2 * kLine - 1) / kLine * kLine;
    auto *memory = static_cast<char *>(std::aligned_alloc(kLine, size));
    if (!memory)
      return nullptr;
    blocks.push_back({std::unique_ptr<char, Free>(memory), bytes, true, true});
    return memory;
  }
  best->isTaken = best->wasTaken = true;
  return best->memory.get();
}

void GraphMemory::release(void *memory) {
  for (Block &block : blocks)
    if (block.memory.get() == memory)
      block.isTaken = false;
}

void GraphMemory::finish() {
  blocks.erase(
      std::remove_if(blocks.begin(), blocks.end(),
                     [](const Block &block) { return !block.wasTaken; }),
      blocks.end());
  for (Block &block : blocks)
    block.isTaken = block.wasTaken = false;
}
