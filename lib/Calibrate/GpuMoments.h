//===- GpuMoments.h - Sums of x xᵀ on a GPU ---------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Second moments are most of the work of a calibration: K² for each token and
// linear. With cuBLAS, opened when it is asked for, they stay on the GPU until
// all text was seen; its sums are in another order than the processor's.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_CALIBRATE_GPUMOMENTS_H
#define QLM_LIB_CALIBRATE_GPUMOMENTS_H

#include "../Runtime/Cuda/Device.h"

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace qlm {

/// A GPU with cuBLAS. Threads may share it; one is at work at a time.
class GpuMoments {
public:
  /// The sums of one linear, `[features, features]` f32.
  struct Sums {
    cuda::DeviceMemory memory;
    int64_t features = 0;
  };

  /// \p blas are names of cuBLAS's library, tried in turn.
  /// Errors: Unsupported (no driver, no GPU, no cuBLAS), Io.
  static Result<std::unique_ptr<GpuMoments>>
  open(const std::string &driver, const std::vector<std::string> &blas);
  ~GpuMoments();
  GpuMoments(const GpuMoments &) = delete;
  GpuMoments &operator=(const GpuMoments &) = delete;

  /// Zeros. Errors: ResourceExhausted.
  Result<Sums> makeSums(int64_t features);
  /// Adds x xᵀ for each row x of \p rows `[count, features]`.
  Status add(Sums &sums, const float *rows, int64_t count);
  /// The lower triangle of \p sums, row-major; above it anything.
  Status fetch(const Sums &sums, float *target);

private:
  struct Blas;

  GpuMoments();
  Status start(const std::vector<std::string> &names);
  /// Room for \p bytes of rows, and to pass them through.
  Status reserve(int64_t bytes);

  std::mutex mutex;
  std::unique_ptr<cuda::Gpu> gpu;
  std::unique_ptr<Blas> blas;
  cuda::OwnedStream stream;
  cuda::DeviceMemory rowMemory;
  cuda::PinnedMemory staging; ///< what goes to the GPU, and comes from it
  int64_t rowBytes = 0;       ///< of both
};

/// cuBLAS's library, by the names that its versions have.
std::vector<std::string> getBlasNames();

} // namespace qlm

#endif // QLM_LIB_CALIBRATE_GPUMOMENTS_H
