//===- Harness.cpp - Memory and threads of the kernel benchmarks ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Harness.h"

#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/MathExtras.h"

#include <sys/mman.h>

char *mlir::qlm::bench::allocate(int64_t bytes) {
  void *map = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED)
    llvm::report_fatal_error("not enough memory");
  char *data = reinterpret_cast<char *>(
      llvm::alignTo(reinterpret_cast<uintptr_t>(map), kHugePage));
  madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}
