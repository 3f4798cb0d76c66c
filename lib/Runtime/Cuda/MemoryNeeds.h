//===- MemoryNeeds.h - Whether the plan fits on the GPU ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_MEMORYNEEDS_H
#define QLM_LIB_RUNTIME_CUDA_MEMORYNEEDS_H

#include "Device.h"

#include <vector>

namespace qlm::cuda {

/// Left free for what the driver takes for graphs and kernels' stacks.
inline constexpr int64_t kDriverReserveBytes = 64 << 20;

/// GPU memory for one purpose.
struct MemoryNeed {
  const char *purpose;
  int64_t bytes;
};

/// Fails with ResourceExhausted, with the plan's numbers and the GPU's, unless
/// all of \p needs and the driver's reserve fit in what is free now.
Status checkMemory(const Gpu &gpu, const std::vector<MemoryNeed> &needs);

} // namespace qlm::cuda

#endif // QLM_LIB_RUNTIME_CUDA_MEMORYNEEDS_H
