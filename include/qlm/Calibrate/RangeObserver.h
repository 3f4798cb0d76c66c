//===- RangeObserver.h - Ranges of one linear's inputs ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_CALIBRATE_RANGEOBSERVER_H
#define QLM_CALIBRATE_RANGEOBSERVER_H

#include <cstdint>
#include <vector>

namespace qlm {

/// What static scales of inputs can be found from: the ranges of rows
/// x[features], seen some at a time. Formulas: qlm/Calibrate/Calibrate.h.
class RangeObserver {
public:
  static constexpr int64_t kBins = 2048;

  explicit RangeObserver(int64_t features);

  int64_t getFeatures() const { return features; }

  /// Adds \p values, finite numbers, of \p rows rows that were seen together.
  void addRanges(const float *values, int64_t rows);

  /// The largest magnitude of each feature.
  const std::vector<float> &getAbsmax() const { return absmax; }
  /// Smallest and largest value, averaged over what was seen together.
  std::vector<float> getAverageRange() const {
    return {static_cast<float>(averageSmallest),
            static_cast<float>(averageLargest)};
  }
  /// Magnitudes that 99.9 % and 99.99 % of the values stay below, and the one
  /// that clips with least entropy lost.
  std::vector<float> findThresholds() const;

protected:
  /// Adds the smallest (at most 0) and largest value of what was seen together.
  void addWindow(float low, float high);

  void addCounts(const float *values, int64_t count);

  int64_t features;
  int64_t stepsSeen = 0;
  std::vector<float> absmax;
  std::vector<double> magnitudes; ///< sums, by feature
  float smallest = 0, largest = 0;
  double averageSmallest = 0, averageLargest = 0;
  std::vector<double> histogram;
  float histogramTop = 0;
};

} // namespace qlm

#endif // QLM_CALIBRATE_RANGEOBSERVER_H
