//===- Observer.h - Statistics of one linear's inputs -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_CALIBRATE_OBSERVER_H
#define QLM_LIB_CALIBRATE_OBSERVER_H

#include "GpuMoments.h"
#include "qlm/Calibrate/RangeObserver.h"

#include <cstdint>
#include <string>
#include <vector>

namespace qlm {

/// One tensor of the statistics file, f32.
struct Statistic {
  std::string name; ///< "layers.0.qkv.absmax"
  std::vector<int64_t> shape;

  int64_t elements() const {
    int64_t product = 1;
    for (int64_t size : shape)
      product *= size;
    return product;
  }
};

/// What the inputs of one linear have been so far. Formulas:
/// qlm/Calibrate/Calibrate.h.
class LinearObserver : private RangeObserver {
public:
  /// Second moments are summed on \p gpu, which must outlive it, if any.
  LinearObserver(std::string label, int64_t features,
                 GpuMoments *gpu = nullptr);

  const std::string &getLabel() const { return label; }
  using RangeObserver::getFeatures;

  /// Room for \p rows rows; filled by `put` from any thread, then added by
  /// `addRows` from one.
  void reserveRows(int64_t rows);
  void put(int64_t row, const float *values, int64_t count);
  /// Adds the rows put since `reserveRows`. Errors: Internal, when one isn't
  /// finite; those of the GPU.
  Status addRows();
  /// Brings the moments here that a GPU has; before `finish`.
  Status fetchMoments();

  /// The tensors that `finish` gives, in its order.
  std::vector<Statistic> getStatistics() const;
  std::vector<std::vector<float>> finish();

  /// Bytes of the sums that an observer of \p features holds.
  static int64_t getMomentBytes(int64_t features, bool onGpu);

private:
  /// Rows of the triangle that are held together, as long as the last of them.
  static constexpr int64_t kPanel = 256;

  static int64_t countHeld(int64_t features);
  std::vector<float> takeSums();
  Status addMoments(int64_t rows);

  std::string label;
  int64_t rowsSeen = 0;
  std::vector<float> pending; ///< [most rows so far, features]
  int64_t pendingRows = 0;    ///< of it that were reserved
  /// Sums: the lower triangle in panels of kPanel rows, one after the other,
  /// or a matrix that a GPU gave.
  std::vector<float> moments;
  GpuMoments *gpu;
  GpuMoments::Sums gpuSums; ///< made with the first rows
};

} // namespace qlm

#endif // QLM_LIB_CALIBRATE_OBSERVER_H
