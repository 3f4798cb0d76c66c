//===- GptqRefine.cpp - Codes and scales gone over once more --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// With E = Q - W and R = E H, half the gradient of L: changing column k of a
// row by t changes L by 2 t R_k + t² H_kk, least at t = -R_k / H_kk, and R by
// t times row k of H. As in GPTQ, a block of columns is gone over with its own
// part of H, and the others learn of its changes in one product of matrices.
//
//===----------------------------------------------------------------------===//

#include "ColumnRounder.h"
#include "qlm/Quantize/Gptq.h"
#include "qlm/Quantize/Products.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <algorithm>
#include <cmath>

using namespace qlm;
using namespace qlm::numerics;

using Matrix =
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatMatrix =
    Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using ConstFloatMap = Eigen::Map<const FloatMatrix>;

namespace {

/// Some rows of a weight and what they are rounded to.
class Refinement {
public:
  Refinement(const float *weights, int64_t rows, int64_t columns,
             const Scheme &scheme, const float *moments, uint8_t *codes,
             float *scales, const uint8_t *zeroPoints)
      : rows(rows), columns(columns), scheme(scheme),
        perRow(scheme.getScalesPerRow(columns)),
        perScale(scheme.getColumnsPerScale(columns)),
        weights(weights, rows, columns), moments(moments, columns, columns),
        codes(codes), scales(scales), zeroPoints(zeroPoints) {}

  void refineScales();
  void refineCodes(int64_t block);

private:
  /// Columns from \p first on, \p count of them, of \p matrix
  /// `[rows, columns]`, times those rows of H.
  FloatMatrix multiply(const float *matrix, int64_t first, int64_t count) {
    FloatMatrix product = FloatMatrix::Zero(rows, columns);
    addProduct<float>(rows, columns, count, 1, {matrix + first, columns, 1},
                      {moments.data() + first * columns, columns, 1},
                      product.data(), columns);
    return product;
  }
  void solveRow(int64_t row, const Matrix &products, const Matrix &targets);

  int64_t rows, columns;
  const Scheme &scheme;
  int64_t perRow, perScale;
  ConstFloatMap weights, moments;
  uint8_t *codes;
  float *scales;
  const uint8_t *zeroPoints;
};

} // namespace

/// The row's scales that solve \p products * s = \p targets, if they lose less.
void Refinement::solveRow(int64_t row, const Matrix &products,
                          const Matrix &targets) {
  Eigen::Map<const Eigen::VectorXf> stored(scales + row * perRow, perRow);
  Eigen::VectorXd before = stored.cast<double>();
  Matrix system = products;
  // Groups of zeros have no say.
  constexpr double kTiny = 1e-9;
  double trace = system.trace();
  for (int64_t g = 0; g < perRow; ++g)
    system(g, g) += kTiny * trace;
  Eigen::LDLT<Matrix> factorization(system);
  if (!(trace > 0) || factorization.info() != Eigen::Success)
    return;
  Eigen::VectorXd after = factorization.solve(targets.row(row).transpose());
  std::vector<float> rounded(static_cast<size_t>(perRow));
  for (int64_t g = 0; g < perRow; ++g) {
    auto scale = static_cast<float>(after[g]);
    if (scheme.scalesF16)
      scale = fromFloat16(toFloat16(scale));
    bool isGood = std::isfinite(scale) && scale > 0 && before[g] > 0;
    rounded[g] = isGood ? scale : stored[g];
    after[g] = rounded[g];
  }
  auto loss = [&](const Eigen::VectorXd &s) {
    return s.dot(products * s) - 2 * targets.row(row).dot(s);
  };
  if (loss(after) < loss(before))
    std::copy(rounded.begin(), rounded.end(), scales + row * perRow);
}

void Refinement::refineScales() {
  // What codes stand for at scale 1.
  FloatMatrix digits(rows, columns);
  std::vector<float> ones(static_cast<size_t>(rows * perRow), 1.0f);
  dequantize(codes, rows, columns, scheme, ones.data(), zeroPoints,
             digits.data());
  auto sumGroups = [&](const FloatMatrix &products, int64_t row, int64_t g) {
    int64_t first = g * perScale;
    return digits.row(row)
        .segment(first, perScale)
        .cast<double>()
        .dot(products.row(row).segment(first, perScale).cast<double>());
  };
  FloatMatrix products = multiply(weights.data(), 0, columns);
  Matrix targets(rows, perRow);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < perRow; ++g)
      targets(row, g) = sumGroups(products, row, g);
  std::vector<Matrix> systems(static_cast<size_t>(rows),
                              Matrix(perRow, perRow));
  for (int64_t h = 0; h < perRow; ++h) {
    products = multiply(digits.data(), h * perScale, perScale);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t g = 0; g < perRow; ++g)
        systems[row](g, h) = sumGroups(products, row, g);
  }
  for (int64_t row = 0; row < rows; ++row)
    solveRow(row, systems[row], targets);
}

void Refinement::refineCodes(int64_t block) {
  ColumnRounder rounder(scheme, columns, scales,
                        const_cast<uint8_t *>(zeroPoints));
  FloatMatrix errors(rows, columns);
  dequantize(codes, rows, columns, scheme, scales, zeroPoints, errors.data());
  errors -= weights;
  FloatMatrix gradient = multiply(errors.data(), 0, columns);
  FloatMatrix changes(rows, std::min(block, columns));
  for (int64_t first = 0; first < columns; first += block) {
    int64_t size = std::min(block, columns - first);
    FloatMatrix local = gradient.middleCols(first, size);
    for (int64_t i = 0; i < size; ++i) {
      int64_t k = first + i;
      float curvature = moments(k, k);
      for (int64_t row = 0; row < rows; ++row) {
        float wanted =
            weights(row, k) + errors(row, k) - local(row, i) / curvature;
        float rounded = 0;
        codes[row * columns + k] = rounder.round(wanted, row, k, rounded);
        float change = rounded - weights(row, k) - errors(row, k);
        changes(row, i) = change;
        if (change == 0)
          continue;
        errors(row, k) += change;
        local.row(row) += change * moments.row(k).segment(first, size);
      }
    }
    addProduct<float>(rows, columns, size, 1,
                      {changes.data(), changes.cols(), 1},
                      {moments.data() + first * columns, columns, 1},
                      gradient.data(), columns);
  }
}

void qlm::numerics::refineGptq(const float *weights, int64_t rows,
                               int64_t columns, const Scheme &scheme,
                               const GptqFactor &factor,
                               const GptqOptions &options, uint8_t *codes,
                               float *scales, const uint8_t *zeroPoints) {
  if (rows == 0 || columns == 0)
    return;
  Refinement refinement(weights, rows, columns, scheme, factor.damped.data(),
                        codes, scales, zeroPoints);
  for (int i = 0; i < options.refinements; ++i) {
    refinement.refineScales();
    refinement.refineCodes(std::max<int64_t>(options.blockSize, 1));
  }
}
