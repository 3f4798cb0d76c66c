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

void RangeObserver::addRanges(const float *values, int64_t rows) {
  float low = 0, high = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < features; ++k) {
      float value = values[row * features + k];
      float magnitude = std::fabs(value);
      absmax[k] = std::max(absmax[k], magnitude);
      magnitudes[k] += magnitude;
      low = std::min(low, value);
      high = std::max(high, value);
    }
  addWindow(low, high);
  if (histogramTop == 0)
    histogramTop = std::max(-low, high);
  if (histogramTop == 0)
    return;
  double binsPerUnit = static_cast<double>(kBins) / histogramTop;
  for (int64_t i = 0; i < rows * features; ++i) {
    // Cut first: a later window's values may be past any integer.
    double place = std::fabs(values[i]) * binsPerUnit;
    auto bin =
        static_cast<int64_t>(std::min(place, static_cast<double>(kBins - 1)));
    histogram[bin] += 1;
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
