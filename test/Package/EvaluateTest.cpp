//===- EvaluateTest.cpp - Parameter programs against the numerics ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackageFixture.h"
#include "mlir/AsmParser/AsmParser.h"
#include "qlm/Quantize/NumericsScheme.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::test;
namespace numerics = ::qlm::numerics;
using numerics::Layout;

namespace {

struct Matrix {
  int64_t rows, columns;
  std::vector<float> values;
};

numerics::FloatType getFormat(const std::string &type) {
  return type == "f32"   ? numerics::FloatType::Float32
         : type == "f16" ? numerics::FloatType::Float16
                         : numerics::FloatType::BFloat16;
}

std::string store(const std::vector<float> &values, const std::string &type) {
  numerics::FloatType format = getFormat(type);
  std::string bytes(values.size() * numerics::getFloatBytes(format), '\0');
  numerics::fromFloat32(format, values.data(), bytes.data(), values.size());
  return bytes;
}

/// A whole matrix packed block by block.
std::string pack(Layout layout, const void *input, int64_t rows,
                 int64_t columns, int64_t elementBytes, int offset = 0) {
  int64_t size = numerics::packedBlockBytes(layout, columns, elementBytes);
  std::string packed((rows + 15) / 16 * size, '\0');
  for (int64_t row = 0; row < rows; row += 16)
    numerics::packBlock(
        layout, static_cast<const char *>(input) + row * columns * elementBytes,
        std::min<int64_t>(16, rows - row), columns, elementBytes, offset,
        packed.data() + row / 16 * size);
  return packed;
}

class EvaluateTest : public PackageTest {
protected:
  /// Adds random values as @name; they are what the file stores, exactly.
  Matrix addRandom(const std::string &name, int64_t rows, int64_t columns,
                   const std::string &type) {
    std::normal_distribution<float> normal;
    Matrix matrix{rows, columns, {}};
    for (int64_t i = 0; i < rows * columns; ++i)
      matrix.values.push_back(normal(random));
    // A row of zeros: its scale is 0.
    if (rows > 2)
      std::fill_n(matrix.values.begin() + columns, columns, 0.f);
    std::string bytes = store(matrix.values, type);
    numerics::toFloat32(getFormat(type), bytes.data(), matrix.values.data(),
                        rows * columns);
    addWeight(name, llvm::StringRef(type).upper(), {rows, columns}, bytes);
    return matrix;
  }

  /// Packages the module and returns each tensor's bytes.
  std::map<std::string, std::string>
  evaluate(const std::string &program, const std::vector<std::string> &types) {
    OwningOpRef<ModuleOp> module = makeModule(program, types);
    auto summary = writePackage(*module, options());
    if (!summary) {
      ADD_FAILURE() << llvm::toString(summary.takeError());
      return {};
    }
    auto file = SafetensorsFile::open(join("pkg/weights.safetensors"));
    if (!file) {
      ADD_FAILURE() << llvm::toString(file.takeError());
      return {};
    }
    std::map<std::string, std::string> tensors;
    for (const ArchiveTensor &tensor : (*file)->getTensors())
      tensors[tensor.name] =
          std::string(tensor.data.begin(), tensor.data.end());
    return tensors;
  }

  std::mt19937 random{7};
};

struct RoundingCase {
  int64_t rows, columns;
  std::string type;   ///< of the stored weight
  std::string scheme; ///< the attribute's body
};

class RoundingTest : public EvaluateTest,
                     public ::testing::WithParamInterface<RoundingCase> {};

} // namespace

// pack(rtn(concat(a, b))): codes, scales, zero points equal those of the whole
// matrix, where the second part begins in the middle of a block.
TEST_P(RoundingTest, equalsTheWholeMatrix) {
  const RoundingCase &test = GetParam();
  int64_t rows = test.rows, columns = test.columns;
  Matrix first = addRandom("a", rows, columns, test.type);
  Matrix second = addRandom("b", 5, columns, test.type);
  std::vector<float> values = first.values;
  values.insert(values.end(), second.values.begin(), second.values.end());
  rows += 5;

  auto attr = cast<SchemeAttr>(
      parseAttribute("#qlm.scheme<" + test.scheme + ">", &context));
  numerics::Scheme scheme = getNumericsScheme(attr);
  std::string in =
      llvm::formatv("tensor<{0}x{1}x{2}>", test.rows, columns, test.type);
  std::string in2 = llvm::formatv("tensor<5x{0}x{1}>", columns, test.type);
  std::string whole =
      llvm::formatv("tensor<{0}x{1}x{2}>", rows, columns, test.type);
  std::string storage, scaleType;
  llvm::raw_string_ostream(storage) << attr.getStorage();
  llvm::raw_string_ostream(scaleType) << attr.getScaleType();
  bool grouped = scheme.granularity == numerics::Granularity::Group;
  int64_t groups = scheme.getScalesPerRow(columns);
  std::string shape = grouped ? llvm::formatv("{0}x{1}x", rows, groups).str()
                              : std::to_string(rows) + "x";
  int64_t blocks = (rows + 15) / 16;
  int64_t perWord = scheme.bits == 4 ? 8 : 4;
  std::string codes =
      llvm::formatv("tensor<{0}x{1}x{2}>", rows, columns, storage);
  std::string scales = "tensor<" + shape + scaleType + ">";
  std::string zeros = "tensor<" + shape + storage + ">";
  std::string packed[] = {
      llvm::formatv("tensor<{0}x{1}x64xi8>", blocks,
                    (columns + perWord - 1) / perWord),
      llvm::formatv("tensor<{0}x{1}x16x{2}>", blocks, groups, scaleType),
      llvm::formatv("tensor<{0}x{1}x16xi8>", blocks, groups)};
  bool hasZeros = scheme.zeroPoints;
  std::string program = llvm::formatv(
      R"(
  %a = qlm.load @a : {0}
  %b = qlm.load @b : {1}
  %m = tensor.concat dim(0) %a, %b : ({0}, {1}) -> {2}
  %c, %s{3} = qlm.rtn %m {{scheme = #qlm.scheme<{4}>} : {2} to {5}, {6}{7}
  %w0 = qlm.pack %c {{layout = #qlm.layout<{8}>, name = "codes"} : {5} to {9}
  %w1 = qlm.pack %s {{layout = #qlm.layout<scale16>, name = "scales"} : {6} to {10}
)",
      in, in2, whole, hasZeros ? ", %z" : "", test.scheme, codes, scales,
      hasZeros ? ", " + zeros : "", scheme.bits == 4 ? "i4x16x8" : "i8x16x4",
      packed[0], packed[1]);
  std::vector<std::string> types = {packed[0], packed[1]};
  if (hasZeros) {
    program += llvm::formatv("  %w2 = qlm.pack %z {{layout = "
                             "#qlm.layout<zero16>, name = \"zeros\"} : {0} to "
                             "{1}\n",
                             zeros, packed[2]);
    types.push_back(packed[2]);
  }
  std::map<std::string, std::string> tensors = evaluate(program, types);

  std::vector<uint8_t> expectedCodes(rows * columns),
      expectedZeros(rows * groups);
  std::vector<float> expectedScales(rows * groups);
  ASSERT_TRUE(numerics::quantizeRtn(values.data(), rows, columns, scheme,
                                    expectedCodes.data(), expectedScales.data(),
                                    expectedZeros.data())
                  .ok());
  std::string stored(rows * groups * scheme.getScaleBytes(), '\0');
  numerics::storeScales(scheme, expectedScales.data(), stored.data(),
                        rows * groups);
  EXPECT_EQ(tensors["codes"],
            pack(scheme.bits == 4 ? Layout::Int4 : Layout::Int8,
                 expectedCodes.data(), rows, columns, 1,
                 scheme.getCodeOffset()));
  EXPECT_EQ(tensors["scales"], pack(Layout::Scale, stored.data(), rows, groups,
                                    scheme.getScaleBytes()));
  if (hasZeros)
    EXPECT_EQ(tensors["zeros"], pack(Layout::ZeroPoint, expectedZeros.data(),
                                     rows, groups, 1, scheme.getCodeOffset()));
}

static const char kInt8[] =
    "i8, channel, range [-127, 127], bound 127.0, scales f32";
static const char kInt8Zero[] =
    "ui8, channel, zero_points, range [0, 255], scales f32";

static std::string int4(int group) {
  return llvm::formatv("i4, group, {0}, range [-8, 7], bound 7.5, scales f16",
                       group);
}

static std::string int4Zero(int group) {
  return llvm::formatv(
      "ui4, group, {0}, zero_points, range [0, 15], scales f16", group);
}

// The last two are read in several chunks.
INSTANTIATE_TEST_SUITE_P(
    Shapes, RoundingTest,
    ::testing::Values(RoundingCase{1, 1, "f32", kInt8},
                      RoundingCase{16, 33, "bf16", kInt8},
                      RoundingCase{31, 7, "f16", kInt8Zero},
                      RoundingCase{17, 96, "f32", int4(32)},
                      RoundingCase{12, 64, "bf16", int4(64)},
                      RoundingCase{40, 256, "f16", int4(128)},
                      RoundingCase{3, 96, "bf16", int4Zero(32)},
                      RoundingCase{16, 128, "f32", int4Zero(128)},
                      RoundingCase{257, 8192, "bf16", int4(128)},
                      RoundingCase{300, 4099, "f32", kInt8}));

// Float weights, converted and not, biases, tables and norms.
TEST_F(EvaluateTest, floatsAndPlainTensors) {
  Matrix a = addRandom("a", 21, 5, "f32");
  Matrix b = addRandom("b", 18, 3, "bf16");
  Matrix c = addRandom("c", 18, 7, "f16");
  std::vector<float> bias = {1, 2, 3};
  addWeight("bias", "BF16", {3}, store(bias, "bf16"));
  std::map<std::string, std::string> tensors = evaluate(
      R"(
  %a = qlm.load @a : tensor<21x5xf32>
  %b = qlm.load @b : tensor<18x3xbf16>
  %c = qlm.load @c : tensor<18x7xf16>
  %bias = qlm.load @bias : tensor<3xbf16>
  %ah = qlm.convert %a : tensor<21x5xf32> to tensor<21x5xf16>
  %w0 = qlm.pack %a {layout = #qlm.layout<f32x16>, name = "f32"} : tensor<21x5xf32> to tensor<2x5x16xf32>
  %w1 = qlm.pack %ah {layout = #qlm.layout<f16x16>, name = "f16"} : tensor<21x5xf16> to tensor<2x5x16xf16>
  %w2 = qlm.pack %b {layout = #qlm.layout<bf16x16x2>, name = "bf16"} : tensor<18x3xbf16> to tensor<2x2x32xbf16>
  %w3 = qlm.pack %bias {layout = #qlm.layout<bias>, name = "bias"} : tensor<3xbf16> to tensor<16xf32>
  %w4 = qlm.load @c {qlm.key = "plain"} : tensor<18x7xf16>
  %w5 = qlm.convert %c {qlm.key = "converted"} : tensor<18x7xf16> to tensor<18x7xf32>
  %w6 = arith.constant {qlm.key = "constant"} dense<[1.5, 2.5]> : tensor<2xf32>
)",
      {"tensor<2x5x16xf32>", "tensor<2x5x16xf16>", "tensor<2x2x32xbf16>",
       "tensor<16xf32>", "tensor<18x7xf16>", "tensor<18x7xf32>",
       "tensor<2xf32>"});
  EXPECT_EQ(tensors["f32"], pack(Layout::Float32, a.values.data(), 21, 5, 4));
  EXPECT_EQ(tensors["f16"],
            pack(Layout::Float16, store(a.values, "f16").data(), 21, 5, 2));
  EXPECT_EQ(tensors["bf16"],
            pack(Layout::BFloat16, store(b.values, "bf16").data(), 18, 3, 2));
  EXPECT_EQ(tensors["bias"], pack(Layout::Bias, bias.data(), 3, 1, 4));
  EXPECT_EQ(tensors["plain"], store(c.values, "f16"));
  EXPECT_EQ(tensors["converted"], store(c.values, "f32"));
  EXPECT_EQ(tensors["constant"], store({1.5f, 2.5f}, "f32"));
}

TEST_F(EvaluateTest, ropeTable) {
  std::map<std::string, std::string> tensors = evaluate(
      R"(
  %f = arith.constant dense<[1.0, 0.1]> : tensor<2xf32>
  %w0 = qlm.rope_table %f {qlm.key = "rope_table"} : tensor<2xf32> to tensor<50x2x2xf32>
)",
      {"tensor<50x2x2xf32>"});
  std::vector<float> expected;
  for (int position = 0; position < 50; ++position)
    for (float frequency : {1.0f, 0.1f}) {
      float angle = static_cast<float>(position) * frequency;
      expected.push_back(static_cast<float>(std::cos(double(angle))));
      expected.push_back(static_cast<float>(std::sin(double(angle))));
    }
  EXPECT_EQ(tensors["rope_table"], store(expected, "f32"));
}

// Each case: a program, and a piece of its error.
TEST_F(EvaluateTest, refusesWhatItCannotEvaluate) {
  float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> values(64, 1.0f);
  addWeight("ok", "F32", {2, 32}, store(values, "f32"));
  values[33] = infinity;
  addWeight("broken", "F32", {2, 32}, store(values, "f32"));
  values[33] = 1e6f;
  addWeight("large", "F32", {2, 32}, store(values, "f32"));

  struct Case {
    std::string program, type, message;
  };
  const std::string int4Scheme = int4(32);
  const Case cases[] = {
      {R"(%w0 = qlm.load @broken {qlm.key = "k"} : tensor<2x32xf32>)",
       "tensor<2x32xf32>", "weight 'broken' must be finite, got inf at [1, 1]"},
      {R"(%a = qlm.load @large : tensor<2x32xf32>
          %w0 = qlm.convert %a {qlm.key = "k"} : tensor<2x32xf32> to tensor<2x32xf16>)",
       "tensor<2x32xf16>",
       "weight 'large' must be finite in f16 (largest 65504), got inf"},
      {"%a = qlm.load @large : tensor<2x32xf32>\n%c, %s = qlm.rtn %a {scheme = "
       "#qlm.scheme<" +
           int4Scheme +
           ">} : tensor<2x32xf32> to tensor<2x32xi4>, tensor<2x1xf16>\n"
           R"(%w0 = qlm.pack %s {layout = #qlm.layout<scale16>, name = "k"} : tensor<2x1xf16> to tensor<1x1x16xf16>)",
       "tensor<1x1x16xf16>", "cannot quantize 'large': "},
      {R"(%a = qlm.load @ok : tensor<2x32xf32>
          %w0 = tensor.concat dim(1) %a, %a {qlm.key = "k"} : (tensor<2x32xf32>, tensor<2x32xf32>) -> tensor<2x64xf32>)",
       "tensor<2x64xf32>",
       "rows can only be joined along dimension 0, got %concat = "
       "tensor.concat"},
      {R"(%a = qlm.load @ok : tensor<2x32xf32>
          %w0 = arith.addf %a, %a {qlm.key = "k"} : tensor<2x32xf32>)",
       "tensor<2x32xf32>", "unsupported parameter program: expected qlm.load"},
      {R"(%w0 = qlm.load @ok : tensor<2x32xf32>)", "tensor<2x32xf32>",
       "a launch's weight needs a qlm.key"},
  };
  for (const Case &test : cases) {
    OwningOpRef<ModuleOp> module = makeModule(test.program, {test.type});
    std::string message = packageError(*module, options());
    EXPECT_NE(message.find(test.message), std::string::npos) << message;
    EXPECT_EQ(packageFolders(), std::vector<std::string>());
  }
}

TEST_F(EvaluateTest, refusesAFileThatChanged) {
  addWeight("a", "F32", {2, 2}, std::string(16, '\0'));
  std::string program =
      R"(%w0 = qlm.load @a {qlm.key = "k"} : tensor<2x2xf32>)";
  OwningOpRef<ModuleOp> module = makeModule(program, {"tensor<2x2xf32>"});
  header.clear();
  data.clear();
  addWeight("a", "F32", {4}, std::string(16, '\0'));
  parameters.clear();
  (void)makeModule("%w0 = arith.constant dense<1.0> : tensor<1xf32>",
                   {"tensor<1xf32>"});
  EXPECT_EQ(packageError(*module, options()),
            "weight 'a' is tensor<2x2xf32> in the module but F32[4] in "
            "m.safetensors");
}
