//===- SwigluTest.cpp - The kernel of qlm.swiglu --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelTest.h"

using namespace mlir::qlm::cpu::test;

static std::string getText(int64_t features) {
  std::string in = "tensor<?x" + std::to_string(2 * features) + "xf32>";
  std::string out = "tensor<?x" + std::to_string(features) + "xf32>";
  return "func.func @f(%x: " + in + ") -> " + out + " {\n" +
         "%y = qlm.swiglu %x : " + in + " -> " + out + "\n" +
         "return %y : " + out + "\n}";
}

class SwigluTest : public testing::TestWithParam<std::string> {};

TEST_P(SwigluTest, EqualsFormula) {
  for (int64_t features : {1, 7, 8, 16, 33, 1023, 1024, 1025, 2048 + 17}) {
    SCOPED_TRACE(features);
    int64_t rows = 3;
    CompiledKernel kernel(GetParam(), getText(features), {rows, 1, 1});
    std::vector<float> values = Random(features).floats(rows * 2 * features, 4);
    Buffer<float> x(values), y(rows * features);
    kernel.run({x.data(), y.data()}, {rows, 1, 1, 1});
    std::vector<double> expected;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < features; ++i) {
        double gate = values[row * 2 * features + i];
        double up = values[row * 2 * features + features + i];
        expected.push_back(gate / (1 + std::exp(-gate)) * up);
      }
    EXPECT_LT(getRelativeError(y, expected, expected.size()), 2e-7);
    EXPECT_TRUE(y.isIntact());
  }
}

// e^-x overflows or vanishes far from zero.
TEST_P(SwigluTest, GateFarFromZero) {
  CompiledKernel kernel(GetParam(), getText(4), {1, 1, 1});
  Buffer<float> x({-1e4f, -100.0f, 100.0f, 1e30f, 2.0f, 3.0f, 2.0f, 1.0f});
  Buffer<float> y(4);
  kernel.run({x.data(), y.data()}, {1, 1, 1, 1});
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_NEAR(y[1], 0.0f, 1e-35);
  EXPECT_EQ(y[2], 200.0f);
  EXPECT_EQ(y[3], 1e30f);
}

INSTANTIATE_TEST_SUITE_P(Targets, SwigluTest,
                         testing::ValuesIn(getRunnableTargets()));
