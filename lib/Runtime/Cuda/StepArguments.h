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

/// The block on the GPU, and two pinned ones on the host that bring it there
/// in turn, so that the next step's can be written while one is under way.
class StepArguments {
public:
  /// Room for steps of at most \p most.
  static Result<StepArguments> create(const Gpu &gpu,
                                      const format::StepSizes &most);

  static int64_t bytesFor(const format::StepSizes &most) {
    return StepLayout(most).bytes;
  }

  /// Packs \p batch and its \p requests (one a wanted row, or none) and starts
  /// the copy. What was sent from the same one of the two blocks, \p turn 0 or
  /// 1, must have been waited for.
  Status send(const StepBatch &batch, const StepLayout &layout,
              const std::vector<format::SampleRequest> &requests, int turn,
              Stream stream);

  /// The same for the step after \p batch, all of whose sequences have one row
  /// and go on: positions and contexts are one further, and the tokens are
  /// those that the GPU left in their place.
  Status sendNext(const StepBatch &batch, const StepLayout &layout,
                  const std::vector<format::SampleRequest> &requests, int turn,
                  Stream stream);

  DevicePointer at(int64_t offset) const { return device.get() + offset; }

private:
  int64_t pack(const StepBatch &batch, const StepLayout &layout,
               const std::vector<format::SampleRequest> &requests, int turn);

  const Gpu *gpu = nullptr;
  PinnedMemory host[2];
  DeviceMemory device;
};

} // namespace qlm::cuda

#endif // QLM_LIB_RUNTIME_CUDA_STEPARGUMENTS_H
