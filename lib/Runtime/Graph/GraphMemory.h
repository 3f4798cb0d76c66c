//===- GraphMemory.h - Memory of a graph's buffers --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_GRAPHMEMORY_H
#define QLM_LIB_RUNTIME_GRAPHMEMORY_H

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

namespace qlm {

/// Memory for the buffers of a graph's runs. What is given back is taken again,
/// in the run and in the next one: large pieces from the system would have to
/// be cleared, page by page, each time.
class GraphMemory {
public:
  /// Memory of \p bytes, 64-byte aligned, of which 63 more may be read; null
  /// when there is none.
  void *allocate(size_t bytes);
  /// Takes back what allocate() gave.
  void release(void *memory);
  /// Ends a run: all is taken back, and what it had no use for goes.
  void finish();

private:
  struct Free {
    void operator()(char *memory) const { std::free(memory); }
  };
  struct Block {
    std::unique_ptr<char, Free> memory;
    size_t bytes;
    bool isTaken, wasTaken;
  };
  std::vector<Block> blocks;
};

} // namespace qlm

#endif // QLM_LIB_RUNTIME_GRAPHMEMORY_H
