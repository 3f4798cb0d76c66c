//===- FusedQuantizeTest.cpp - Norm and MLP rounded in one pass -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Codes and scales are compared with a float64 formula, and bit for bit with
// the kernels of the operations that were fused.
//
//===----------------------------------------------------------------------===//

#include "FloatTypes.h"
#include "KernelTest.h"

using namespace mlir::qlm;
using namespace mlir::qlm::cpu::test;

namespace {
/// Row lengths around the sizes of vectors and of unrolled loops.
const int64_t kFeatures[] = {1,  2,  7,  8,  9,   15,  16,  17,  31,
                             63, 64, 65, 80, 127, 256, 300, 1025};

class FusedQuantizeTest : public testing::TestWithParam<std::string> {};

struct Rounded {
  Rounded(int64_t rows, int64_t features)
      : codes(rows * features), scales(rows) {}
  bool isIntact() const { return codes.isIntact() && scales.isIntact(); }

  Buffer<int8_t> codes;
  Buffer<float> scales;
};
} // namespace

static std::string getTensor(int64_t features, const std::string &element) {
  return "tensor<?x" + std::to_string(features) + "x" + element + ">";
}

/// A function of \p arguments with \p operation, whose results are codes and
/// scales; `SCHEME` and `TYPES` in the text are spelled out.
static std::string getText(const std::string &arguments, std::string operation,
                           int64_t features) {
  std::string types = getTensor(features, "i8") + ", tensor<?xf32>";
  auto replace = [&](const std::string &word, const std::string &text) {
    operation.replace(operation.find(word), word.size(), text);
  };
  replace("SCHEME", "scheme = #qlm.scheme<i8, row, range [-127, 127], bound "
                    "127.0, scales f32>");
  replace("TYPES", types);
  return "func.func @f(" + arguments + ") -> (" + types +
         ") {\n%c, %s = " + operation + "\nreturn %c, %s : " + types + "\n}";
}

static std::string getNormText(int64_t features, FloatType type, bool rows) {
  std::string x = getTensor(features, "f32");
  std::string w =
      "tensor<" + std::to_string(features) + "x" + getName(type) + ">";
  return getText(
      "%x: " + x + ", %w: " + w + (rows ? ", %r: tensor<?xi32>" : ""),
      std::string("qlm.rms_norm_quantize %x, %w ") +
          (rows ? "rows %r : tensor<?xi32> " : "") +
          "{epsilon = 1.0e-5 : f32, SCHEME} : " + x + ", " + w + " -> TYPES",
      features);
}

static std::string getSwigluText(int64_t features) {
  std::string x = getTensor(2 * features, "f32");
  return getText("%x: " + x,
                 "qlm.swiglu_quantize %x {SCHEME} : " + x + " -> TYPES",
                 features);
}

/// What the kernel of `qlm.dynamic_quantize` makes of \p values.
static void roundUnfused(const std::string &target, Buffer<float> &values,
                         int64_t features, Rounded &result) {
  int64_t rows = result.scales.getCount();
  std::string x = getTensor(features, "f32");
  CompiledKernel kernel(
      target,
      getText("%x: " + x,
              "qlm.dynamic_quantize %x {SCHEME} : " + x + " -> TYPES",
              features),
      {rows, 1, 1});
  kernel.run({values.data(), result.codes.data(), result.scales.data()},
             {rows, 1, 1, 1});
}

static void expectSameBits(const Rounded &fused, const Rounded &unfused) {
  EXPECT_EQ(fused.codes.toVector(), unfused.codes.toVector());
  EXPECT_EQ(fused.scales.toVector(), unfused.scales.toVector());
  EXPECT_TRUE(fused.isIntact());
}

/// Compares with codes and scales of \p expected, which has the same rows.
static void expectRounded(const Rounded &result,
                          const std::vector<double> &expected) {
  int64_t rows = result.scales.getCount(), features = expected.size() / rows;
  for (int64_t t = 0; t < rows; ++t) {
    double largest = 0;
    for (int64_t i = 0; i < features; ++i)
      largest = std::max(largest, std::fabs(expected[t * features + i]));
    EXPECT_NEAR(result.scales[t], largest / 127, 1e-6 * largest / 127);
    for (int64_t i = 0; i < features; ++i) {
      double scaled =
          largest > 0 ? expected[t * features + i] * (127 / largest) : 0;
      // f32 may move a value across the middle between two codes.
      ASSERT_NEAR(result.codes[t * features + i], scaled, 0.5 + 1e-4);
    }
  }
}

//===----------------------------------------------------------------------===//
// qlm.rms_norm_quantize
//===----------------------------------------------------------------------===//

/// Normalizes all rows of \p x with the kernel of `qlm.rms_norm`.
static void normalizeUnfused(const std::string &target, Buffer<float> &x,
                             FloatBuffer &weight, FloatType type,
                             int64_t features, Buffer<float> &result) {
  std::string tensor = getTensor(features, "f32");
  std::string w =
      "tensor<" + std::to_string(features) + "x" + getName(type) + ">";
  int64_t rows = result.getCount() / features;
  CompiledKernel kernel(
      target,
      "func.func @f(%x: " + tensor + ", %w: " + w + ") -> " + tensor +
          " {\n%y = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : " + tensor +
          ", " + w + "\nreturn %y : " + tensor + "\n}",
      {rows, 1, 1});
  kernel.run({x.data(), weight.data(), result.data()}, {rows, 1, 1, 1});
}

static void testNorm(const std::string &target, FloatType type) {
  for (int64_t features : kFeatures) {
    SCOPED_TRACE(features);
    int64_t rows = 4;
    // Rows of very different sizes; one of zeros.
    std::vector<float> values = Random(2).floats(rows * features, 10);
    for (int64_t i = 0; i < features; ++i) {
      values[1 * features + i] = 0;
      values[2 * features + i] *= 1e-4f;
    }
    Buffer<float> x(values), normal(rows * features);
    FloatBuffer weight(type, Random(3).floats(features));
    Rounded fused(rows, features), unfused(rows, features);
    CompiledKernel kernel(target, getNormText(features, type, /*rows=*/false),
                          {rows, 1, 1});
    kernel.run(
        {x.data(), weight.data(), fused.codes.data(), fused.scales.data()},
        {rows, 1, 1, 1}, /*parts=*/3);
    normalizeUnfused(target, x, weight, type, features, normal);
    roundUnfused(target, normal, features, unfused);
    expectSameBits(fused, unfused);
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
    expectRounded(fused, expected);
  }
}

TEST_P(FusedQuantizeTest, NormWithF32Weight) {
  testNorm(GetParam(), FloatType::F32);
}
TEST_P(FusedQuantizeTest, NormWithF16Weight) {
  testNorm(GetParam(), FloatType::F16);
}
TEST_P(FusedQuantizeTest, NormWithBf16Weight) {
  testNorm(GetParam(), FloatType::BF16);
}

TEST_P(FusedQuantizeTest, NormOfSelectedRowsEqualsNormOfAll) {
  for (int64_t features : {1, 17, 64, 300}) {
    SCOPED_TRACE(features);
    int64_t tokens = 6, wanted = 4;
    Buffer<float> x(Random(6).floats(tokens * features));
    Buffer<float> weight(Random(7).floats(features));
    Buffer<int32_t> rows({5, 0, 5, 2});
    Rounded all(tokens, features), some(wanted, features);
    CompiledKernel every(GetParam(),
                         getNormText(features, FloatType::F32, false),
                         {tokens, 2, tokens});
    CompiledKernel kernel(GetParam(),
                          getNormText(features, FloatType::F32, true),
                          {tokens, 2, tokens}, SizeKind::LogitRows);
    StepSizes sizes{tokens, 2, wanted, 1};
    EXPECT_EQ(kernel.getTiles(sizes), wanted);
    every.run({x.data(), weight.data(), all.codes.data(), all.scales.data()},
              sizes);
    kernel.run({x.data(), weight.data(), rows.data(), some.codes.data(),
                some.scales.data()},
               sizes);
    for (int64_t r = 0; r < wanted; ++r) {
      ASSERT_EQ(some.scales[r], all.scales[rows[r]]);
      for (int64_t i = 0; i < features; ++i)
        ASSERT_EQ(some.codes[r * features + i],
                  all.codes[rows[r] * features + i]);
    }
    EXPECT_TRUE(some.isIntact());
  }
}

//===----------------------------------------------------------------------===//
// qlm.swiglu_quantize
//===----------------------------------------------------------------------===//

/// Gates all rows of \p x with the kernel of `qlm.swiglu`.
static void gateUnfused(const std::string &target, Buffer<float> &x,
                        int64_t features, Buffer<float> &result) {
  std::string in = getTensor(2 * features, "f32");
  std::string out = getTensor(features, "f32");
  int64_t rows = result.getCount() / features;
  CompiledKernel kernel(target,
                        "func.func @f(%x: " + in + ") -> " + out +
                            " {\n%y = qlm.swiglu %x : " + in + " -> " + out +
                            "\nreturn %y : " + out + "\n}",
                        {rows, 1, 1});
  kernel.run({x.data(), result.data()}, {rows, 1, 1, 1});
}

TEST_P(FusedQuantizeTest, SwigluEqualsFormulaAndUnfused) {
  for (int64_t features : kFeatures) {
    SCOPED_TRACE(features);
    int64_t rows = 4;
    std::vector<float> values = Random(features).floats(rows * 2 * features, 4);
    // A row whose gate is closed.
    std::fill_n(values.begin() + 3 * features, features, 0.0f);
    Buffer<float> x(values), gated(rows * features);
    Rounded fused(rows, features), unfused(rows, features);
    CompiledKernel kernel(GetParam(), getSwigluText(features), {rows, 1, 1});
    kernel.run({x.data(), fused.codes.data(), fused.scales.data()},
               {rows, 1, 1, 1}, /*parts=*/3);
    gateUnfused(GetParam(), x, features, gated);
    roundUnfused(GetParam(), gated, features, unfused);
    expectSameBits(fused, unfused);
    std::vector<double> expected;
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t i = 0; i < features; ++i) {
        double gate = values[t * 2 * features + i];
        double up = values[t * 2 * features + features + i];
        expected.push_back(gate / (1 + std::exp(-gate)) * up);
      }
    expectRounded(fused, expected);
  }
}

// A thread's scratch holds one row, whatever the step's size.
TEST_P(FusedQuantizeTest, SwigluScratchHoldsOneRow) {
  CompiledKernel kernel(GetParam(), getSwigluText(33), {1000, 1, 1});
  EXPECT_EQ(kernel.getInfo().scratchBytes, 192);
}

INSTANTIATE_TEST_SUITE_P(Targets, FusedQuantizeTest,
                         testing::ValuesIn(getRunnableTargets()));
