//===- StepArguments.h - A step's arguments on the GPU ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_STEPARGUMENTS_H
#define QLM_LIB_RUNTIME_CUDA_STEPARGUMENTS_H

#include "Device.h"
#include "qlm/Runtime/StepBatch.h"

namespace qlm::cuda {

/// Where sizes, step arguments and sampling requests lie in one block, for
/// steps of at most the given sizes: as close together as the alignment
/// allows, so that one short copy brings them all.
struct StepLayout {
  explicit StepLayout(const format::StepSizes &most);

  format::StepSizes most;
  // StepSizes lie at 0.
  int64_t arguments[format::kStepArgumentCount];
  int64_t sampling;
  int64_t bytes;
};

/// The block, pinned on the host and on the GPU.
class StepArguments {
public:
  /// Room for steps of at most \p most.
  static Result<StepArguments> create(const Gpu &gpu,
                                      const format::StepSizes &most);

  static int64_t bytesFor(const format::StepSizes &most) {
    return StepLayout(most).bytes;
  }

  /// Packs \p batch and its \p requests (one a wanted row, or none) and starts
  /// the copy. The last one must have been waited for.
  Status send(const StepBatch &batch, const StepLayout &layout,
              const std::vector<format::SampleRequest> &requests,
              Stream stream);

  DevicePointer at(int64_t offset) const { return device.get() + offset; }

private:
  const Gpu *gpu = nullptr;
  PinnedMemory host;
  DeviceMemory device;
};

} // namespace qlm::cuda

#endif // QLM_LIB_RUNTIME_CUDA_STEPARGUMENTS_H
