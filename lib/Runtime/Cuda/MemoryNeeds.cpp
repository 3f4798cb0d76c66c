//===- MemoryNeeds.cpp - Whether the plan fits on the GPU -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "MemoryNeeds.h"

#include <cstdio>

using namespace qlm;
using namespace qlm::cuda;

static std::string megabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f MB",
                static_cast<double>(bytes) * 1e-6);
  return text;
}

Status cuda::checkMemory(const Gpu &gpu, const std::vector<MemoryNeed> &needs) {
  size_t free = 0, total = 0;
  QLM_CUDA_TRY(gpu.getDriver(), "asking for the GPU's free memory",
               cuMemGetInfo, &free, &total);
  int64_t needed = kDriverReserveBytes;
  std::string list;
  for (const MemoryNeed &need : needs) {
    // No sum of a few numbers below 2^48 overflows.
    needed += need.bytes;
    list += std::string(need.purpose) + " " + megabytes(need.bytes) + ", ";
  }
  if (needed <= static_cast<int64_t>(free))
    return Status();
  return Status(
      StatusCode::ResourceExhausted,
      "the plan takes " + megabytes(needed) + " of GPU memory (" + list +
          "driver " + megabytes(kDriverReserveBytes) + "), the " +
          gpu.getName() + " has " + megabytes(static_cast<int64_t>(free)) +
          " free of " + megabytes(static_cast<int64_t>(total)) +
          "; recompile it with quantc --max-batch or --max-context lower");
}
