//===- GpuCholeskyTest.cpp - Factors on a GPU, and GPTQ by them -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Calibrate/GpuCholesky.h"
#include "FakeGpuTest.h"
#include "qlm/Quantize/Gptq.h"

#include <cmath>
#include <random>
#include <vector>

using namespace qlm;
using namespace qlm::test;

namespace {

class GpuCholeskyTest : public FakeGpuTest {
protected:
  static Result<numerics::CholeskyFunction> open() {
    return openGpuCholesky(QLM_FAKE_CUDA, {"libmissing.so", QLM_FAKE_SOLVER});
  }
};

/// Rows of \p matrix, in whose place the factor is put.
numerics::FactoredRows makeRows(std::vector<double> &matrix, int64_t size) {
  return {size,
          [&matrix, size](int64_t first, int64_t count, double *rows) {
            std::copy_n(matrix.begin() + first * size, count * size, rows);
          },
          [&matrix, size](int64_t first, int64_t count, const double *rows) {
            std::copy_n(rows, count * size, matrix.begin() + first * size);
          }};
}

/// Second moments of more rows than columns.
template <typename T> std::vector<T> makeMoments(int64_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  int64_t rows = 2 * size + 3;
  std::vector<double> x(static_cast<size_t>(rows * size));
  for (double &value : x)
    value = normal(random);
  std::vector<T> moments(static_cast<size_t>(size * size));
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j < size; ++j) {
      double sum = 0;
      for (int64_t row = 0; row < rows; ++row)
        sum += x[row * size + i] * x[row * size + j];
      moments[i * size + j] = static_cast<T>(sum / static_cast<double>(rows));
    }
  return moments;
}

} // namespace

TEST_F(GpuCholeskyTest, FactorTimesItsTransposeIsTheMatrix) {
  Result<numerics::CholeskyFunction> cholesky = open();
  ASSERT_TRUE(cholesky.ok()) << cholesky.status().message();
  for (int64_t size : {1, 2, 37, 8, 130}) {
    std::vector<double> matrix = makeMoments<double>(size, 1), factor = matrix;
    std::optional<bool> done = (*cholesky)(makeRows(factor, size));
    ASSERT_TRUE(done && *done);
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (int64_t k = 0; k <= j; ++k)
          sum += factor[i * size + k] * factor[j * size + k];
        EXPECT_NEAR(sum, matrix[i * size + j], 1e-12);
      }
  }
}

TEST_F(GpuCholeskyTest, IndefiniteMatricesAreTold) {
  Result<numerics::CholeskyFunction> cholesky = open();
  ASSERT_TRUE(cholesky.ok());
  std::vector<double> matrix = {1, 2, 2, 1};
  std::optional<bool> done = (*cholesky)(makeRows(matrix, 2));
  ASSERT_TRUE(done.has_value());
  EXPECT_FALSE(*done);
}

TEST_F(GpuCholeskyTest, SaysWhatIsMissing) {
  EXPECT_EQ(
      openGpuCholesky(QLM_FAKE_CUDA, {"liba.so", "libb.so"}).status().message(),
      "cannot open cuSOLVER: none of 2 libraries, the last 'libb.so'");
  EXPECT_FALSE(openGpuCholesky("libmissing.so", {QLM_FAKE_SOLVER}).ok());
}

TEST_F(GpuCholeskyTest, GptqRoundsByItAndWithoutIt) {
  constexpr int64_t kRows = 9, kColumns = 64;
  std::vector<float> moments = makeMoments<float>(kColumns, 5);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> weights(kRows * kColumns);
  for (float &value : weights)
    value = normal(random);
  numerics::Scheme scheme;
  scheme.bits = 4;
  scheme.lo = -8;
  scheme.hi = 7;
  scheme.bound = 7.5f;
  scheme.granularity = numerics::Granularity::Group;
  scheme.groupSize = 32;
  auto round = [&](const numerics::CholeskyFunction &cholesky) {
    numerics::GptqOptions options;
    options.actOrder = true;
    options.cholesky = cholesky;
    numerics::GptqFactor factor;
    EXPECT_TRUE(factor.compute(moments.data(), kColumns, options));
    std::vector<float> left = weights, scales(kRows * 2);
    std::vector<uint8_t> codes(weights.size());
    EXPECT_TRUE(numerics::quantizeGptq(left.data(), kRows, kColumns, scheme,
                                       factor, options, codes.data(),
                                       scales.data(), nullptr)
                    .ok());
    return codes;
  };
  std::vector<uint8_t> expected = round({});
  Result<numerics::CholeskyFunction> cholesky = open();
  ASSERT_TRUE(cholesky.ok());
  int calls = 0;
  EXPECT_EQ(round([&](const numerics::FactoredRows &rows) {
              ++calls;
              return (*cholesky)(rows);
            }),
            expected);
  EXPECT_EQ(calls, 1);
  // A GPU that fails may have given some rows.
  EXPECT_EQ(
      round([](const numerics::FactoredRows &rows) -> std::optional<bool> {
        std::vector<double> lost(kColumns * rows.size, -1.0);
        rows.take(0, 3, lost.data());
        return std::nullopt;
      }),
      expected);
}

TEST_F(GpuCholeskyTest, LargeMatricesPassInParts) {
  // 1,500 rows of as many doubles are more than one buffer.
  constexpr int64_t kSize = 1500;
  Result<numerics::CholeskyFunction> cholesky = open();
  ASSERT_TRUE(cholesky.ok());
  // Of a known factor with three bands.
  std::vector<double> matrix(kSize * kSize);
  auto known = [](int64_t i, int64_t j) {
    return i - j > 2 || j > i ? 0 : i == j ? 2.0 + i % 3 : 0.25 * (i % 5);
  };
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t j = std::max<int64_t>(i - 2, 0); j <= i; ++j)
      for (int64_t k = std::max<int64_t>(i - 2, 0); k <= j; ++k)
        matrix[i * kSize + j] += known(i, k) * known(j, k);
  std::optional<bool> done = (*cholesky)(makeRows(matrix, kSize));
  ASSERT_TRUE(done && *done);
  double worst = 0;
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t j = 0; j <= i; ++j)
      worst = std::max(worst, std::fabs(matrix[i * kSize + j] - known(i, j)));
  EXPECT_LT(worst, 1e-9);
  int copies = fakeCudaCalls("cuMemcpyHtoDAsync_v2");
  EXPECT_GE(copies, 2);
}
