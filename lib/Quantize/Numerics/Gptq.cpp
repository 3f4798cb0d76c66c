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
#include <atomic>
#include <cmath>
#include <numeric>

using namespace qlm;
using namespace qlm::numerics;

//===----------------------------------------------------------------------===//
// The factor
//===----------------------------------------------------------------------===//

static constexpr double kLargestDamping = 1.0;

/// Calls `work(row, i)` for each i below \p count with row `rowOf(i)` of the
/// moments; false when one was not read.
template <typename RowOf, typename Work>
static bool forEachRow(const GptqFactor::ReadRow &read, int64_t columns,
                       int64_t count, int threads, RowOf rowOf, Work work) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> isRead{true};
  auto workers = static_cast<int>(std::min<int64_t>(threads, count));
  runThreads(std::max(workers, 1), [&](int) {
    std::vector<float> row(static_cast<size_t>(columns));
    for (int64_t i = next++; i < count && isRead; i = next++) {
      if (read(rowOf(i), row.data()))
        work(row.data(), i);
      else
        isRead = false;
    }
  });
  return isRead;
}

bool GptqFactor::readDiagonal(const ReadRow &read, int threads) {
  diagonal.resize(static_cast<size_t>(columns));
  if (!forEachRow(
          read, columns, columns, threads, [](int64_t i) { return i; },
          [&](const float *row, int64_t i) { diagonal[i] = row[i]; }))
    return false;
  dead.assign(static_cast<size_t>(columns), false);
  deadColumns = 0;
  meanMoment = 0;
  for (int64_t i = 0; i < columns; ++i) {
    if (!std::isfinite(diagonal[i]) || diagonal[i] < 0)
      return false;
    dead[i] = diagonal[i] == 0;
    deadColumns += dead[i];
    diagonal[i] = dead[i] ? 1 : diagonal[i];
    meanMoment += diagonal[i] / static_cast<double>(columns);
  }
  return true;
}

/// Rows of H, reversed from the start, so that its lower factor is R, reversed.
bool GptqFactor::giveRows(const ReadRow &read, int64_t first, int64_t count,
                          double *target, int threads) const {
  return forEachRow(
      read, columns, count, threads,
      [&](int64_t i) { return reversedAt(first + i); },
      [&](const float *row, int64_t i) {
        double *to = target + i * columns;
        for (int64_t j = 0; j < first + i; ++j)
          to[j] = row[reversedAt(j)];
        to[first + i] = diagonal[reversedAt(first + i)] + damping * meanMoment;
      });
}

/// Rows of the factor, in ascending order: what errors of their columns add to
/// columns that were visited later, whose pivots came in earlier rows.
void GptqFactor::takeRows(int64_t first, int64_t count, const double *rows,
                          int threads) {
  for (int64_t i = 0; i < count; ++i)
    exactPivots[columns - 1 - first - i] = rows[i * (columns + 1) + first];
  forEachIndex(count, threads, [&](int64_t i) {
    const double *row = rows + i * columns;
    int64_t j = columns - 1 - first - i;
    float *to = feedback.data() + j * columns;
    std::fill(to, to + j + 1, 0.0f);
    for (int64_t k = j + 1; k < columns; ++k)
      to[k] = static_cast<float>(row[columns - 1 - k] / exactPivots[k]);
  });
}

/// Whether H has a factor with `damping`, which is then `feedback`; nothing
/// where it was not read.
std::optional<bool> GptqFactor::factorMatrix(const ReadRow &read,
                                             const GptqOptions &options,
                                             int threads) {
  bool isRead = true;
  FactoredRows rows;
  rows.size = columns;
  rows.give = [&](int64_t first, int64_t count, double *target) {
    isRead = giveRows(read, first, count, target, threads) && isRead;
  };
  rows.take = [&](int64_t first, int64_t count, const double *factor) {
    takeRows(first, count, factor, threads);
  };
  auto tell = [&](bool isFactored) {
    return isRead ? std::optional<bool>(isFactored) : std::nullopt;
  };
  if (options.cholesky)
    if (std::optional<bool> answer = options.cholesky(rows))
      return tell(*answer);
  LargeBuffer<double> matrix(columns * columns);
  rows.give(0, columns, matrix.data());
  if (!isRead || !factorCholesky(matrix.data(), columns, threads))
    return tell(false);
  rows.take(0, columns, matrix.data());
  return true;
}

bool GptqFactor::keepDamped(const ReadRow &read, int threads) {
  damped = LargeBuffer<float>(columns * columns);
  return forEachRow(
      read, columns, columns, threads, [](int64_t i) { return i; },
      [&](const float *row, int64_t i) {
        float *to = damped.data() + i * columns;
        std::copy_n(row, columns, to);
        to[i] = static_cast<float>(diagonal[i] + damping * meanMoment);
      });
}

bool GptqFactor::compute(const ReadRow &read, int64_t size,
                         const GptqOptions &options, int threads) {
  columns = size;
  order.clear();
  if (!readDiagonal(read, threads))
    return false;
  if (options.actOrder) {
    order.resize(static_cast<size_t>(size));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return diagonal[a] != diagonal[b] ? diagonal[a] > diagonal[b] : a < b;
    });
  }
  feedback = LargeBuffer<float>(size * size);
  exactPivots.resize(static_cast<size_t>(size));
  std::optional<bool> isFactored = false;
  for (damping = options.damping; damping <= kLargestDamping;
       damping = std::max(damping * 10, 1e-4)) {
    isFactored = factorMatrix(read, options, threads);
    if (isFactored != false)
      break;
  }
  if (!isFactored || !*isFactored)
    return false;
  pivots.assign(exactPivots.begin(), exactPivots.end());
  damped = {};
  if (options.refinements > 0 && !keepDamped(read, threads))
    return false;
  return std::all_of(pivots.begin(), pivots.end(),
                     [](float pivot) { return std::isfinite(pivot); });
}

bool GptqFactor::compute(const float *moments, int64_t size,
                         const GptqOptions &options, int threads) {
  auto read = [=](int64_t row, float *target) {
    std::copy_n(moments + row * size, size, target);
    return true;
  };
  return compute(read, size, options, threads);
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
