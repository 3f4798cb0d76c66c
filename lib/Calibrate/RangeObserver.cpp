//===- RangeObserver.cpp - Ranges of one linear's inputs ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Calibrate/RangeObserver.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

using namespace qlm;

/// Weight of what was seen before in an averaged range.
static constexpr double kMomentum = 0.99;

RangeObserver::RangeObserver(int64_t features)
    : features(features), absmax(static_cast<size_t>(features)),
      magnitudes(static_cast<size_t>(features)),
      histogram(static_cast<size_t>(kBins)) {}

void RangeObserver::addWindow(float low, float high) {
  smallest = std::min(smallest, low);
  largest = std::max(largest, high);
  double keep = stepsSeen ? kMomentum : 0;
  averageSmallest = keep * averageSmallest + (1 - keep) * low;
  averageLargest = keep * averageLargest + (1 - keep) * high;
  ++stepsSeen;
}

/// The smallest (at most 0) and largest (at least 0) of \p values.
static std::pair<float, float> findRange(const float *values, int64_t count) {
  // Lanes that don't wait for each other.
  constexpr int64_t kLanes = 16;
  float low[kLanes] = {}, high[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes)
    for (int64_t lane = 0; lane < std::min(kLanes, count - i); ++lane) {
      float value = values[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
    }
  return {*std::min_element(low, low + kLanes),
          *std::max_element(high, high + kLanes)};
}

void RangeObserver::addRanges(const float *values, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < features; ++k) {
      float magnitude = std::fabs(values[row * features + k]);
      absmax[k] = magnitude > absmax[k] ? magnitude : absmax[k];
      magnitudes[k] += magnitude;
    }
  auto [low, high] = findRange(values, rows * features);
  addWindow(low, high);
  if (histogramTop == 0)
    histogramTop = std::max(-low, high);
  if (histogramTop != 0)
    addCounts(values, rows * features);
}

void RangeObserver::addCounts(const float *values, int64_t count) {
  double binsPerUnit = static_cast<double>(kBins) / histogramTop;
  // Neighbours are often in one bin, and would wait for each other's count.
  constexpr int64_t kCounters = 4, kBlock = 512;
  std::vector<int64_t> counts(static_cast<size_t>(kCounters * kBins));
  int32_t bins[kBlock];
  for (int64_t first = 0; first < count; first += kBlock) {
    int64_t size = std::min(kBlock, count - first);
    for (int64_t i = 0; i < size; ++i) {
      // Cut first: a later window's values may be past any integer.
      double place = std::fabs(values[first + i]) * binsPerUnit;
      constexpr auto kLast = static_cast<double>(kBins - 1);
      bins[i] = static_cast<int32_t>(place < kLast ? place : kLast);
    }
    for (int64_t i = 0; i < size; ++i)
      ++counts[i % kCounters * kBins + bins[i]];
  }
  for (int64_t i = 0; i < kCounters * kBins; ++i)
    histogram[i % kBins] += static_cast<double>(counts[i]);
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

std::vector<float> RangeObserver::findThresholds() const {
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
