//===- PackedLinearTest.cpp - Kernels of qlm.packed_linear ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackedLinearCase.h"

using namespace mlir::qlm::cpu::test;

namespace {
struct LinearParameter {
  std::string target;
  LinearFormat format;
};

/// Columns that a format is tried with.
std::vector<int64_t> getColumns(const LinearFormat &format) {
  if (format.granularity != "group")
    return {8, 24, 100, 129, 384, 832};
  if (format.group == 24)
    return {24, 384};
  return {format.group, 384};
}

/// Numbers of features, of which each format takes three and kManyTiles.
/// Blocks: none full, one unfinished among many, tiles of 1, 2 and 4.
constexpr int64_t kFeatures[] = {1, 15, 16, 17, 63, 97, 256, 528, 1040};
/// 16 tiles of 8 blocks, and one block more.
constexpr int64_t kManyTiles = 2064;
constexpr int64_t kRows[] = {1, 2, 3, 5, 7, 16, 31};
constexpr int64_t kMaxRows = 67;

/// Runs rows first .. first + count - 1 in \p parts ranges of tiles.
std::vector<float> run(const LinearCase &test, const CompiledKernel &kernel,
                       int64_t first, int64_t count, int64_t parts = 2) {
  LinearCase::Run run = test.makeRun(first, count);
  kernel.run(run.addresses(), {count, 1, count, 1}, parts);
  EXPECT_TRUE(run.areIntact()) << "written outside the result";
  return run.getResult();
}

bool areSameBits(const std::vector<float> &a, const std::vector<float> &b) {
  return a.size() == b.size() &&
         memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Errors of rounding, relative to the sum of magnitudes: below 1e-6 where
// sums are exact in int32, and where float32 sums of up to 384 terms round
// randomly.
void expectFormula(const LinearCase &test, const std::vector<float> &result) {
  constexpr double kTolerance = 1e-6, kShortRounding = 0x1p-8;
  int64_t features = test.resultFeatures;
  for (int64_t row = 0; row < test.rows; ++row)
    for (int64_t f = 0; f < features; ++f) {
      auto [expected, magnitude] = test.getExpected(row, f);
      double error = std::abs(result[row * features + f] - expected);
      double allowed = kTolerance * magnitude;
      if (test.format.shortResult)
        allowed += kShortRounding * std::abs(expected);
      // NaN, where nothing was written, counts as an error too.
      if (!(error <= allowed)) {
        ADD_FAILURE() << "row " << row << ", feature " << f << ": got "
                      << result[row * features + f] << ", expected "
                      << expected;
        return;
      }
    }
}

// A row's result has the same bits whatever rows come with it, so decoding
// in a batch, in chunks or alone gives the same tokens.
void expectRowsAlone(const LinearCase &test, const CompiledKernel &kernel,
                     const std::vector<float> &all) {
  for (int64_t count : kRows) {
    int64_t first = test.rows - count;
    std::vector<float> part(all.begin() + first * test.resultFeatures,
                            all.end());
    EXPECT_TRUE(areSameBits(run(test, kernel, first, count), part))
        << count << " rows";
  }
}

void expectAnySplit(const LinearCase &test, const CompiledKernel &kernel) {
  for (int64_t rows : {1, 5}) {
    int64_t tiles = kernel.getTiles({rows, 1, rows, 1});
    std::vector<float> whole = run(test, kernel, 0, rows, /*parts=*/1);
    EXPECT_TRUE(areSameBits(whole, run(test, kernel, 0, rows, tiles)))
        << tiles << " tiles";
  }
}

class PackedLinearTest : public testing::TestWithParam<LinearParameter> {};

TEST_P(PackedLinearTest, EqualsFormulaForAnyRowsAndTiles) {
  const LinearFormat &format = GetParam().format;
  std::vector<int64_t> columns = getColumns(format);
  // Each format starts elsewhere among the shapes.
  size_t next = std::hash<std::string>()(format.name + GetParam().target);
  for (int i = 0; i < 4; ++i) {
    int64_t n = i == 0 ? kManyTiles : kFeatures[next % std::size(kFeatures)];
    int64_t k = columns[next++ % columns.size()];
    // Gate and up are whole blocks.
    if (format.gated)
      n = (n + 31) / 32 * 32;
    SCOPED_TRACE("features " + std::to_string(n) + ", columns " +
                 std::to_string(k));
    LinearCase test(format, n, k, kMaxRows);
    CompiledKernel kernel(GetParam().target, test.getText(), {kMaxRows, 1, 1});
    ASSERT_TRUE(kernel);
    std::vector<float> all = run(test, kernel, 0, kMaxRows);
    expectFormula(test, all);
    expectRowsAlone(test, kernel, all);
    expectAnySplit(test, kernel);
  }
}

std::vector<LinearFormat> getFormats() {
  std::vector<LinearFormat> formats = {
      {"F32", "f32x16", ""},
      {"Bf16", "bf16x16x2", ""},
      {"F16", "f16x16", ""},
      {"Int8Channel", "i8x16x4", "channel"},
      {"Int8Tensor", "i8x16x4", "tensor"},
      {"Int8ChannelZero", "i8x16x4", "channel", 0, true},
      {"Int8TensorZero", "i8x16x4", "tensor", 0, true},
      {"Int8Group64", "i8x16x4", "group", 64, false, true},
      {"Int4Channel", "i4x16x8", "channel"},
      {"Int4ChannelZero", "i4x16x8", "channel", 0, true, true},
      {"Int4Group24", "i4x16x8", "group", 24, false, true},
      {"Int4Group32", "i4x16x8", "group", 32},
      {"Int4Group64Zero", "i4x16x8", "group", 64, true, true},
      {"Int4Group128", "i4x16x8", "group", 128, false, true},
      {"Int4Group128Zero", "i4x16x8", "group", 128, true, true},
  };
  auto addTable = [&](const char *name, const char *codebook, int64_t group,
                      bool doubled) {
    LinearFormat format{name, "f8x16x4", "channel"};
    format.codebook = codebook;
    format.doubleScales = doubled;
    if (format.codebook == "nf4")
      format.layout = "i4x16x8";
    if (group)
      format.granularity = "group";
    format.group = group;
    formats.push_back(format);
  };
  addTable("NF4Group64", "nf4", 64, false);
  addTable("NF4Group24", "nf4", 24, false);
  addTable("NF4Group64Double", "nf4", 64, true);
  addTable("NF4Group32Double", "nf4", 32, true);
  addTable("Float8Channel", "fp8", 0, false);
  addTable("Float8Group32", "fp8", 32, false);
  // The same with int8 activations; bias and residual go along in turn.
  size_t floats = formats.size();
  for (size_t i = 0; i < floats; ++i) {
    formats[i].bias = i % 2;
    formats[i].residual = i % 3 == 1;
    if (formats[i].granularity.empty() || !formats[i].codebook.empty())
      continue;
    LinearFormat format = formats[i];
    format.name += "Int8";
    format.byteActivations = true;
    format.residual = i % 3 != 1;
    formats.push_back(format);
  }
  for (const char *granularity : {"channel", "tensor"})
    for (bool zeroPoints : {false, true}) {
      LinearFormat format{"Int8Outliers", "i8x16x4", granularity};
      format.name += granularity;
      format.name += zeroPoints ? "Zero" : "";
      format.zeroPoints = format.residual = zeroPoints;
      format.byteActivations = format.outliers = true;
      format.bias = !zeroPoints;
      formats.push_back(format);
    }
  // f8E4M3FN by f8E4M3FN.
  for (const char *name : {"Float8Channel", "Float8Group32"}) {
    LinearFormat format = *std::find_if(
        formats.begin(), formats.end(),
        [&](const LinearFormat &known) { return known.name == name; });
    format.name += "Float8";
    format.float8Activations = true;
    formats.push_back(format);
  }
  LinearFormat shortInputs = {"Bf16Bf16", "bf16x16x2", ""};
  shortInputs.shortActivations = shortInputs.bias = shortInputs.residual = true;
  formats.push_back(shortInputs);
  for (const char *name :
       {"F32", "Bf16Bf16", "Int8Channel", "Int8ChannelInt8",
        "Int8ChannelZeroInt8", "Int4Group32Int8", "Int4Group64ZeroInt8",
        "Int4Group128Zero", "Float8ChannelFloat8"}) {
    LinearFormat format = *std::find_if(
        formats.begin(), formats.end(),
        [&](const LinearFormat &known) { return known.name == name; });
    format.name += "Gated";
    format.residual = false;
    format.gated = true;
    format.shortResult = format.shortActivations;
    formats.push_back(format);
  }
  return formats;
}

// Code with AMX is made here too, though it may not run.
TEST(PackedLinearTargets, EveryShortFormatCompilesForAmx) {
  for (const LinearFormat &format : getFormats()) {
    if (!format.byteActivations && !format.shortActivations)
      continue;
    int64_t features = format.gated ? 96 : 63;
    LinearCase test(format, features, /*k=*/384, /*rows=*/1);
    EXPECT_TRUE(CompiledKernel("sapphirerapids", test.getText(), {33, 1, 1}))
        << format.name;
  }
}

std::vector<LinearParameter> getParameters() {
  std::vector<LinearParameter> parameters;
  for (const std::string &target : getRunnableTargets())
    for (const LinearFormat &format : getFormats())
      parameters.push_back({target, format});
  return parameters;
}
} // namespace

INSTANTIATE_TEST_SUITE_P(
    Formats, PackedLinearTest, testing::ValuesIn(getParameters()),
    [](const testing::TestParamInfo<LinearParameter> &info) {
      std::string name = info.param.target + info.param.format.name;
      name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
      return name;
    });
