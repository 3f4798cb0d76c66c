//===- qlm-numerics.cpp - The numerics on raw files, for tests ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   qlm-numerics rtn IN ROWS COLUMNS BITS GRANULARITY GROUP ZERO LO HI BOUND
//                SCALES OUT
//       IN: f32 [ROWS, COLUMNS]; BITS: 4, 8, nf4 or fp8; GRANULARITY: channel,
//       group or tensor; ZERO: 0 or 1; SCALES: f16 or f32. Writes OUT.codes,
//       OUT.scales, OUT.zero_points, OUT.values (dequantized), OUT.again (codes
//       of the values' input for the scales), OUT.packed_codes,
//       OUT.packed_scales, OUT.packed_zero_points.
//   qlm-numerics dynamic IN ROWS COLUMNS OUT
//       Writes OUT.codes and OUT.scales.
//   qlm-numerics double IN COUNT OUT
//       IN: f32 [COUNT] scales. Writes OUT.codes, OUT.super, OUT.scales.
//   qlm-numerics awq IN ROWS COLUMNS MEAN MOMENTS GROUP ZERO SHARED HEAD OUT
//       IN: f32 [ROWS, COLUMNS]; MEAN: f32 [COLUMNS]; MOMENTS: f32 [COLUMNS,
//       COLUMNS]; int4 by groups, with zero points if ZERO. Writes OUT.scales,
//       OUT.losses (f64) and OUT.clipped.
//   qlm-numerics smooth ABSMAX WEIGHT_ABSMAX COLUMNS ALPHA SHARED HEAD OUT
//       Writes OUT.scales.
//   qlm-numerics float8 IN OUT
//       IN: f32. Writes OUT.bits and OUT.values.
//   qlm-numerics convert IN SOURCE TARGET OUT
//       SOURCE, TARGET: f32, f16 or bf16. Writes OUT.
//   qlm-numerics pack LAYOUT IN ROWS COLUMNS ELEMENT_BYTES OFFSET OUT
//       LAYOUT: f32x16 ... bias. Writes OUT.packed and OUT.unpacked.
//
//===----------------------------------------------------------------------===//

#include "qlm/Package/Format.h"
#include "qlm/Quantize/Awq.h"
#include "qlm/Quantize/Numerics.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

using namespace qlm::numerics;

using Bytes = std::vector<char>;

static constexpr int64_t kBlock = qlm::format::kRowBlock;

static Bytes readFile(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

static void writeFile(const std::string &path, const void *data, size_t size) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char *>(data),
             static_cast<std::streamsize>(size));
}

template <typename T>
static void writeFile(const std::string &path, const std::vector<T> &values) {
  writeFile(path, values.data(), values.size() * sizeof(T));
}

/// Packs a whole matrix, block by block.
static Bytes packMatrix(Layout layout, const void *input, int64_t rows,
                        int64_t columns, int64_t elementBytes, int codeOffset) {
  int64_t blockBytes = packedBlockBytes(layout, columns, elementBytes);
  // Filled with what packing must overwrite.
  Bytes packed(static_cast<size_t>((rows + kBlock - 1) / kBlock * blockBytes),
               '\x5a');
  for (int64_t row = 0; row < rows; row += kBlock)
    packBlock(layout,
              static_cast<const char *>(input) + row * columns * elementBytes,
              std::min(kBlock, rows - row), columns, elementBytes, codeOffset,
              packed.data() + row / kBlock * blockBytes);
  return packed;
}

static Bytes unpackMatrix(Layout layout, const Bytes &packed, int64_t rows,
                          int64_t columns, int64_t elementBytes,
                          int codeOffset) {
  int64_t blockBytes = packedBlockBytes(layout, columns, elementBytes);
  Bytes output(static_cast<size_t>(rows * columns * elementBytes));
  for (int64_t row = 0; row < rows; row += kBlock)
    unpackBlock(layout, packed.data() + row / kBlock * blockBytes,
                std::min(kBlock, rows - row), columns, elementBytes, codeOffset,
                output.data() + row * columns * elementBytes);
  return output;
}

static int runRtn(char **args) {
  Bytes input = readFile(args[0]);
  int64_t rows = std::atoll(args[1]), columns = std::atoll(args[2]);
  Scheme scheme;
  std::string bits = args[3];
  scheme.bits = bits == "nf4" ? 4 : bits == "fp8" ? 8 : std::atoi(args[3]);
  scheme.codebook = bits == "nf4"   ? Codebook::NF4
                    : bits == "fp8" ? Codebook::Float8
                                    : Codebook::Uniform;
  std::string granularity = args[4];
  scheme.granularity = granularity == "group"    ? Granularity::Group
                       : granularity == "tensor" ? Granularity::Tensor
                                                 : Granularity::Channel;
  scheme.groupSize = std::atoll(args[5]);
  scheme.zeroPoints = std::atoi(args[6]) != 0;
  scheme.lo = std::atoi(args[7]);
  scheme.hi = std::atoi(args[8]);
  scheme.bound = std::atof(args[9]);
  scheme.scalesF16 = std::string(args[10]) == "f16";
  std::string out = args[11];

  auto weights = std::vector<float>(static_cast<size_t>(rows * columns));
  toFloat32(FloatType::Float32, input.data(), weights.data(), rows * columns);
  auto scaleCount = static_cast<size_t>(scheme.getScaleCount(rows, columns));
  std::vector<uint8_t> codes(weights.size()), again(weights.size());
  std::vector<uint8_t> zeroPoints(scaleCount);
  std::vector<float> scales(scaleCount), values(weights.size());
  uint8_t *zeros = scheme.zeroPoints ? zeroPoints.data() : nullptr;
  RoundingResult result = quantizeRtn(weights.data(), rows, columns, scheme,
                                      codes.data(), scales.data(), zeros);
  if (!result.ok()) {
    std::fprintf(stderr, "qlm-numerics: %s\n", result.getMessage().c_str());
    return 1;
  }
  dequantize(codes.data(), rows, columns, scheme, scales.data(), zeros,
             values.data());
  quantizeWithScales(weights.data(), rows, columns, scheme, scales.data(),
                     zeros, again.data());
  int64_t scaleBytes = scheme.getScaleBytes();
  Bytes stored(scaleCount * static_cast<size_t>(scaleBytes));
  storeScales(scheme, scales.data(), stored.data(),
              static_cast<int64_t>(scaleCount));

  writeFile(out + ".codes", codes);
  writeFile(out + ".scales", stored);
  writeFile(out + ".zero_points", zeroPoints);
  writeFile(out + ".values", values);
  writeFile(out + ".again", again);
  int offset = scheme.getCodeOffset();
  bool tensor = scheme.granularity == Granularity::Tensor;
  int64_t scaleRows = tensor ? 1 : rows;
  int64_t scaleColumns = scheme.getScalesPerRow(columns);
  writeFile(out + ".packed_codes",
            packMatrix(scheme.bits == 4                      ? Layout::Int4
                       : scheme.codebook == Codebook::Float8 ? Layout::Float8
                                                             : Layout::Int8,
                       codes.data(), rows, columns, 1, offset));
  writeFile(out + ".packed_scales",
            packMatrix(Layout::Scale, stored.data(), scaleRows, scaleColumns,
                       scaleBytes, 0));
  writeFile(out + ".packed_zero_points",
            packMatrix(Layout::ZeroPoint, zeroPoints.data(), scaleRows,
                       scaleColumns, 1, offset));
  return 0;
}

static int runDynamic(char **args) {
  Bytes input = readFile(args[0]);
  int64_t rows = std::atoll(args[1]), columns = std::atoll(args[2]);
  std::string out = args[3];
  std::vector<float> values(static_cast<size_t>(rows * columns));
  toFloat32(FloatType::Float32, input.data(), values.data(), rows * columns);
  std::vector<int8_t> codes(values.size());
  std::vector<float> scales(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row)
    dynamicQuantizeRow(values.data() + row * columns, columns,
                       codes.data() + row * columns, &scales[row]);
  writeFile(out + ".codes", codes);
  writeFile(out + ".scales", scales);
  return 0;
}

static int runDouble(char **args) {
  Bytes input = readFile(args[0]);
  int64_t count = std::atoll(args[1]);
  std::string out = args[2];
  std::vector<float> scales(static_cast<size_t>(count));
  toFloat32(FloatType::Float32, input.data(), scales.data(), count);
  std::vector<uint8_t> codes(scales.size());
  std::vector<float> super(static_cast<size_t>(getSuperScaleCount(count)));
  quantizeScales(scales.data(), count, codes.data(), super.data());
  dequantizeScales(codes.data(), count, super.data(), scales.data());
  writeFile(out + ".codes", codes);
  writeFile(out + ".super", super);
  writeFile(out + ".scales", scales);
  return 0;
}

static std::vector<float> readFloats(const std::string &path) {
  Bytes bytes = readFile(path);
  std::vector<float> values(bytes.size() / sizeof(float));
  toFloat32(FloatType::Float32, bytes.data(), values.data(),
            static_cast<int64_t>(values.size()));
  return values;
}

static int runAwq(char **args) {
  std::vector<float> weights = readFloats(args[0]);
  int64_t rows = std::atoll(args[1]), columns = std::atoll(args[2]);
  std::vector<float> means = readFloats(args[3]), moments = readFloats(args[4]);
  AwqSearch search;
  search.scheme.bits = 4;
  search.scheme.granularity = Granularity::Group;
  int64_t group = search.scheme.groupSize = std::atoll(args[5]);
  search.scheme.zeroPoints = std::atoi(args[6]) != 0;
  search.scheme.lo = search.scheme.zeroPoints ? 0 : -8;
  search.scheme.hi = search.scheme.zeroPoints ? 15 : 7;
  search.scheme.bound = 7.5;
  search.scheme.scalesF16 = true;
  search.order = {std::atoll(args[7]), std::atoll(args[8])};
  std::string out = args[9];
  search.weights = {{weights.data(), rows}};
  search.columns = columns;
  search.meanMagnitude = means.data();
  search.moments = moments.data();
  search.threads = 2;
  std::vector<float> scales(search.order.getScaleCount(columns));
  std::vector<double> losses;
  std::vector<float> blocks;
  for (int64_t k = 0; k < columns; ++k)
    for (int64_t j = k / group * group; j < k / group * group + group; ++j)
      blocks.push_back(moments[k * columns + j]);
  RoundingResult result = findAwqScales(search, scales.data(), &losses);
  if (result.ok())
    result =
        clipWeight(weights.data(), rows, columns, search.scheme, blocks.data());
  if (!result.ok()) {
    std::fprintf(stderr, "qlm-numerics: %s\n", result.getMessage().c_str());
    return 1;
  }
  writeFile(out + ".scales", scales);
  writeFile(out + ".losses", losses);
  writeFile(out + ".clipped", weights);
  return 0;
}

static int runSmooth(char **args) {
  std::vector<float> absmax = readFloats(args[0]),
                     largest = readFloats(args[1]);
  int64_t columns = std::atoll(args[2]);
  ScaleOrder order{std::atoll(args[4]), std::atoll(args[5])};
  std::vector<float> scales(order.getScaleCount(columns));
  findSmoothScales(absmax.data(), largest.data(), columns, std::atof(args[3]),
                   order, scales.data());
  writeFile(args[6] + std::string(".scales"), scales);
  return 0;
}

static int runFloat8(char **args) {
  Bytes input = readFile(args[0]);
  std::string out = args[1];
  std::vector<float> values(input.size() / sizeof(float));
  toFloat32(FloatType::Float32, input.data(), values.data(),
            static_cast<int64_t>(values.size()));
  std::vector<uint8_t> bits;
  for (float &value : values) {
    bits.push_back(toFloat8(value));
    value = fromFloat8(bits.back());
  }
  writeFile(out + ".bits", bits);
  writeFile(out + ".values", values);
  return 0;
}

static FloatType parseFloatType(const std::string &name) {
  if (name == "f16")
    return FloatType::Float16;
  return name == "bf16" ? FloatType::BFloat16 : FloatType::Float32;
}

static int runConvert(char **args) {
  Bytes input = readFile(args[0]);
  FloatType source = parseFloatType(args[1]), target = parseFloatType(args[2]);
  int64_t count = static_cast<int64_t>(input.size()) / getFloatBytes(source);
  Bytes output(static_cast<size_t>(count * getFloatBytes(target)));
  convert(source, input.data(), target, output.data(), count);
  writeFile(args[3], output);
  return 0;
}

static int runPack(char **args) {
  const std::pair<std::string, Layout> names[] = {
      {"f32x16", Layout::Float32},      {"bf16x16x2", Layout::BFloat16},
      {"f16x16", Layout::Float16},      {"i8x16x4", Layout::Int8},
      {"i4x16x8", Layout::Int4},        {"scale16", Layout::Scale},
      {"zero16", Layout::ZeroPoint},    {"bias", Layout::Bias},
      {"frag16", Layout::Fragment16},   {"frag8", Layout::Fragment8},
      {"frag8x8", Layout::Fragment8x8}, {"frag4", Layout::Fragment4},
      {"f8x16x4", Layout::Float8},      {"scale8", Layout::ScaleCode}};
  const auto *name =
      std::find_if(std::begin(names), std::end(names),
                   [&](const auto &entry) { return entry.first == args[0]; });
  if (name == std::end(names)) {
    std::fprintf(stderr, "qlm-numerics: unknown layout '%s'\n", args[0]);
    return 1;
  }
  Layout layout = name->second;
  Bytes input = readFile(args[1]);
  int64_t rows = std::atoll(args[2]), columns = std::atoll(args[3]);
  int64_t elementBytes = std::atoll(args[4]);
  int offset = std::atoi(args[5]);
  Bytes packed =
      packMatrix(layout, input.data(), rows, columns, elementBytes, offset);
  writeFile(args[6] + std::string(".packed"), packed);
  writeFile(args[6] + std::string(".unpacked"),
            unpackMatrix(layout, packed, rows, columns, elementBytes, offset));
  return 0;
}

int main(int argc, char **argv) {
  std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "rtn" && argc == 14)
    return runRtn(argv + 2);
  if (mode == "dynamic" && argc == 6)
    return runDynamic(argv + 2);
  if (mode == "double" && argc == 5)
    return runDouble(argv + 2);
  if (mode == "awq" && argc == 12)
    return runAwq(argv + 2);
  if (mode == "smooth" && argc == 9)
    return runSmooth(argv + 2);
  if (mode == "float8" && argc == 4)
    return runFloat8(argv + 2);
  if (mode == "convert" && argc == 6)
    return runConvert(argv + 2);
  if (mode == "pack" && argc == 9)
    return runPack(argv + 2);
  std::fprintf(stderr, "usage: qlm-numerics rtn|dynamic|double|awq|smooth|"
                       "float8|convert|pack ...\n");
  return 1;
}
