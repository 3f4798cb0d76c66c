//===- Executor.cpp - The executor of a package's device ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Executor.h"

#include "Cpu/CpuExecutor.h"

using namespace qlm;

Result<std::unique_ptr<Executor>> Executor::create(const Package &package,
                                                   int threads, bool reserve) {
  return CpuExecutor::create(package, threads, reserve);
}

int64_t Executor::bytesPerStep() const {
  int64_t bytes = 0;
  for (const Launch &launch : package.getManifest().launches)
    bytes += launch.bytes;
  return bytes;
}
