//===- GptqTest.cpp - GPTQ against the paper's algorithm ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Gptq.h"

#include "gtest/gtest.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <Eigen/LU>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

using namespace qlm::numerics;
using Matrix =
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace {

constexpr int64_t kRows = 24;

struct Problem {
  int64_t columns;
  std::vector<float> weights, moments;
};

/// Weights, and moments of inputs that depend on their neighbours.
Problem makeProblem(int64_t columns) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  Problem problem{columns, {}, {}};
  for (int64_t i = 0; i < kRows * columns; ++i)
    problem.weights.push_back(normal(random));
  Matrix x(3 * columns, columns);
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t k = 0; k < columns; ++k)
      x(t, k) = normal(random) * (1 + k % 5) + (k ? 0.7 * x(t, k - 1) : 0);
  Matrix h = x.transpose() * x / static_cast<double>(x.rows());
  problem.moments.assign(h.data(), h.data() + h.size());
  return problem;
}

Scheme getScheme(int64_t group) {
  Scheme scheme;
  scheme.bits = 4;
  scheme.granularity = group ? Granularity::Group : Granularity::Channel;
  scheme.groupSize = group;
  scheme.lo = -8;
  scheme.hi = 7;
  // Not 7.5, with which each largest value lies between two codes.
  scheme.bound = 7.25;
  return scheme;
}

Matrix toMatrix(const std::vector<float> &values, int64_t columns) {
  Matrix matrix(static_cast<int64_t>(values.size()) / columns, columns);
  std::copy(values.begin(), values.end(), matrix.data());
  return matrix;
}

/// Algorithm 1 of arXiv 2210.17323 in float64, with the inverse of H.
Matrix roundByPaper(const Problem &problem, const Scheme &scheme,
                    const GptqOptions &options) {
  int64_t columns = problem.columns;
  Matrix w = toMatrix(problem.weights, columns), q = w, given = w;
  Matrix h = toMatrix(problem.moments, columns);
  h.diagonal().array() += options.damping * h.diagonal().mean();
  std::vector<int64_t> order(static_cast<size_t>(columns));
  std::iota(order.begin(), order.end(), 0);
  if (options.actOrder)
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return h(a, a) != h(b, b) ? h(a, a) > h(b, b) : a < b;
    });
  Matrix ordered(columns, columns);
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = 0; j < columns; ++j)
      ordered(i, j) = h(order[i], order[j]);
  Matrix upper = Matrix(ordered.inverse()).llt().matrixU();
  int64_t perScale = scheme.getColumnsPerScale(columns);
  bool known = options.actOrder || options.staticGroups || perScale == columns;
  Matrix scales(kRows, columns / perScale);
  auto findScales = [&](int64_t group, const Matrix &from) {
    for (int64_t row = 0; row < kRows; ++row) {
      auto largest = static_cast<float>(from.row(row)
                                            .segment(group * perScale, perScale)
                                            .cwiseAbs()
                                            .maxCoeff());
      scales(row, group) = largest / 7.25f;
    }
  };
  for (int64_t group = 0; known && group < scales.cols(); ++group)
    findScales(group, given);
  for (int64_t i = 0; i < columns; ++i) {
    int64_t column = order[i], group = column / perScale;
    if (!known && column % perScale == 0)
      findScales(group, w);
    for (int64_t row = 0; row < kRows; ++row) {
      double code = std::nearbyint(w(row, column) / scales(row, group));
      q(row, column) = std::clamp(code, -8.0, 7.0) * scales(row, group);
      double error = (w(row, column) - q(row, column)) / upper(i, i);
      for (int64_t j = i; j < columns; ++j)
        w(row, order[j]) -= error * upper(i, j);
    }
  }
  return q;
}

double getLoss(const Problem &problem, const Matrix &rounded) {
  Matrix error = rounded - toMatrix(problem.weights, problem.columns);
  Matrix h = toMatrix(problem.moments, problem.columns);
  return (error * h).cwiseProduct(error).sum();
}

Matrix roundByOurs(const Problem &problem, const Scheme &scheme,
                   const GptqOptions &options, int threads) {
  int64_t columns = problem.columns;
  GptqFactor factor;
  EXPECT_TRUE(
      factor.compute(problem.moments.data(), columns, options, threads));
  std::vector<float> weights = problem.weights, rounded = weights;
  std::vector<uint8_t> codes(weights.size());
  std::vector<float> scales(
      static_cast<size_t>(scheme.getScaleCount(kRows, columns)));
  EXPECT_TRUE(quantizeGptq(weights.data(), kRows, columns, scheme, factor,
                           options, codes.data(), scales.data(), nullptr)
                  .ok());
  dequantize(codes.data(), kRows, columns, scheme, scales.data(), nullptr,
             rounded.data());
  return toMatrix(rounded, columns);
}

} // namespace

TEST(GptqTest, RoundsAsThePaperDoes) {
  struct {
    int64_t columns, group, block;
    bool actOrder, staticGroups;
  } cases[] = {{96, 0, 128, false, false},  {96, 32, 128, false, false},
               {192, 64, 40, false, false}, {192, 64, 1, false, false},
               {192, 64, 48, true, false},  {192, 32, 128, false, true},
               {1, 0, 128, false, false},   {1, 0, 128, true, false}};
  for (auto [columns, group, block, actOrder, staticGroups] : cases) {
    SCOPED_TRACE(testing::Message() << columns << " by " << group);
    Problem problem = makeProblem(columns);
    GptqOptions options;
    options.blockSize = block;
    options.actOrder = actOrder;
    options.staticGroups = staticGroups;
    Scheme scheme = getScheme(group);
    Matrix expected = roundByPaper(problem, scheme, options);
    Matrix actual = roundByOurs(problem, scheme, options, 2);
    // A value between two codes may fall the other way in f32, and then moves
    // those after it in its row.
    int64_t differing = 0;
    for (int64_t row = 0; row < kRows; ++row)
      differing += (actual.row(row) - expected.row(row)).norm() > 1e-4;
    EXPECT_LE(differing, kRows / 6);
    EXPECT_NEAR(getLoss(problem, actual) / getLoss(problem, expected), 1, 0.02);
  }
}

TEST(GptqTest, BlocksAndThreadsChangeNothing) {
  Problem problem = makeProblem(160);
  GptqOptions options;
  Matrix first = roundByOurs(problem, getScheme(32), options, 1);
  EXPECT_EQ(first, roundByOurs(problem, getScheme(32), options, 3));
  options.blockSize = 50;
  double loss = getLoss(problem, first);
  EXPECT_NEAR(getLoss(problem, roundByOurs(problem, getScheme(32), options, 1)),
              loss, 0.02 * loss);
}

/// Rows lie side by side in vectors, and there are one and a half of those.
TEST(GptqTest, RowsDoNotDependOnTheirNeighbours) {
  constexpr int64_t kColumns = 192;
  Problem problem = makeProblem(kColumns);
  // A group of zeros, whose scale is 0.
  std::fill_n(problem.weights.begin() + 3 * kColumns + 64, 32, 0.0f);
  Scheme withZeros = getScheme(32), table = getScheme(64),
         floats = getScheme(0);
  withZeros.zeroPoints = true;
  withZeros.lo = 0;
  withZeros.hi = 15;
  table.codebook = Codebook::NF4;
  floats.codebook = Codebook::Float8;
  floats.bits = 8;
  floats.bound = 448;
  for (const Scheme &scheme : {getScheme(32), withZeros, table, floats})
    for (bool actOrder : {false, true}) {
      GptqOptions options;
      options.actOrder = actOrder;
      options.blockSize = 50;
      GptqFactor factor;
      ASSERT_TRUE(factor.compute(problem.moments.data(), kColumns, options));
      int64_t perRow = scheme.getScalesPerRow(kColumns);
      auto round = [&](int64_t row, int64_t count, uint8_t *codes,
                       float *scales, uint8_t *zeros) {
        std::vector<float> weights(problem.weights.begin() + row * kColumns,
                                   problem.weights.begin() +
                                       (row + count) * kColumns);
        ASSERT_TRUE(
            quantizeGptq(weights.data(), count, kColumns, scheme, factor,
                         options, codes + row * kColumns, scales + row * perRow,
                         scheme.zeroPoints ? zeros + row * perRow : nullptr)
                .ok());
      };
      std::vector<uint8_t> codes[2], zeros[2];
      std::vector<float> scales[2];
      for (int i : {0, 1}) {
        codes[i].resize(kRows * kColumns);
        zeros[i].resize(kRows * perRow);
        scales[i].resize(kRows * perRow);
      }
      round(0, kRows, codes[0].data(), scales[0].data(), zeros[0].data());
      for (int64_t row = 0; row < kRows; ++row)
        round(row, 1, codes[1].data(), scales[1].data(), zeros[1].data());
      EXPECT_EQ(codes[0], codes[1]);
      EXPECT_EQ(scales[0], scales[1]);
      EXPECT_EQ(zeros[0], zeros[1]);
    }
}

TEST(GptqTest, DampingIsRaisedUntilItIsEnough) {
  // Eigenvalues 1 +- offDiagonal, so damping above offDiagonal - 1 is enough.
  struct {
    float offDiagonal;
    double asked, enough;
  } cases[] = {{0.5f, 0.01, 0.01}, {1.05f, 0.01, 0.1},  {1.5f, 0.01, 1},
               {0.5f, 0, 0},       {1.00005f, 0, 1e-4}, {1.05f, 0, 0.1}};
  for (auto [offDiagonal, asked, enough] : cases) {
    std::vector<float> moments = {1, offDiagonal, offDiagonal, 1};
    GptqOptions options;
    options.damping = asked;
    GptqFactor factor;
    ASSERT_TRUE(factor.compute(moments.data(), 2, options)) << offDiagonal;
    EXPECT_DOUBLE_EQ(factor.getDamping(), enough) << offDiagonal;
  }
}

TEST(GptqTest, MomentsThatStayIndefiniteAreRefused) {
  for (float bad : {2.5f, NAN, INFINITY}) {
    std::vector<float> moments = {1, bad, bad, 1};
    GptqFactor factor;
    EXPECT_FALSE(factor.compute(moments.data(), 2, {})) << bad;
  }
  for (float bad : {-1.0f, NAN}) {
    std::vector<float> moments = {1, 0, 0, bad};
    GptqFactor factor;
    EXPECT_FALSE(factor.compute(moments.data(), 2, {})) << bad;
  }
}

TEST(GptqTest, MomentsThatCannotBeReadAreRefused) {
  Problem problem = makeProblem(40);
  GptqOptions options;
  for (int64_t lost : {0, 17, 39})
    for (int64_t passes : {0, 1}) {
      std::atomic<int64_t> asked{0};
      auto read = [&](int64_t row, float *target) {
        std::copy_n(problem.moments.data() + row * 40, 40, target);
        return row != lost || asked++ < passes;
      };
      GptqFactor factor;
      EXPECT_FALSE(factor.compute(read, 40, options, 2)) << lost;
    }
}

TEST(GptqTest, ColumnsOfInputsThatAreAlwaysZeroBecomeZero) {
  Problem problem = makeProblem(32);
  for (int64_t i = 0; i < 32; ++i)
    problem.moments[i * 32 + 5] = problem.moments[5 * 32 + i] = 0;
  GptqFactor factor;
  ASSERT_TRUE(factor.compute(problem.moments.data(), 32, {}));
  EXPECT_EQ(factor.getDeadColumns(), 1);
  Matrix rounded = roundByOurs(problem, getScheme(0), {}, 1);
  EXPECT_EQ(rounded.col(5).norm(), 0);
  EXPECT_GT(rounded.col(6).norm(), 0);
}
