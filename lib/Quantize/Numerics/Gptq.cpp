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

#include "Bits.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <limits>
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

namespace {

/// The scales of one chunk of rows, and how a value is rounded with them.
class ColumnRounder {
public:
  ColumnRounder(const Scheme &scheme, int64_t columns, float *scales,
                uint8_t *zeroPoints)
      : one(scheme), perRow(scheme.getScalesPerRow(columns)),
        perScale(scheme.getColumnsPerScale(columns)), scales(scales),
        zeroPoints(zeroPoints) {
    one.granularity = Granularity::Channel;
  }

  int64_t getColumnsPerScale() const { return perScale; }

  /// Finds the scale of row \p row and group \p group from \p values. With
  /// \p importance, by column, its range may be shrunk.
  RoundingResult findScale(const float *values, int64_t row, int64_t group,
                           const float *importance) {
    std::vector<uint8_t> codes(static_cast<size_t>(perScale));
    int64_t at = row * perRow + group;
    uint8_t *zero = zeroPoints ? zeroPoints + at : nullptr;
    RoundingResult result =
        quantizeRtn(values, 1, perScale, one, codes.data(), scales + at, zero);
    result.row = row;
    result.column += group * perScale;
    if (result.ok() && importance)
      shrinkRange(values, importance, codes.data(), scales + at, zero);
    return result;
  }

  /// The code of \p value in \p column, and what it stands for.
  uint8_t round(float value, int64_t row, int64_t column, float &rounded) {
    int64_t at = row * perRow + column / perScale;
    const uint8_t *zero = zeroPoints ? zeroPoints + at : nullptr;
    uint8_t code = 0;
    quantizeWithScales(&value, 1, 1, one, scales + at, zero, &code);
    dequantize(&code, 1, 1, one, scales + at, zero, &rounded);
    return code;
  }

private:
  /// Replaces \p scale and \p zero by those of the part of the range that
  /// loses least.
  void shrinkRange(const float *values, const float *importance, uint8_t *codes,
                   float *scale, uint8_t *zero) {
    ValueRange range;
    if (!widenRange(values, 1, perScale, range).ok())
      return;
    std::vector<float> rounded(static_cast<size_t>(perScale));
    double least = std::numeric_limits<double>::infinity();
    float bestScale = *scale;
    uint8_t bestZero = zero ? *zero : 0;
    for (int step = 0; step <= 10; ++step) {
      float part = 1.0f - 0.05f * static_cast<float>(step), triedScale = 0;
      uint8_t triedZero = 0;
      ValueRange shrunk{range.magnitude * part, range.smallest * part,
                        range.largest * part};
      if (!numerics::findScale(one, shrunk, &triedScale,
                               zero ? &triedZero : nullptr)
               .ok())
        continue;
      const uint8_t *zeroAt = zero ? &triedZero : nullptr;
      quantizeWithScales(values, 1, perScale, one, &triedScale, zeroAt, codes);
      dequantize(codes, 1, perScale, one, &triedScale, zeroAt, rounded.data());
      double loss = 0;
      for (int64_t k = 0; k < perScale; ++k) {
        double error = static_cast<double>(rounded[k]) - values[k];
        loss += error * error * importance[k];
      }
      if (loss < least) {
        least = loss;
        bestScale = triedScale;
        bestZero = triedZero;
      }
    }
    *scale = bestScale;
    if (zero)
      *zero = bestZero;
  }

  Scheme one; ///< of a single value
  int64_t perRow, perScale;
  float *scales;
  uint8_t *zeroPoints;
};

} // namespace

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
  return result;
}
