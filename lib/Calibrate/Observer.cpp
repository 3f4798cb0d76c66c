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
#include <limits>

using namespace qlm;

/// Weight of what was seen before in an averaged range.
static constexpr double kMomentum = 0.99;

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
                               GpuMoments *gpu)
    : label(std::move(label)), features(features),
      moments(static_cast<size_t>(gpu ? 0 : countHeld(features))), gpu(gpu),
      absmax(static_cast<size_t>(features)),
      magnitudes(static_cast<size_t>(features)),
      histogram(static_cast<size_t>(kBins)) {}

void LinearObserver::reserveRows(int64_t rows) {
  pending.resize(static_cast<size_t>(rows * features));
}

void LinearObserver::put(int64_t row, const float *values, int64_t count) {
  std::memcpy(pending.data() + row * features, values,
              static_cast<size_t>(count * features) * sizeof(float));
}

Status LinearObserver::addMoments(int64_t rows) {
  float *panel = moments.data();
  for (int64_t first = 0; !gpu && first < features; first += kPanel) {
    int64_t last = std::min(first + kPanel, features);
    numerics::addProduct<float>(last - first, last, rows, 1,
                                {pending.data() + first, 1, features},
                                {pending.data(), features, 1}, panel, last);
    panel += (last - first) * last;
  }
  if (!gpu)
    return Status();
  if (!gpuSums.features) {
    Result<GpuMoments::Sums> made = gpu->makeSums(features);
    if (!made.ok())
      return made.status();
    gpuSums = made.take();
  }
  return gpu->add(gpuSums, pending.data(), rows);
}

Status LinearObserver::fetchMoments() {
  if (!gpu || !gpuSums.features)
    return Status();
  moments.resize(static_cast<size_t>(features * features));
  QLM_RETURN_IF_ERROR(gpu->fetch(gpuSums, moments.data()));
  gpuSums = {};
  return Status();
}

Status LinearObserver::addRows() {
  int64_t rows = static_cast<int64_t>(pending.size()) / features;
  if (!std::all_of(pending.begin(), pending.end(),
                   [](float value) { return std::isfinite(value); }))
    return Status(StatusCode::Internal,
                  "inputs of " + label + " must be finite");
  QLM_RETURN_IF_ERROR(addMoments(rows));
  addRanges(rows);
  rowsSeen += rows;
  ++stepsSeen;
  pending.clear();
  return Status();
}

void LinearObserver::addRanges(int64_t rows) {
  float low = 0, high = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < features; ++k) {
      float value = pending[static_cast<size_t>(row * features + k)];
      float magnitude = std::fabs(value);
      absmax[k] = std::max(absmax[k], magnitude);
      magnitudes[k] += magnitude;
      low = std::min(low, value);
      high = std::max(high, value);
    }
  smallest = std::min(smallest, low);
  largest = std::max(largest, high);
  double keep = stepsSeen ? kMomentum : 0;
  averageSmallest = keep * averageSmallest + (1 - keep) * low;
  averageLargest = keep * averageLargest + (1 - keep) * high;
  if (histogramTop == 0)
    histogramTop = std::max(-low, high);
  if (histogramTop == 0)
    return;
  double binsPerUnit = static_cast<double>(kBins) / histogramTop;
  for (float value : pending) {
    auto bin = static_cast<int64_t>(std::fabs(value) * binsPerUnit);
    histogram[std::min(bin, kBins - 1)] += 1;
  }
}

//===----------------------------------------------------------------------===//
// Thresholds
//===----------------------------------------------------------------------===//

/// Entropy lost when the first \p bins bins, with what is clipped in the last,
/// are told by 128 levels.
static double findDivergence(const std::vector<double> &histogram,
                             int64_t bins) {
  constexpr int64_t kLevels = 128;
  double clipped = 0, total = 0;
  for (size_t i = 0; i < histogram.size(); ++i) {
    total += histogram[i];
    clipped += static_cast<int64_t>(i) >= bins ? histogram[i] : 0;
  }
  double divergence = 0;
  for (int64_t level = 0; level < kLevels; ++level) {
    int64_t first = level * bins / kLevels, last = (level + 1) * bins / kLevels;
    double sum = 0;
    int64_t filled = 0;
    for (int64_t i = first; i < last; ++i) {
      sum += histogram[i];
      filled += histogram[i] > 0;
    }
    for (int64_t i = first; i < last; ++i) {
      double p = histogram[i] + (i == bins - 1 ? clipped : 0);
      double q = histogram[i] > 0 ? sum / static_cast<double>(filled) : 0;
      if (p > 0)
        divergence += p / total * std::log(p / std::max(q, 1e-3));
    }
  }
  return divergence;
}

std::vector<float> LinearObserver::findThresholds() const {
  double total = 0, seen = 0;
  for (double count : histogram)
    total += count;
  float binWidth = histogramTop / static_cast<float>(kBins);
  std::vector<float> thresholds(3, histogramTop);
  const double parts[] = {0.999, 0.9999};
  int next = 0;
  for (int64_t i = 0; i < kBins && next < 2; ++i) {
    seen += histogram[i];
    for (; next < 2 && seen >= parts[next] * total; ++next)
      thresholds[next] = binWidth * static_cast<float>(i + 1);
  }
  double best = std::numeric_limits<double>::infinity();
  for (int64_t bins = 128; bins <= kBins && total > 0; bins += 16)
    if (double found = findDivergence(histogram, bins); found < best) {
      best = found;
      thresholds[2] = binWidth * static_cast<float>(bins);
    }
  return thresholds;
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
  if (gpu)
    return std::move(moments);
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

std::vector<std::vector<float>> LinearObserver::finish() {
  std::vector<float> sums = takeSums();
  double rows = static_cast<double>(std::max<int64_t>(rowsSeen, 1));
  auto factor = static_cast<float>(1 / rows);
  // By tiles, so that both triangles stay in the cache.
  constexpr int64_t kTile = 64;
  for (int64_t row = 0; row < features; row += kTile)
    for (int64_t column = 0; column <= row; column += kTile)
      for (int64_t i = row; i < std::min(row + kTile, features); ++i)
        for (int64_t j = column; j < std::min(column + kTile, i + 1); ++j) {
          float mean = sums[i * features + j] * factor;
          sums[i * features + j] = sums[j * features + i] = mean;
        }
  std::vector<float> means;
  for (double sum : magnitudes)
    means.push_back(static_cast<float>(sum / rows));
  return {
      std::move(sums),
      absmax,
      std::move(means),
      {smallest, largest},
      {static_cast<float>(averageSmallest), static_cast<float>(averageLargest)},
      std::vector<float>(histogram.begin(), histogram.end()),
      findThresholds()};
}
