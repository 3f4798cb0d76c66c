//===- GpuCode.h - The package's kernels on this GPU ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_GPUCODE_H
#define QLM_LIB_RUNTIME_CUDA_GPUCODE_H

#include "Device.h"
#include "qlm/Runtime/Package.h"

#include <unordered_map>

namespace qlm::cuda {

/// Whether machine code for \p chip ("sm_90a") runs on a GPU of compute
/// capability \p capability (90): the same major version and no newer minor
/// one; with a suffix, that GPU alone.
bool runsOn(const std::string &chip, int capability);

/// The same of PTX: any GPU at least as new; with a suffix, that GPU alone.
bool compilesFor(const std::string &chip, int capability);

/// CUDA version of the oldest driver that reads PTX \p version (83 is 8.3):
/// 12030, as cuDriverGetVersion counts.
int driverFor(int64_t ptxVersion);

/// One loaded module and its kernels.
class GpuCode {
public:
  /// Loads the machine code for the GPU's chip, else the PTX, and finds the
  /// kernels of all launches that run on it.
  /// Errors: Unsupported (no code for this GPU, a driver older than the PTX,
  /// a kernel that takes more shared memory than a block has), Corrupt.
  static Result<GpuCode> load(const Gpu &gpu, const Package &package);

  /// The chip whose variants run.
  const std::string &getChip() const { return chip; }
  Function getFunction(const std::string &kernel) const {
    return functions.at(kernel);
  }

private:
  Status loadModule(const Gpu &gpu, const Package &package,
                    const GpuModule &module);
  Status findFunctions(const Gpu &gpu, const std::vector<Launch> &launches);

  std::string chip, file;
  OwnedModule module;
  std::unordered_map<std::string, Function> functions;
};

/// Runs variants of one chip only.
inline bool isFor(const LaunchVariant &variant, const std::string &chip) {
  return variant.chip.empty() || variant.chip == chip;
}

} // namespace qlm::cuda

#endif // QLM_LIB_RUNTIME_CUDA_GPUCODE_H
