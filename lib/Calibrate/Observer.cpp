//===- Observer.cpp - Statistics of one linear's inputs -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Observer.h"

#include "qlm/Quantize/Products.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace qlm;

int64_t LinearObserver::countHeld(int64_t features) {
  int64_t held = 0;
  for (int64_t first = 0; first < features; first += kPanel) {
    int64_t last = std::min(first + kPanel, features);
    held += (last - first) * last;
  }
  return held;
}

int64_t LinearObserver::getMomentBytes(int64_t features, bool onGpu) {
  return 4 * (onGpu ? features * features : countHeld(features));
}

LinearObserver::LinearObserver(std::string label, int64_t features,
                               GpuMoments *gpu, int64_t windows)
    : RangeObserver(features), label(std::move(label)),
      moments(static_cast<size_t>(gpu ? 0 : countHeld(features))), gpu(gpu),
      windows(windows) {}

void LinearObserver::reserveRows(int64_t rows) {
  // It keeps its size: clearing it would be work for nothing.
  pending.resize(
      std::max(pending.size(), static_cast<size_t>(rows * features)));
  pendingRows = rows;
}

void LinearObserver::put(int64_t row, const float *values, int64_t count) {
  std::memcpy(pending.data() + row * features, values,
              static_cast<size_t>(count * features) * sizeof(float));
}

void LinearObserver::addMoments(int64_t rows) {
  float *panel = moments.data();
  for (int64_t first = 0; first < features; first += kPanel) {
    int64_t last = std::min(first + kPanel, features);
    numerics::addProduct<float>(last - first, last, rows, 1,
                                {pending.data() + first, 1, features},
                                {pending.data(), features, 1}, panel, last);
    panel += (last - first) * last;
  }
}

Status LinearObserver::addRows() {
  int64_t rows = pendingRows;
  if (!std::all_of(pending.begin(), pending.begin() + rows * features,
                   [](float value) { return std::isfinite(value); }))
    return makeNotFinite();
  addMoments(rows);
  addRanges(pending.data(), rows);
  rowsSeen += rows;
  pendingRows = 0;
  return Status();
}

//===----------------------------------------------------------------------===//
// Rows on a GPU
//===----------------------------------------------------------------------===//

Status LinearObserver::addDeviceRows(const Executor::DeviceRows &rows) {
  if (!gpuSums.features) {
    Result<GpuMoments::Sums> made = gpu->makeSums(features, windows);
    if (!made.ok())
      return made.status();
    gpuSums = made.take();
  }
  rowsSeen += rows.count;
  return gpu->add(gpuSums, rows);
}

Status LinearObserver::fetch(const GpuMoments::Sink &sink) {
  Result<GpuMoments::Ranges> ranges = gpu->fetchRanges(gpuSums);
  if (!ranges.ok())
    return ranges.status();
  for (auto [below, above] : ranges->windows) {
    if (!std::isfinite(below) || !std::isfinite(above))
      return makeNotFinite();
    addWindow(-below, above);
  }
  absmax = std::move(ranges->absmax);
  magnitudes = std::move(ranges->magnitudes);
  histogram = std::move(ranges->histogram);
  histogramTop = ranges->histogramTop;
  QLM_RETURN_IF_ERROR(gpu->fetchMoments(gpuSums, getFactor(), sink));
  gpuSums = {};
  return Status();
}

//===----------------------------------------------------------------------===//
// Results
//===----------------------------------------------------------------------===//

std::vector<Statistic> LinearObserver::getStatistics() const {
  return {{label + ".second_moments", {features, features}},
          {label + ".absmax", {features}},
          {label + ".mean_magnitude", {features}},
          {label + ".range", {2}},
          {label + ".average_range", {2}},
          {label + ".histogram", {kBins}},
          {label + ".thresholds", {3}}};
}

/// The sums as a matrix [features, features], its upper triangle not yet set.
std::vector<float> LinearObserver::takeSums() {
  std::vector<float> sums(static_cast<size_t>(features * features));
  const float *panel = moments.data();
  for (int64_t first = 0; first < features; first += kPanel) {
    int64_t last = std::min(first + kPanel, features);
    for (int64_t row = first; row < last; ++row, panel += last)
      std::copy_n(panel, row + 1, sums.data() + row * features);
  }
  moments = {};
  return sums;
}

std::vector<float> LinearObserver::takeMoments(float factor) {
  std::vector<float> sums = takeSums();
  // By tiles, so that both triangles stay in the cache.
  constexpr int64_t kTile = 64;
  for (int64_t row = 0; row < features; row += kTile)
    for (int64_t column = 0; column <= row; column += kTile)
      for (int64_t i = row; i < std::min(row + kTile, features); ++i)
        for (int64_t j = column; j < std::min(column + kTile, i + 1); ++j) {
          float mean = sums[i * features + j] * factor;
          sums[i * features + j] = sums[j * features + i] = mean;
        }
  return sums;
}

std::vector<std::vector<float>> LinearObserver::finish() {
  std::vector<float> means;
  for (double sum : magnitudes)
    means.push_back(static_cast<float>(sum / getRows()));
  return {
      gpu ? std::vector<float>() : takeMoments(getFactor()),
      absmax,
      std::move(means),
      {smallest, largest},
      {static_cast<float>(averageSmallest), static_cast<float>(averageLargest)},
      std::vector<float>(histogram.begin(), histogram.end()),
      findThresholds()};
}
