//===- WeightLoader.h - Brings weights to the GPU ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_WEIGHTLOADER_H
#define QLM_LIB_RUNTIME_CUDA_WEIGHTLOADER_H

#include "Device.h"
#include "qlm/Runtime/Package.h"

#include <unordered_map>

namespace qlm::cuda {

/// The package's weights on the GPU: one allocation, each tensor that a launch
/// reads at a multiple of format::kDeviceAlignment.
class DeviceWeights {
public:
  /// Lays out the tensors that \p manifest's launches read.
  explicit DeviceWeights(const Package &package);

  int64_t getBytes() const { return bytes; }

  /// Takes the memory and fills it. Several threads read the file in chunks to
  /// two pinned buffers each, from which the GPU copies by itself while the
  /// next chunk is read; the checksum is taken in the same pass, chunk after
  /// chunk, by whichever thread holds the chunk whose turn it is.
  /// Errors: ResourceExhausted, Io, Corrupt (a file that is damaged, or shorter
  /// than it was when the package was loaded).
  Status load(const Gpu &gpu, int threads);

  /// Address of the tensor \p key, which a launch must read.
  DevicePointer at(const std::string &key) const {
    return memory.get() + offsets.at(key);
  }

private:
  const Package &package;
  std::unordered_map<std::string, uint64_t> offsets; ///< in the allocation
  int64_t bytes = 0;
  DeviceMemory memory;
};

} // namespace qlm::cuda

#endif // QLM_LIB_RUNTIME_CUDA_WEIGHTLOADER_H
