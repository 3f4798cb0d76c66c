//===- RowKernelsTest.cpp - Embedding, norm, selection, codes -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FloatTypes.h"
#include "KernelTest.h"

using namespace mlir::qlm;
using namespace mlir::qlm::cpu::test;

namespace {
/// Row lengths around the sizes of vectors and of unrolled loops.
const int64_t kFeatures[] = {1,  2,  7,  8,  9,   15,  16, 17,
                             31, 63, 64, 65, 127, 256, 300};

class RowKernelsTest : public testing::TestWithParam<std::string> {};
} // namespace

//===----------------------------------------------------------------------===//
// qlm.embedding
//===----------------------------------------------------------------------===//

static void testEmbedding(const std::string &target, FloatType type) {
  for (int64_t features : kFeatures) {
    SCOPED_TRACE(features);
    int64_t vocabulary = 11, tokens = 5;
    std::string table =
        "tensor<11x" + std::to_string(features) + "x" + getName(type) + ">";
    std::string result = "tensor<?x" + std::to_string(features) + "xf32>";
    CompiledKernel kernel(
        target,
        "func.func @f(%t: tensor<?xi32>, %w: " + table + ") -> " + result +
            " {\n%y = qlm.embedding %t, %w : tensor<?xi32>, " + table + " -> " +
            result + "\nreturn %y : " + result + "\n}",
        {tokens, 1, 1});
    Buffer<int32_t> ids({3, 0, 10, 3, 7});
    FloatBuffer values(type, Random(1).floats(vocabulary * features));
    Buffer<float> y(tokens * features);
    kernel.run({ids.data(), values.data(), y.data()}, {tokens, 1, 1, 1});
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < features; ++i)
        ASSERT_EQ(y[t * features + i], values.get(ids[t] * features + i));
    EXPECT_TRUE(y.isIntact());
  }
}

TEST_P(RowKernelsTest, EmbeddingF32) {
  testEmbedding(GetParam(), FloatType::F32);
}
TEST_P(RowKernelsTest, EmbeddingF16) {
  testEmbedding(GetParam(), FloatType::F16);
}
TEST_P(RowKernelsTest, EmbeddingBf16) {
  testEmbedding(GetParam(), FloatType::BF16);
}

//===----------------------------------------------------------------------===//
// qlm.rms_norm
//===----------------------------------------------------------------------===//

static std::string getNormText(int64_t features, FloatType type) {
  std::string x = "tensor<?x" + std::to_string(features) + "xf32>";
  std::string w =
      "tensor<" + std::to_string(features) + "x" + getName(type) + ">";
  return "func.func @f(%x: " + x + ", %w: " + w + ") -> " + x +
         " {\n%y = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : " + x + ", " +
         w + "\nreturn %y : " + x + "\n}";
}

TEST_P(RowKernelsTest, RmsNormEqualsFormula) {
  for (FloatType type : {FloatType::F32, FloatType::F16, FloatType::BF16}) {
    for (int64_t features : kFeatures) {
      SCOPED_TRACE(features);
      int64_t rows = 3;
      CompiledKernel kernel(GetParam(), getNormText(features, type),
                            {rows, 1, 1});
      // Rows of very different sizes: epsilon matters in the last.
      std::vector<float> values = Random(2).floats(rows * features, 10);
      for (int64_t i = 0; i < features; ++i)
        values[2 * features + i] *= 1e-4f;
      Buffer<float> x(values), y(rows * features);
      FloatBuffer weight(type, Random(3).floats(features));
      kernel.run({x.data(), weight.data(), y.data()}, {rows, 1, 1, 1});
      std::vector<double> expected;
      for (int64_t t = 0; t < rows; ++t) {
        double sum = 0;
        for (int64_t i = 0; i < features; ++i)
          sum += std::pow(double(values[t * features + i]), 2);
        double root = std::sqrt(sum / features + double(1.0e-5f));
        for (int64_t i = 0; i < features; ++i)
          expected.push_back(double(weight.get(i)) * values[t * features + i] /
                             root);
      }
      for (int64_t t = 0; t < rows; ++t)
        EXPECT_LT(getRelativeError(y.data() + t * features,
                                   expected.data() + t * features, features),
                  3e-7);
      EXPECT_TRUE(y.isIntact());
    }
  }
}

// A row's result has the same bits wherever and with whatever it is computed.
TEST_P(RowKernelsTest, RmsNormIsBatchInvariant) {
  int64_t features = 77;
  CompiledKernel kernel(GetParam(), getNormText(features, FloatType::F32),
                        {8, 1, 1});
  std::vector<float> row = Random(4).floats(features);
  std::vector<float> values = Random(5).floats(6 * features);
  std::copy(row.begin(), row.end(), values.begin() + 4 * features);
  Buffer<float> alone(row), together(values), weight(std::vector<float>(77, 1));
  Buffer<float> y(features), z(6 * features);
  kernel.run({alone.data(), weight.data(), y.data()}, {1, 1, 1, 1});
  kernel.run({together.data(), weight.data(), z.data()}, {6, 1, 1, 1}, 4);
  for (int64_t i = 0; i < features; ++i)
    ASSERT_EQ(y[i], z[4 * features + i]);
}

//===----------------------------------------------------------------------===//
// qlm.select_rows
//===----------------------------------------------------------------------===//

TEST_P(RowKernelsTest, SelectRowsCopies) {
  for (int64_t features : kFeatures) {
    std::string x = "tensor<?x" + std::to_string(features) + "xf32>";
    CompiledKernel kernel(GetParam(),
                          "func.func @f(%x: " + x + ", %r: tensor<?xi32>) -> " +
                              x + " {\n%y = qlm.select_rows %x, %r : " + x +
                              ", tensor<?xi32> -> " + x + "\nreturn %y : " + x +
                              "\n}",
                          {6, 2, 6}, SizeKind::LogitRows);
    EXPECT_EQ(kernel.getInfo().scratchBytes, 0);
    Buffer<float> input(Random(6).floats(6 * features)), y(3 * features);
    Buffer<int32_t> rows({5, 0, 5});
    kernel.run({input.data(), rows.data(), y.data()}, {6, 2, 3, 1});
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t i = 0; i < features; ++i)
        ASSERT_EQ(y[r * features + i], input[rows[r] * features + i]);
    EXPECT_TRUE(y.isIntact());
  }
}

//===----------------------------------------------------------------------===//
// qlm.dynamic_quantize
//===----------------------------------------------------------------------===//

static std::string getQuantizeText(int64_t features, bool isFloat8 = false) {
  std::string shape = "tensor<?x" + std::to_string(features) + "x";
  std::string results =
      shape + (isFloat8 ? "f8E4M3FN" : "i8") + ">, tensor<?xf32>";
  return "func.func @f(%x: " + shape + "f32>) -> (" + results +
         ") {\n%c, %s = qlm.dynamic_quantize %x {scheme = #qlm.scheme<" +
         (isFloat8 ? "f8E4M3FN, row, bound 448.0"
                   : "i8, row, range [-127, 127], bound 127.0") +
         ", scales f32>} : " + shape + "f32> -> " + results +
         "\nreturn %c, %s : " + results + "\n}";
}

// The definition in f32 gives the same codes, bit for bit.
TEST_P(RowKernelsTest, DynamicQuantizeEqualsDefinition) {
  for (int64_t features : kFeatures) {
    SCOPED_TRACE(features);
    int64_t rows = 4;
    CompiledKernel kernel(GetParam(), getQuantizeText(features), {rows, 1, 1});
    std::vector<float> values = Random(7).floats(rows * features, 3);
    std::fill_n(values.begin() + features, features, 0.0f);
    // A last code whose sign bits, stored too far, are no poison.
    values.back() = std::fabs(values.back());
    Buffer<float> x(values), scales(rows);
    Buffer<int8_t> codes(rows * features);
    kernel.run({x.data(), codes.data(), scales.data()}, {rows, 1, 1, 1});
    for (int64_t t = 0; t < rows; ++t) {
      float largest = 0;
      for (int64_t i = 0; i < features; ++i)
        largest = std::max(largest, std::fabs(values[t * features + i]));
      ASSERT_EQ(scales[t], largest / 127.0f);
      float inverse = 127.0f / largest;
      for (int64_t i = 0; i < features; ++i) {
        float scaled = largest > 0 ? values[t * features + i] * inverse : 0;
        ASSERT_EQ(codes[t * features + i],
                  std::clamp(std::nearbyint(scaled), -127.0f, 127.0f));
      }
    }
    EXPECT_TRUE(codes.isIntact() && scales.isIntact());
  }
}

/// The bits of \p x rounded to f8E4M3FN by LLVM.
static uint8_t roundToFloat8(float x) {
  llvm::APFloat number(std::clamp(x, -448.0f, 448.0f));
  bool lost;
  number.convert(llvm::APFloat::Float8E4M3FN(),
                 llvm::APFloat::rmNearestTiesToEven, &lost);
  return static_cast<uint8_t>(number.bitcastToAPInt().getZExtValue());
}

// Rows of every size, of zeros, and of powers of two from the largest number
// down to below the subnormal ones, with what lies halfway between neighbours.
TEST_P(RowKernelsTest, DynamicQuantizeToFloat8EqualsDefinition) {
  for (int64_t features : kFeatures) {
    SCOPED_TRACE(features);
    int64_t rows = 4;
    CompiledKernel kernel(GetParam(), getQuantizeText(features, true),
                          {rows, 1, 1});
    std::vector<float> values = Random(7).floats(rows * features, 3);
    std::fill_n(values.begin() + features, features, 0.0f);
    for (int64_t i = 0; i < features; ++i) {
      float odd = 1.0f + static_cast<float>(i % 16) / 16;
      values[2 * features + i] =
          (i % 2 ? -1 : 1) * std::ldexp(odd, 7 - static_cast<int>(i % 20));
    }
    values[2 * features] = 448;
    values.back() = std::fabs(values.back());
    Buffer<float> x(values), scales(rows);
    Buffer<uint8_t> codes(rows * features);
    kernel.run({x.data(), codes.data(), scales.data()}, {rows, 1, 1, 1});
    for (int64_t t = 0; t < rows; ++t) {
      float largest = 0;
      for (int64_t i = 0; i < features; ++i)
        largest = std::max(largest, std::fabs(values[t * features + i]));
      ASSERT_EQ(scales[t], largest / 448.0f);
      float inverse = 448.0f / largest;
      for (int64_t i = 0; i < features; ++i) {
        float scaled = largest > 0 ? values[t * features + i] * inverse : 0;
        ASSERT_EQ(codes[t * features + i], roundToFloat8(scaled)) << scaled;
      }
    }
    EXPECT_TRUE(codes.isIntact() && scales.isIntact());
  }
}

// Halves go to the even code: 127 / 127 = 1 makes the input its own code.
TEST_P(RowKernelsTest, DynamicQuantizeHalvesToEven) {
  CompiledKernel kernel(GetParam(), getQuantizeText(6), {1, 1, 1});
  Buffer<float> x({127.0f, 0.5f, 1.5f, -0.5f, -2.5f, -127.0f}), scales(1);
  Buffer<int8_t> codes(6);
  kernel.run({x.data(), codes.data(), scales.data()}, {1, 1, 1, 1});
  EXPECT_EQ(codes.toVector(), (std::vector<int8_t>{127, 0, 2, 0, -2, -127}));
}

// Lists hold what reaches the threshold, whole chunks of it or none; the
// rest of a list, and of the memory, stays as it was.
TEST_P(RowKernelsTest, DynamicQuantizeListsOutliers) {
  constexpr float kThreshold = 6;
  for (int64_t features : kFeatures) {
    SCOPED_TRACE(features);
    int64_t rows = 6, pitch = 1 + 2 * features;
    std::string shape = "tensor<?x" + std::to_string(features) + "x";
    std::string types = shape + "i8>, tensor<?xf32>, tensor<?x" +
                        std::to_string(pitch) + "xf32>";
    CompiledKernel kernel(
        GetParam(),
        "func.func @f(%x: " + shape + "f32>) -> (" + types +
            ") {\n%c, %s, %o = qlm.dynamic_quantize %x {scheme = "
            "#qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>,"
            " threshold = 6.0 : f32} : " +
            shape + "f32> -> " + types + "\nreturn %c, %s, %o : " + types +
            "\n}",
        {rows, 1, 1});
    std::vector<float> values = Random(9).floats(rows * features, 4);
    std::fill_n(values.begin() + features, features, 0.0f);
    std::fill_n(values.begin() + 2 * features, features, -7.5f);
    values[3 * features] = -kThreshold; // reaches it
    values[4 * features] = std::nextafter(kThreshold, 0.0f);
    Buffer<float> x(values), scales(rows), lists(rows * pitch);
    Buffer<int8_t> codes(rows * features);
    kernel.run({x.data(), codes.data(), scales.data(), lists.data()},
               {rows, 1, 1, 1});
    for (int64_t t = 0; t < rows; ++t) {
      float largest = 0;
      std::vector<float> columns, wide;
      for (int64_t i = 0; i < features; ++i) {
        float &value = values[t * features + i];
        if (std::fabs(value) >= kThreshold) {
          columns.push_back(static_cast<float>(i));
          wide.push_back(value);
          value = 0;
        }
        largest = std::max(largest, std::fabs(value));
      }
      const float *list = lists.data() + t * pitch;
      ASSERT_EQ(list[0], static_cast<float>(wide.size()));
      for (int64_t j = 0; j < features; ++j) {
        bool isListed = j < static_cast<int64_t>(wide.size());
        ASSERT_EQ(isListed, !std::isnan(list[1 + j]));
        ASSERT_EQ(isListed, !std::isnan(list[1 + features + j]));
        if (isListed) {
          ASSERT_EQ(list[1 + j], columns[j]);
          ASSERT_EQ(list[1 + features + j], wide[j]);
        }
      }
      ASSERT_EQ(scales[t], largest / 127.0f);
      float inverse = 127.0f / largest;
      for (int64_t i = 0; i < features; ++i) {
        float scaled = largest > 0 ? values[t * features + i] * inverse : 0;
        ASSERT_EQ(codes[t * features + i],
                  std::clamp(std::nearbyint(scaled), -127.0f, 127.0f));
      }
    }
    EXPECT_TRUE(codes.isIntact() && scales.isIntact() && lists.isIntact());
  }
}

//===----------------------------------------------------------------------===//
// qlm.static_quantize
//===----------------------------------------------------------------------===//

// The definition in f32 gives the same codes, bit for bit.
TEST_P(RowKernelsTest, StaticQuantizeEqualsDefinition) {
  for (int64_t features : kFeatures) {
    SCOPED_TRACE(features);
    int64_t rows = 3;
    std::string shape = "tensor<?x" + std::to_string(features) + "x";
    CompiledKernel kernel(
        GetParam(),
        "func.func @f(%x: " + shape + "f32>, %a: tensor<1xf32>) -> (" + shape +
            "i8>, tensor<?xf32>) {\n%c, %s = qlm.static_quantize %x scale %a "
            "{scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, "
            "scales f32>} : " +
            shape + "f32>, tensor<1xf32> -> " + shape +
            "i8>, tensor<?xf32>\nreturn %c, %s : " + shape +
            "i8>, tensor<?xf32>\n}",
        {rows, 1, 1});
    std::vector<float> values = Random(7).floats(rows * features, 3);
    float scale = 0.0190001f;
    // Beyond the range on both sides, a half, and zero.
    values[0] = 1e30f;
    values.back() = -4.0f;
    values[features / 2] = 2.5f * scale;
    Buffer<float> x(values), a(std::vector<float>{scale}), scales(rows);
    Buffer<int8_t> codes(rows * features);
    kernel.run({x.data(), a.data(), codes.data(), scales.data()},
               {rows, 1, 1, 1});
    for (int64_t i = 0; i < rows * features; ++i)
      ASSERT_EQ(codes[i],
                std::clamp(std::nearbyint(values[i] / scale), -127.0f, 127.0f));
    for (int64_t t = 0; t < rows; ++t)
      ASSERT_EQ(scales[t], scale);
    EXPECT_TRUE(codes.isIntact() && scales.isIntact());
  }
}

//===----------------------------------------------------------------------===//
// qlm.convert
//===----------------------------------------------------------------------===//

static void testConvert(const std::string &target, FloatType from,
                        FloatType to) {
  for (int64_t features : kFeatures) {
    SCOPED_TRACE(features);
    int64_t rows = 3;
    std::string shape = "tensor<?x" + std::to_string(features) + "x";
    std::string x = shape + getName(from) + ">", y = shape + getName(to) + ">";
    CompiledKernel kernel(target,
                          "func.func @f(%x: " + x + ") -> " + y +
                              " {\n%y = qlm.convert %x : " + x + " to " + y +
                              "\nreturn %y : " + y + "\n}",
                          {rows, 1, 1});
    std::vector<float> values = Random(9).floats(rows * features, 3);
    // A half between two bf16 values, and what would carry into infinity.
    values[0] = 1.00390625f;
    values.back() = std::numeric_limits<float>::infinity();
    FloatBuffer input(from, values), result(to, rows * features);
    kernel.run({input.data(), result.data()}, {rows, 1, 1, 1});
    for (int64_t i = 0; i < rows * features; ++i)
      ASSERT_EQ(result.get(i), roundTo(to, input.get(i)));
    EXPECT_TRUE(result.isIntact());
  }
}

TEST_P(RowKernelsTest, ConvertRoundsHalfToEven) {
  testConvert(GetParam(), FloatType::F32, FloatType::BF16);
}
TEST_P(RowKernelsTest, ConvertExtends) {
  testConvert(GetParam(), FloatType::BF16, FloatType::F32);
}

INSTANTIATE_TEST_SUITE_P(Targets, RowKernelsTest,
                         testing::ValuesIn(getRunnableTargets()));
