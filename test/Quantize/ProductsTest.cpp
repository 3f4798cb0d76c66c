//===- ProductsTest.cpp - Products against their definition ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Products.h"

#include "../../lib/Quantize/Numerics/ProductKernel.h"

#include "gtest/gtest.h"

#include <cmath>
#include <random>
#include <vector>

using namespace qlm::numerics;

namespace {

template <typename T> std::vector<T> makeValues(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<T> normal;
  std::vector<T> values(static_cast<size_t>(count));
  for (T &value : values)
    value = normal(random);
  return values;
}

/// The header's definition: 256 of k at a time, by fused multiply-adds.
template <typename T>
void addByDefinition(int64_t rows, int64_t columns, int64_t depth, T factor,
                     MatrixView<T> a, MatrixView<T> b, T *c, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t first = 0; first < depth; first += 256) {
        T sum = 0;
        for (int64_t k = first; k < std::min(first + 256, depth); ++k)
          sum = std::fma(a.data[i * a.rowStride + k * a.columnStride],
                         b.data[k * b.rowStride + j * b.columnStride], sum);
        T product = factor * sum;
        c[i * stride + j] += product;
      }
}

template <typename T>
void checkShape(int64_t rows, int64_t columns, int64_t depth, bool turned,
                T factor, int threads) {
  SCOPED_TRACE(testing::Message() << rows << "x" << columns << "x" << depth);
  std::vector<T> a = makeValues<T>(rows * depth, 1);
  std::vector<T> b = makeValues<T>(depth * columns, 2);
  int64_t stride = columns + 3;
  std::vector<T> c = makeValues<T>(rows * stride, 3), expected = c;
  MatrixView<T> left = turned ? MatrixView<T>{a.data(), 1, rows}
                              : MatrixView<T>{a.data(), depth, 1};
  MatrixView<T> right = turned ? MatrixView<T>{b.data(), 1, depth}
                               : MatrixView<T>{b.data(), columns, 1};
  addByDefinition(rows, columns, depth, factor, left, right, expected.data(),
                  stride);
  addProduct(rows, columns, depth, factor, left, right, c.data(), stride,
             ProductPart::All, threads);
  EXPECT_EQ(c, expected);
}

} // namespace

TEST(ProductsTest, ElementsHaveTheBitsOfTheDefinition) {
  struct {
    int64_t rows, columns, depth;
  } shapes[] = {{1, 1, 1},    {5, 33, 257},  {97, 65, 3},   {12, 32, 256},
                {13, 513, 7}, {192, 17, 31}, {101, 67, 523}};
  for (auto [rows, columns, depth] : shapes)
    for (bool turned : {false, true}) {
      checkShape<float>(rows, columns, depth, turned, 1, turned ? 3 : 1);
      checkShape<double>(rows, columns, depth, turned, -1, turned ? 1 : 2);
    }
}

TEST(ProductsTest, NothingChangesWithoutRowsOrDepth) {
  std::vector<float> c = {1, 2};
  MatrixView<float> empty{nullptr, 0, 1};
  addProduct<float>(0, 2, 4, 1, empty, empty, c.data(), 2);
  addProduct<float>(1, 2, 0, 1, empty, empty, c.data(), 2);
  EXPECT_EQ(c, (std::vector<float>{1, 2}));
}

TEST(ProductsTest, LowerPartIsThatOfTheWhole) {
  for (int64_t size : {1, 31, 130, 611}) {
    std::vector<float> x = makeValues<float>(40 * size, 4);
    std::vector<float> c(static_cast<size_t>(size * size)), expected = c;
    MatrixView<float> left{x.data(), 1, size}, right{x.data(), size, 1};
    addByDefinition<float>(size, size, 40, 1, left, right, expected.data(),
                           size);
    addProduct<float>(size, size, 40, 1, left, right, c.data(), size,
                      ProductPart::Lower, 3);
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j <= i; ++j)
        ASSERT_EQ(c[i * size + j], expected[i * size + j]) << i << " " << j;
  }
}

/// Each width that this machine has, not only the one that is chosen.
TEST(ProductsTest, WidthsAgree) {
  std::vector<const ProductKernels *> widths = {&kProductKernels128};
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    widths.push_back(&kProductKernels256);
  if (__builtin_cpu_supports("avx512f"))
    widths.push_back(&kProductKernels512);
#endif
  for (const ProductKernels *kernels : widths) {
    int64_t rows = kernels->tileRows, depth = 19;
    int64_t columns = kernels->vectorBytes / 2;
    std::vector<float> a = makeValues<float>(depth * rows, 5);
    std::vector<float> b = makeValues<float>(depth * columns, 6);
    for (int64_t fewer : {0, 1}) {
      std::vector<float> c(static_cast<size_t>(rows * columns)), expected = c;
      addByDefinition<float>(rows - fewer, columns - fewer, depth, -1,
                             {a.data(), 1, rows}, {b.data(), columns, 1},
                             expected.data(), columns);
      kernels->addFloats(depth, -1, a.data(), b.data(), c.data(), columns,
                         rows - fewer, columns - fewer);
      EXPECT_EQ(c, expected) << kernels->vectorBytes << " bytes";
    }
  }
}

TEST(ProductsTest, FactorTimesItsTransposeIsTheMatrix) {
  for (int64_t size : {1, 2, 95, 97, 300}) {
    std::vector<double> x = makeValues<double>(size * (size + 5), 7);
    std::vector<double> matrix(static_cast<size_t>(size * size));
    addProduct<double>(size, size, size + 5, 1, {x.data(), size + 5, 1},
                       {x.data(), 1, size + 5}, matrix.data(), size);
    std::vector<double> factor = matrix;
    ASSERT_TRUE(factorCholesky(factor.data(), size, 2));
    double error = 0, norm = 0;
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (int64_t k = 0; k <= j; ++k)
          sum += factor[i * size + k] * factor[j * size + k];
        error = std::max(error, std::fabs(sum - matrix[i * size + j]));
        norm = std::max(norm, std::fabs(matrix[i * size + j]));
      }
    EXPECT_LT(error, 1e-13 * norm) << size;
  }
}

TEST(ProductsTest, IndefiniteMatricesAreTold) {
  for (int64_t bad : {0, 5, 99, 149}) {
    std::vector<double> matrix(150 * 150);
    for (int64_t i = 0; i < 150; ++i)
      matrix[i * 151] = i == bad ? -1 : 1;
    EXPECT_FALSE(factorCholesky(matrix.data(), 150)) << bad;
    matrix.assign(150 * 150, 0);
    for (int64_t i = 0; i < 150; ++i)
      matrix[i * 151] = i == bad ? NAN : 1;
    EXPECT_FALSE(factorCholesky(matrix.data(), 150)) << bad;
  }
}
