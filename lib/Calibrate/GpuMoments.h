//===- GpuMoments.h - Statistics of rows that a GPU has ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Second moments are most of the work of a calibration: K² for each token and
// linear. With cuBLAS, opened when it is asked for, they are summed where a
// GPU's step leaves its rows, and stay there until all text was seen; the
// step's own kernel finds ranges and histograms. cuBLAS's sums are in another
// order than the processor's.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_CALIBRATE_GPUMOMENTS_H
#define QLM_LIB_CALIBRATE_GPUMOMENTS_H

#include "../Runtime/Cuda/Device.h"
#include "qlm/Runtime/Executor.h"

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace qlm {

/// A GPU with cuBLAS. Threads may share it.
class GpuMoments {
public:
  /// The sums of one linear.
  struct Sums {
    int64_t features = 0;
    int64_t windows = 0;          ///< seen so far
    int64_t mostWindows = 0;      ///< there is room for
    cuda::DeviceMemory moments;   ///< f32 [features, features], lower triangle
    cuda::DeviceMemory smallOnes; ///< the other statistics, see Places
  };

  /// What `fetchRanges` brings: of all rows, but for `windows`.
  struct Ranges {
    std::vector<double> magnitudes; ///< sums, by feature
    std::vector<float> absmax;      ///< by feature
    std::vector<double> histogram;
    float histogramTop = 0;
    /// The largest magnitudes of each window, below 0 and not; not finite
    /// where a value was not.
    std::vector<std::pair<float, float>> windows;
  };

  /// Takes elements from \p first on, \p count of them.
  using Sink =
      std::function<Status(int64_t first, const float *values, int64_t count)>;

  /// \p blas are names of cuBLAS's library, tried in turn.
  /// Errors: Unsupported (no driver, no GPU, no cuBLAS), Io.
  static Result<std::unique_ptr<GpuMoments>>
  open(const std::string &driver, const std::vector<std::string> &blas);
  ~GpuMoments();
  GpuMoments(const GpuMoments &) = delete;
  GpuMoments &operator=(const GpuMoments &) = delete;

  /// Zeros, for at most \p windows calls of `add`. Errors: ResourceExhausted.
  Result<Sums> makeSums(int64_t features, int64_t windows);
  /// Gives the rows' stream the work that adds them.
  Status add(Sums &sums, const Executor::DeviceRows &rows);
  /// After the step whose rows were last added.
  Result<Ranges> fetchRanges(const Sums &sums);
  /// The moments times \p factor, both triangles, in order; they are used up.
  Status fetchMoments(Sums &sums, float factor, const Sink &sink);

private:
  struct Blas;

  GpuMoments();
  Status start(const std::vector<std::string> &names);
  Status halveDiagonal(const Sums &sums, void *stream);
  /// Gives \p stream rows from \p first on of the whole, scaled matrix.
  Status mirror(const Sums &sums, float factor, int64_t first, int64_t count,
                cuda::DevicePointer target, void *stream);

  std::mutex mutex; ///< of the handle, whose stream each user sets
  std::unique_ptr<cuda::Gpu> gpu;
  std::unique_ptr<Blas> blas;
};

/// cuBLAS's library, by the names that its versions have.
std::vector<std::string> getBlasNames();

} // namespace qlm

#endif // QLM_LIB_CALIBRATE_GPUMOMENTS_H
