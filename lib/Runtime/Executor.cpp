//===- Executor.cpp - The executor of a package's device ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Executor.h"

#include "Cpu/CpuExecutor.h"
#include "Cuda/CudaExecutor.h"

using namespace qlm;

Result<std::unique_ptr<Executor>> Executor::create(const Package &package,
                                                   const Options &options) {
  if (package.getManifest().target.isCuda())
    return CudaExecutor::create(package, options);
  return CpuExecutor::create(package, options.threads, options.reserve);
}

int64_t Executor::bytesPerStep() const {
  int64_t bytes = 0;
  for (const Launch &launch : package.getManifest().launches)
    bytes += launch.bytes;
  return bytes;
}
