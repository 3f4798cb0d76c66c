//===- Gptq.cpp - Rounding that makes up for its errors -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The paper's algorithm, without the inverse of H. A row's loss with errors
// E = W - Q is E H Eᵀ = |E R|² for H = R Rᵀ with R upper triangular, and with
// F[j, k] = R[j, k] / R[k, k] the k-th of those squares is
//
//   R[k, k]² (W[k] + sum over j < k of E[j] F[j, k] - Q[k])²
//
// which the code nearest to `W[k] + sum` makes least. That the paper's columns
// hold the same numbers is theorem 6 of QuIP (Chee et al., arXiv 2307.13304).
// R is the factor of H with rows and columns reversed, turned back.
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Gptq.h"

#include "BlockRounder.h"
#include "ColumnRounder.h"
#include "Threads.h"
#include "qlm/Quantize/Products.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace qlm;
using namespace qlm::numerics;

//===----------------------------------------------------------------------===//
// The factor
//===----------------------------------------------------------------------===//

static constexpr double kLargestDamping = 1.0;

bool GptqFactor::compute(const float *moments, int64_t size,
                         const GptqOptions &options, int threads) {
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
  std::vector<double> reversed(static_cast<size_t>(size * size));
  auto columnAt = [&](int64_t i) {
    int64_t visited = size - 1 - i;
    return order.empty() ? visited : order[visited];
  };
  auto fill = [&] {
    forEachIndex(size, threads, [&](int64_t i) {
      int64_t a = columnAt(i);
      for (int64_t j = 0; j < i; ++j) {
        int64_t b = columnAt(j);
        reversed[i * size + j] =
            moments[std::max(a, b) * size + std::min(a, b)];
      }
      reversed[i * size + i] = diagonal[a] + damping * mean;
    });
  };
  auto isFactored = [&] {
    fill();
    std::optional<bool> answer;
    if (options.cholesky && (answer = options.cholesky(reversed.data(), size)))
      return *answer;
    if (options.cholesky)
      fill();
    return factorCholesky(reversed.data(), size, threads);
  };
  for (damping = options.damping; damping <= kLargestDamping && !isFactored();)
    damping = std::max(damping * 10, 1e-4);
  if (damping > kLargestDamping)
    return false;
  damped.clear();
  if (options.refinements > 0) {
    damped.resize(static_cast<size_t>(size * size));
    forEachIndex(size, threads, [&](int64_t i) {
      for (int64_t j = 0; j < size; ++j)
        damped[i * size + j] = moments[std::max(i, j) * size + std::min(i, j)];
      damped[i * size + i] = static_cast<float>(diagonal[i] + damping * mean);
    });
  }

  feedback.assign(static_cast<size_t>(size * size), 0);
  pivots.resize(static_cast<size_t>(size));
  std::vector<double> exact(static_cast<size_t>(size));
  for (int64_t k = 0; k < size; ++k) {
    exact[k] = reversed[(size - 1 - k) * (size + 1)];
    pivots[k] = static_cast<float>(exact[k]);
  }
  forEachIndex(size, threads, [&](int64_t j) {
    const double *row = reversed.data() + (size - 1 - j) * size;
    for (int64_t k = j + 1; k < size; ++k)
      feedback[j * size + k] = static_cast<float>(row[size - 1 - k] / exact[k]);
  });
  return std::all_of(pivots.begin(), pivots.end(),
                     [](float pivot) { return std::isfinite(pivot); });
}

//===----------------------------------------------------------------------===//
// Rounding
//===----------------------------------------------------------------------===//

/// The values that columns of a group have when the error before them is made
/// up for as well as can be: those they would get if none of them were rounded.
/// \p group `[rows, count]` has what the columns before it add to \p given, a
/// part of a matrix of \p columns columns, as \p feedback is.
static void continueUnrounded(int64_t rows, int64_t count, const float *given,
                              float *group, const float *feedback,
                              int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, group += count, given += columns)
    for (int64_t k = 0; k < count; ++k) {
      float error = given[k] - group[k];
      const float *along = feedback + k * columns;
      for (int64_t j = k + 1; j < count; ++j)
        group[j] += error * along[j];
    }
}

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
      float pivot = factor.pivots[i];
      importance[factor.order.empty() ? i : factor.order[i]] = pivot * pivot;
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

  // In the order visited, with what the errors before have added.
  auto columnAt = [&](int64_t i) {
    return factor.order.empty() ? i : factor.order[i];
  };
  std::vector<float> current(static_cast<size_t>(rows * columns));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < columns; ++i)
      current[row * columns + i] = weights[row * columns + columnAt(i)];
  const float *feedback = factor.feedback.data();

  int64_t block = std::max<int64_t>(options.blockSize, 1);
  int64_t width = std::min(block, columns);
  std::vector<float> errors(static_cast<size_t>(rows * width));
  std::vector<float> group(static_cast<size_t>(known ? 0 : rows * perScale));
  BlockRounder blocks(rows, columns, width, scheme,
                      factor.order.empty() ? nullptr : factor.order.data(),
                      feedback, rounder);
  for (int64_t first = 0; first < columns; first += block) {
    int64_t last = std::min(first + block, columns);
    // Cut where the scales of a group are found.
    for (int64_t i = first, next = last; i < last; i = next) {
      next = last;
      if (!known && i % perScale == 0) {
        // A group may reach past this block, whose errors it doesn't have yet.
        int64_t inside = std::min(last - i, perScale);
        for (int64_t row = 0; row < rows; ++row)
          std::copy_n(current.data() + row * columns + i, perScale,
                      group.data() + row * perScale);
        addProduct<float>(rows, perScale - inside, i - first, 1,
                          {errors.data(), width, 1},
                          {feedback + first * columns + i + inside, columns, 1},
                          group.data() + inside, perScale);
        continueUnrounded(rows, perScale, weights + i, group.data(),
                          feedback + i * (columns + 1), columns);
        findScales(i / perScale, group.data(), perScale);
        if (!result.ok())
          return result;
      }
      if (!known)
        next = std::min(last, (i / perScale + 1) * perScale);
      blocks.round(i, next, last, weights, current.data(), codes,
                   errors.data() + i - first);
    }
    addProduct<float>(rows, columns - last, last - first, 1,
                      {errors.data(), width, 1},
                      {feedback + first * columns + last, columns, 1},
                      current.data() + last, columns);
  }
  if (options.refinements > 0)
    refineGptq(weights, rows, columns, scheme, factor, options, codes, scales,
               zeroPoints);
  return result;
}
