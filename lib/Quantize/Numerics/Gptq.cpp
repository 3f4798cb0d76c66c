//===- Gptq.cpp - Rounding that makes up for its errors -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Algorithm 1 of the paper. In place of the Cholesky factor of an inverse, one
// factorization and a triangular inverse: with J the reversal of rows,
// J H J = M Mᵀ gives H = R Rᵀ with R = J M J upper triangular, and U = R⁻¹.
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Gptq.h"

#include "ColumnRounder.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace qlm;
using namespace qlm::numerics;

using Matrix =
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatMatrix =
    Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatMap = Eigen::Map<FloatMatrix>;
using ConstFloatMap = Eigen::Map<const FloatMatrix>;

//===----------------------------------------------------------------------===//
// The factor
//===----------------------------------------------------------------------===//

static constexpr double kLargestDamping = 1.0;

bool GptqFactor::compute(const float *moments, int64_t size,
                         const GptqOptions &options) {
  columns = size;
  dead.assign(static_cast<size_t>(size), false);
  deadColumns = 0;
  order.clear();
  std::vector<double> diagonal(static_cast<size_t>(size));
  double mean = 0;
  for (int64_t i = 0; i < size; ++i) {
    double value = moments[i * size + i];
    if (!std::isfinite(value) || value < 0)
      return false;
    dead[i] = value == 0;
    deadColumns += dead[i];
    diagonal[i] = dead[i] ? 1 : value;
    mean += diagonal[i] / static_cast<double>(size);
  }
  if (options.actOrder) {
    order.resize(static_cast<size_t>(size));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return diagonal[a] != diagonal[b] ? diagonal[a] > diagonal[b] : a < b;
    });
  }

  // Reversed from the start, so that its lower factor is R, reversed.
  Matrix reversed(size, size);
  auto columnAt = [&](int64_t i) {
    int64_t visited = size - 1 - i;
    return order.empty() ? visited : order[visited];
  };
  for (damping = options.damping; damping <= kLargestDamping;
       damping = std::max(damping * 10, 1e-4)) {
    for (int64_t i = 0; i < size; ++i) {
      int64_t a = columnAt(i);
      for (int64_t j = 0; j < i; ++j) {
        int64_t b = columnAt(j);
        reversed(i, j) = moments[std::max(a, b) * size + std::min(a, b)];
      }
      reversed(i, i) = diagonal[a] + damping * mean;
    }
    Eigen::LLT<Eigen::Ref<Matrix>, Eigen::Lower> factorization(reversed);
    if (factorization.info() == Eigen::Success)
      break;
  }
  if (damping > kLargestDamping)
    return false;
  damped.clear();
  if (options.refinements > 0) {
    damped.resize(static_cast<size_t>(size * size));
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < size; ++j)
        damped[i * size + j] = moments[std::max(i, j) * size + std::min(i, j)];
    for (int64_t i = 0; i < size; ++i)
      damped[i * size + i] = static_cast<float>(diagonal[i] + damping * mean);
  }

  // M's inverse.
  Matrix inverse = Matrix::Identity(size, size);
  reversed.triangularView<Eigen::Lower>().solveInPlace(inverse);
  upper.assign(static_cast<size_t>(size * size), 0);
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = i; j < size; ++j)
      upper[i * size + j] =
          static_cast<float>(inverse(size - 1 - i, size - 1 - j));
  return std::isfinite(upper[0]);
}

//===----------------------------------------------------------------------===//
// Rounding
//===----------------------------------------------------------------------===//

RoundingResult
qlm::numerics::quantizeGptq(float *weights, int64_t rows, int64_t columns,
                            const Scheme &scheme, const GptqFactor &factor,
                            const GptqOptions &options, uint8_t *codes,
                            float *scales, uint8_t *zeroPoints) {
  RoundingResult result;
  if (scheme.granularity == Granularity::Group &&
      (scheme.groupSize <= 0 || columns % scheme.groupSize != 0)) {
    result.kind = RoundingResult::GroupSize;
    result.column = columns;
    result.value = static_cast<float>(scheme.groupSize);
    return result;
  }
  ColumnRounder rounder(scheme, columns, scales, zeroPoints);
  int64_t perScale = rounder.getColumnsPerScale();
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column)
      if (factor.dead[column])
        weights[row * columns + column] = 0;

  // Scales of the weight as given: for channels always, since their columns
  // are all of them.
  bool known = options.actOrder || options.staticGroups || perScale == columns;
  std::vector<float> importance;
  if (options.searchScales) {
    importance.resize(static_cast<size_t>(columns));
    for (int64_t i = 0; i < columns; ++i) {
      float pivot = factor.upper[i * columns + i];
      importance[factor.order.empty() ? i : factor.order[i]] =
          1 / (pivot * pivot);
    }
  }
  auto findScales = [&](int64_t group, const float *values, int64_t stride) {
    const float *weight =
        options.searchScales ? importance.data() + group * perScale : nullptr;
    for (int64_t row = 0; row < rows && result.ok(); ++row)
      result = rounder.findScale(values + row * stride, row, group, weight);
  };
  for (int64_t group = 0; known && group < columns / perScale; ++group)
    findScales(group, weights + group * perScale, columns);
  if (!result.ok())
    return result;

  // In the order visited.
  FloatMatrix w(rows, columns);
  auto columnAt = [&](int64_t i) {
    return factor.order.empty() ? i : factor.order[i];
  };
  for (int64_t i = 0; i < columns; ++i)
    w.col(i) = FloatMap(weights, rows, columns).col(columnAt(i));
  ConstFloatMap upper(factor.upper.data(), columns, columns);

  int64_t block = std::max<int64_t>(options.blockSize, 1);
  FloatMatrix errors(rows, std::min(block, columns));
  for (int64_t first = 0; first < columns; first += block) {
    int64_t last = std::min(first + block, columns);
    for (int64_t i = first; i < last; ++i) {
      int64_t column = columnAt(i);
      if (!known && column % perScale == 0) {
        // A group may reach past this block, whose errors it doesn't have yet.
        int64_t inside = std::min(last - i, perScale);
        FloatMatrix group = w.middleCols(i, perScale);
        if (inside < perScale && i > first)
          group.rightCols(perScale - inside) -=
              errors.leftCols(i - first) *
              upper.block(first, i + inside, i - first, perScale - inside);
        findScales(column / perScale, group.data(), perScale);
        if (!result.ok())
          return result;
      }
      float inverse = 1 / upper(i, i);
      for (int64_t row = 0; row < rows; ++row) {
        float value = w(row, i), rounded = 0;
        codes[row * columns + column] =
            rounder.round(value, row, column, rounded);
        float error = (value - rounded) * inverse;
        errors(row, i - first) = error;
        w.row(row).segment(i, last - i) -=
            error * upper.row(i).segment(i, last - i);
      }
    }
    if (last < columns)
      w.rightCols(columns - last).noalias() -=
          errors.leftCols(last - first) *
          upper.block(first, last, last - first, columns - last);
  }
  if (options.refinements > 0)
    refineGptq(weights, rows, columns, scheme, factor, options, codes, scales,
               zeroPoints);
  return result;
}
