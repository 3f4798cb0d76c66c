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
/// qlm/Calibrate/Calibrate.h. Rows are the processor's (`reserveRows`, `put`,
/// `addRows`, `finish`) or a GPU's (`addDeviceRows`, `fetch`, `finish`).
class LinearObserver : private RangeObserver {
public:
  /// With \p gpu, which must outlive it, rows are seen there, in at most
  /// \p windows windows.
  LinearObserver(std::string label, int64_t features, GpuMoments *gpu = nullptr,
                 int64_t windows = 0);

  const std::string &getLabel() const { return label; }
  using RangeObserver::getFeatures;

  /// Room for \p rows rows; filled by `put` from any thread, then added by
  /// `addRows` from one.
  void reserveRows(int64_t rows);
  void put(int64_t row, const float *values, int64_t count);
  /// Adds the rows put since `reserveRows`. Errors: Internal, when one isn't
  /// finite.
  Status addRows();
  /// Adds a window's rows; none may be lost, and they are looked at in `fetch`.
  Status addDeviceRows(const Executor::DeviceRows &rows);
  /// Brings what the GPU has: moments to \p sink, both triangles of them.
  /// Errors: Internal, when a row wasn't finite.
  Status fetch(const GpuMoments::Sink &sink);

  /// The tensors that `finish` gives, in its order.
  std::vector<Statistic> getStatistics() const;
  /// The first, second moments, is empty where `fetch` gave it to a sink.
  std::vector<std::vector<float>> finish();

  /// Bytes of the sums that an observer of \p features holds.
  static int64_t getMomentBytes(int64_t features, bool onGpu);

private:
  /// Rows of the triangle that are held together, as long as the last of them.
  static constexpr int64_t kPanel = 256;

  static int64_t countHeld(int64_t features);
  std::vector<float> takeSums();
  std::vector<float> takeMoments(float factor);
  void addMoments(int64_t rows);
  Status makeNotFinite() const {
    return Status(StatusCode::Internal,
                  "inputs of " + label + " must be finite");
  }
  double getRows() const {
    return static_cast<double>(rowsSeen > 0 ? rowsSeen : 1);
  }
  float getFactor() const { return static_cast<float>(1 / getRows()); }

  std::string label;
  int64_t rowsSeen = 0;
  std::vector<float> pending; ///< [most rows so far, features]
  int64_t pendingRows = 0;    ///< of it that were reserved
  /// Sums: the lower triangle in panels of kPanel rows, one after the other.
  std::vector<float> moments;
  GpuMoments *gpu;
  int64_t windows;
  GpuMoments::Sums gpuSums; ///< made with the first rows
};

} // namespace qlm

#endif // QLM_LIB_CALIBRATE_OBSERVER_H
