//===- Awq.cpp - Scales of columns, and clipping --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Awq.h"

#include "qlm/Quantize/Products.h"

#include <Eigen/Core>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <thread>

using namespace qlm::numerics;

using FloatMatrix =
    Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using ConstFloatMap = Eigen::Map<const FloatMatrix>;

//===----------------------------------------------------------------------===//
// AWQ
//===----------------------------------------------------------------------===//

/// The means of \p byColumn over the columns that share a scale.
static std::vector<double> averageShared(const AwqSearch &search,
                                         const std::vector<double> &byColumn) {
  int64_t count = search.order.getScaleCount(search.columns);
  std::vector<double> means(static_cast<size_t>(count));
  for (int64_t k = 0; k < search.columns; ++k)
    means[search.order.at(k)] +=
        byColumn[k] / static_cast<double>(search.order.shared);
  return means;
}

/// The mean over all rows of each column's magnitude, as a part of the largest
/// in its row and group.
static std::vector<double> findWeightMeans(const AwqSearch &search) {
  std::vector<double> sums(static_cast<size_t>(search.columns));
  int64_t n = search.scheme.getColumnsPerScale(search.columns), rows = 0;
  for (const WeightView &weight : search.weights) {
    rows += weight.rows;
    for (int64_t first = 0; first < weight.rows * search.columns; first += n) {
      const float *group = weight.values + first;
      float largest = 0;
      for (int64_t k = 0; k < n; ++k)
        largest = std::max(largest, std::fabs(group[k]));
      for (int64_t k = 0; k < n; ++k)
        sums[first % search.columns + k] +=
            std::fabs(group[k]) / (largest + 1e-6);
    }
  }
  for (double &sum : sums)
    sum /= static_cast<double>(std::max<int64_t>(rows, 1));
  return sums;
}

namespace {

/// What all steps start from, a value for each scale.
struct Magnitudes {
  std::vector<double> inputs, weights;
};

} // namespace

/// The scales of \p step: `m^a`, and in the second half of the steps
/// `m^a / (w^(1 - a) + 1e-4)`.
static std::vector<float> makeScales(const AwqSearch &search,
                                     const Magnitudes &magnitudes,
                                     int64_t step) {
  double exponent = static_cast<double>(step % search.steps) /
                    static_cast<double>(search.steps);
  bool byWeights = step >= search.steps;
  std::vector<double> found = magnitudes.inputs;
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    double scale = std::pow(found[i], exponent);
    if (byWeights)
      scale /= std::pow(magnitudes.weights[i], 1 - exponent) + 1e-4;
    found[i] = std::max(scale, 1e-4);
    low = std::min(low, found[i]);
    high = std::max(high, found[i]);
  }
  std::vector<float> scales;
  for (double scale : found)
    scales.push_back(static_cast<float>(scale / std::sqrt(low * high)));
  return scales;
}

namespace {

/// The loss of rounding with some scales, a few rows at a time.
class LossSum {
public:
  LossSum(const AwqSearch &search, const std::vector<float> &scales)
      : search(search), columns(search.columns) {
    for (int64_t k = 0; k < columns; ++k)
      byColumn.push_back(scales[search.order.at(k)]);
    codes.resize(static_cast<size_t>(kRows * columns));
    int64_t count = search.scheme.getScaleCount(kRows, columns);
    roundedScales.resize(static_cast<size_t>(count));
    zeroPoints.resize(static_cast<size_t>(count));
  }

  /// Adds every \p stride-th row of \p weight, beginning with \p first.
  RoundingResult add(const WeightView &weight, int64_t first, int64_t stride) {
    RoundingResult result;
    for (int64_t row = first; row < weight.rows && result.ok();) {
      FloatMatrix given(kRows, columns);
      int64_t count = 0;
      for (; count < kRows && row < weight.rows; ++count, row += stride)
        given.row(count) =
            ConstFloatMap(weight.values + row * columns, 1, columns);
      result = addRows(given, count);
    }
    return result;
  }

  double get() const { return loss; }

private:
  static constexpr int64_t kRows = 256;

  RoundingResult addRows(const FloatMatrix &given, int64_t count) {
    FloatMatrix scaled = given.topRows(count), rounded(count, columns);
    for (int64_t row = 0; row < count; ++row)
      for (int64_t k = 0; k < columns; ++k)
        scaled(row, k) *= byColumn[k];
    uint8_t *zeros = search.scheme.zeroPoints ? zeroPoints.data() : nullptr;
    RoundingResult result =
        quantizeRtn(scaled.data(), count, columns, search.scheme, codes.data(),
                    roundedScales.data(), zeros);
    if (!result.ok())
      return result;
    dequantize(codes.data(), count, columns, search.scheme,
               roundedScales.data(), zeros, rounded.data());
    for (int64_t row = 0; row < count; ++row)
      for (int64_t k = 0; k < columns; ++k)
        rounded(row, k) = rounded(row, k) / byColumn[k] - given(row, k);
    FloatMatrix product = FloatMatrix::Zero(count, columns);
    addProduct<float>(count, columns, columns, 1, {rounded.data(), columns, 1},
                      {search.moments, columns, 1}, product.data(), columns);
    loss += product.cwiseProduct(rounded).cast<double>().sum();
    return result;
  }

  const AwqSearch &search;
  int64_t columns;
  std::vector<float> byColumn, roundedScales;
  std::vector<uint8_t> codes, zeroPoints;
  double loss = 0;
};

} // namespace

/// The loss of one step.
static RoundingResult findLoss(const AwqSearch &search,
                               const Magnitudes &magnitudes, int64_t step,
                               double &loss) {
  std::vector<float> scales = makeScales(search, magnitudes, step);
  int64_t rows = 0;
  for (const WeightView &weight : search.weights)
    rows += weight.rows;
  int64_t stride =
      std::max<int64_t>(1, (rows + kSearchedRows - 1) / kSearchedRows);
  LossSum sum(search, scales);
  RoundingResult result;
  // Rows are counted through all weights.
  int64_t first = 0;
  for (const WeightView &weight : search.weights) {
    if (result.ok())
      result = sum.add(weight, first, stride);
    int64_t taken =
        first < weight.rows ? (weight.rows - first + stride - 1) / stride : 0;
    first += taken * stride - weight.rows;
  }
  loss = sum.get();
  return result;
}

RoundingResult qlm::numerics::findAwqScales(const AwqSearch &search,
                                            float *scales,
                                            std::vector<double> *losses) {
  Magnitudes magnitudes;
  magnitudes.inputs = averageShared(
      search, std::vector<double>(search.meanMagnitude,
                                  search.meanMagnitude + search.columns));
  magnitudes.weights = averageShared(search, findWeightMeans(search));
  int64_t steps = 2 * search.steps;
  std::vector<double> found(static_cast<size_t>(steps));
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  RoundingResult failure;
  auto work = [&] {
    for (int64_t step = next++; step < steps; step = next++) {
      RoundingResult result = findLoss(search, magnitudes, step, found[step]);
      std::lock_guard<std::mutex> lock(mutex);
      if (!result.ok())
        failure = result;
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < std::min<int64_t>(search.threads, steps); ++i)
    helpers.emplace_back(work);
  work();
  for (std::thread &helper : helpers)
    helper.join();
  if (!failure.ok())
    return failure;
  int64_t best = std::min_element(found.begin(), found.end()) - found.begin();
  std::vector<float> chosen = makeScales(search, magnitudes, best);
  std::copy(chosen.begin(), chosen.end(), scales);
  if (losses)
    *losses = std::move(found);
  return failure;
}

//===----------------------------------------------------------------------===//
// SmoothQuant
//===----------------------------------------------------------------------===//

void qlm::numerics::findSmoothScales(const float *absmax,
                                     const float *weightAbsmax, int64_t columns,
                                     double alpha, ScaleOrder order,
                                     float *scales) {
  constexpr double kSmallest = 1e-5;
  int64_t count = order.getScaleCount(columns);
  std::vector<double> inputs(static_cast<size_t>(count)), weights(inputs);
  for (int64_t k = 0; k < columns; ++k) {
    double &input = inputs[order.at(k)], &weight = weights[order.at(k)];
    input = std::max<double>(input, absmax[k]);
    weight = std::max<double>(weight, weightAbsmax[k]);
  }
  for (int64_t i = 0; i < count; ++i) {
    double weight = std::max(weights[i], kSmallest);
    double scale = std::pow(inputs[i], alpha) / std::pow(weight, 1 - alpha);
    scales[i] =
        inputs[i] == 0 ? 1 : static_cast<float>(std::max(scale, kSmallest));
  }
}

//===----------------------------------------------------------------------===//
// Clipping
//===----------------------------------------------------------------------===//

static constexpr int64_t kClipSteps = 10;

namespace {

/// The columns of one scale, clamped in some rows of a weight.
class GroupClip {
public:
  GroupClip(const Scheme &scheme, int64_t columns, const float *block)
      : one(scheme), count(columns), block(block),
        codes(static_cast<size_t>(columns)),
        clamped(static_cast<size_t>(columns)) {
    one.granularity = Granularity::Channel;
  }

  /// Clamps \p rows rows, the first at \p values, \p stride apart.
  RoundingResult clip(float *values, int64_t rows, int64_t stride) {
    FloatMatrix errors(rows * kClipSteps, count);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t step = 0; step < kClipSteps; ++step) {
        RoundingResult result = findErrors(values + row * stride, step,
                                           &errors(row * kClipSteps + step, 0));
        result.row = row;
        if (!result.ok())
          return result;
      }
    FloatMatrix product = FloatMatrix::Zero(errors.rows(), count);
    addProduct<float>(errors.rows(), count, count, 1, {errors.data(), count, 1},
                      {block, count, 1}, product.data(), count);
    Eigen::VectorXf losses = product.cwiseProduct(errors).rowwise().sum();
    for (int64_t row = 0; row < rows; ++row) {
      float *given = values + row * stride;
      Eigen::Index best = 0;
      losses.segment(row * kClipSteps, kClipSteps).minCoeff(&best);
      float limit = getLimit(given, best);
      for (int64_t k = 0; k < count; ++k)
        given[k] = std::clamp(given[k], -limit, limit);
    }
    return {};
  }

private:
  float getLimit(const float *values, int64_t step) const {
    float absmax = 0;
    for (int64_t k = 0; k < count; ++k)
      absmax = std::max(absmax, std::fabs(values[k]));
    return absmax * (1.0f - static_cast<float>(step) / 20.0f);
  }

  RoundingResult findErrors(const float *values, int64_t step, float *errors) {
    float limit = getLimit(values, step), scale = 0;
    uint8_t zero = 0;
    for (int64_t k = 0; k < count; ++k)
      clamped[k] = std::clamp(values[k], -limit, limit);
    RoundingResult result =
        quantizeRtn(clamped.data(), 1, count, one, codes.data(), &scale, &zero);
    if (!result.ok())
      return result;
    dequantize(codes.data(), 1, count, one, &scale, &zero, clamped.data());
    for (int64_t k = 0; k < count; ++k)
      errors[k] = clamped[k] - values[k];
    return result;
  }

  Scheme one; ///< of a single row
  int64_t count;
  const float *block; ///< second moments, [count, count]
  std::vector<uint8_t> codes;
  std::vector<float> clamped;
};

} // namespace

RoundingResult qlm::numerics::clipWeight(float *weights, int64_t rows,
                                         int64_t columns, const Scheme &scheme,
                                         const float *blocks) {
  constexpr int64_t kRows = 32;
  int64_t n = scheme.getColumnsPerScale(columns);
  for (int64_t group = 0; group < columns / n; ++group) {
    GroupClip clip(scheme, n, blocks + group * n * n);
    for (int64_t row = 0; row < rows; row += kRows) {
      RoundingResult result = clip.clip(weights + row * columns + group * n,
                                        std::min(kRows, rows - row), columns);
      if (result.ok())
        continue;
      result.row += row;
      result.column += group * n;
      return result;
    }
  }
  return {};
}
