//===- RunLinears.cpp - Checks and times the GPU's linears ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   qlm-run-cuda-linears DIR [check|time|all]
//
// Runs the cases of DIR/cases.txt (qlm-emit-cuda-linears). Weights, scales and
// x are random; results are compared with sums in double over values as they
// are stored; y is filled with NaN before, and a guard after it must stay. A
// timing is a graph of 64 launches over copies of the weights that exceed L2,
// its median of 20 replays; what has a label also goes to DIR/times.json.
//
//===----------------------------------------------------------------------===//

#include "Device.h"

#include "qlm/Package/Format.h"
#include "qlm/Quantize/Numerics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

using namespace qlm::bench;
using namespace qlm::numerics;

namespace {

constexpr int64_t kBlockRows = 16;

/// One case's data on the host, and what it should give.
class Linear {
public:
  explicit Linear(const Case &words, uint64_t seed);

  int64_t rows, features, columns, outputs;
  std::string weights, input, output;
  bool swiglu, residual, norm, inputScales, bias, zeroPoints;
  std::string scaleType;
  int64_t groupColumns, groups;

  std::vector<char> packedWeights, packedScales, packedZeros;
  std::vector<float> packedBias, residuals, rowScales, normWeight;
  std::vector<char> x; ///< as the kernel reads it

  /// y at \p places in double; the last ones are kept.
  const std::vector<double> &
  reference(const std::vector<int64_t> &places) const;
  /// Bytes that a launch must read and write.
  double bytes() const;

private:
  void makeWeights(uint64_t seed);
  void makeInput(uint64_t seed);
  double dot(int64_t row, int64_t feature) const;

  std::vector<float> values; ///< of the weights without scales
  std::vector<float> scales; ///< [features, groups]
  mutable std::vector<int64_t> lastPlaces;
  mutable std::vector<double> lastReference;
  std::vector<double> xs; ///< x after norm and rounding, without its scale
};

float fromE4M3(uint8_t code) {
  int exponent = (code >> 3) & 15, mantissa = code & 7;
  float magnitude = exponent ? std::ldexp(1 + mantissa / 8.0f, exponent - 7)
                             : std::ldexp(mantissa / 8.0f, -6);
  return code & 0x80 ? -magnitude : magnitude;
}

constexpr float kNf4[16] = {-1.0f,
                            -0.69619280099868f,
                            -0.52507305145264f,
                            -0.39491748809814f,
                            -0.28444138169289f,
                            -0.18477343022823f,
                            -0.09105003625154f,
                            0.0f,
                            0.07958029955625f,
                            0.16093020141124f,
                            0.24611230194569f,
                            0.33791524171829f,
                            0.44070982933044f,
                            0.56261700391769f,
                            0.72295683622360f,
                            1.0f};

} // namespace

Linear::Linear(const Case &words, uint64_t seed) {
  rows = words.number("run", words.number("rows", 1));
  features = words.number("features", 1);
  columns = words.number("columns", 1);
  weights = words.text("weights", "f16");
  input = words.text("input", "f16");
  output = words.text("output", "f32");
  swiglu = words.number("swiglu");
  residual = words.number("residual");
  norm = words.number("norm");
  inputScales = words.number("input_scales");
  bias = words.number("bias");
  zeroPoints = words.number("zero_points");
  scaleType = words.text("scales", "none");
  groupColumns = words.number("group");
  groups = groupColumns ? columns / groupColumns : 1;
  outputs = swiglu ? features / 2 : features;
  makeWeights(seed);
  makeInput(seed);
}

void Linear::makeWeights(uint64_t seed) {
  auto count = static_cast<size_t>(features * columns);
  auto random = randomNormal(count, 1, seed);
  values.resize(count);
  bool halves = weights == "f16" || weights == "bf16";
  std::vector<uint16_t> words(halves ? count : 0);
  std::vector<uint8_t> codes(halves ? 0 : count);
  auto scaleCount = static_cast<size_t>(features * groups);
  std::vector<uint8_t> zeros(zeroPoints ? scaleCount : 0);
  for (size_t i = 0; i < zeros.size(); ++i)
    zeros[i] = static_cast<uint8_t>((i * 7 + i / 13) % 16);
  parallelFor(features, [&](int64_t row) {
    for (int64_t k = 0; k < columns; ++k) {
      auto i = static_cast<size_t>(row * columns + k);
      if (weights == "f16") {
        words[i] = toFloat16(random[i] * 0.02f);
        values[i] = fromFloat16(words[i]);
      } else if (weights == "bf16") {
        words[i] = toBFloat16(random[i] * 0.02f);
        values[i] = fromBFloat16(words[i]);
      } else if (weights == "int8") {
        int code = std::clamp(int(std::lround(random[i] * 40)), -127, 127);
        codes[i] = static_cast<uint8_t>(code);
        values[i] = float(code);
      } else if (weights == "fp8") {
        uint32_t bits;
        std::memcpy(&bits, &random[i], 4);
        codes[i] = static_cast<uint8_t>(bits >> 7);
        if ((codes[i] & 0x7f) == 0x7f) // NaN
          codes[i] = 0x3f;
        values[i] = fromE4M3(codes[i]);
      } else if (weights == "nf4") {
        uint32_t bits;
        std::memcpy(&bits, &random[i], 4);
        codes[i] = (bits >> 5) & 15;
        values[i] = kNf4[codes[i]];
      } else {
        uint32_t bits;
        std::memcpy(&bits, &random[i], 4);
        int code = int((bits >> 5) & 15);
        int zero = 8;
        if (zeroPoints)
          zero = zeros[size_t(row * groups + k / groupColumns)];
        codes[i] = static_cast<uint8_t>(zeroPoints ? code : code - 8);
        values[i] = float(code - zero);
      }
    }
  });
  Layout layout = halves                                  ? Layout::Fragment16
                  : weights == "int4" || weights == "nf4" ? Layout::Fragment4
                  : input == "int8" || input == "fp8"     ? Layout::Fragment8x8
                                                          : Layout::Fragment8;
  int offset = weights == "int4" && !zeroPoints                   ? 8
               : weights == "int8" && layout == Layout::Fragment8 ? 128
                                                                  : 0;
  int64_t blocks = (features + kBlockRows - 1) / kBlockRows;
  auto pack = [&](Layout packed, const void *source, int64_t width,
                  int64_t bytes, int packOffset, std::vector<char> &target) {
    int64_t blockBytes = packedBlockBytes(packed, width, bytes);
    target.resize(static_cast<size_t>(blocks * blockBytes));
    parallelFor(blocks, [&](int64_t block) {
      packBlock(packed,
                static_cast<const char *>(source) +
                    block * kBlockRows * width * bytes,
                std::min(kBlockRows, features - block * kBlockRows), width,
                bytes, packOffset, target.data() + block * blockBytes);
    });
  };
  if (halves)
    pack(layout, words.data(), columns, 2, 0, packedWeights);
  else
    pack(layout, codes.data(), columns, 1, offset, packedWeights);

  scales.assign(scaleCount, 1);
  if (scaleType != "none") {
    auto raw = randomNormal(scaleCount, 1, seed + 1);
    std::vector<uint16_t> halfScales(scaleCount);
    for (size_t i = 0; i < scaleCount; ++i) {
      scales[i] = 0.002f + 0.002f * std::fabs(raw[i]);
      halfScales[i] = toFloat16(scales[i]);
      if (scaleType == "f16")
        scales[i] = fromFloat16(halfScales[i]);
    }
    if (scaleType == "f16")
      pack(Layout::Scale, halfScales.data(), groups, 2, 0, packedScales);
    else
      pack(Layout::Scale, scales.data(), groups, 4, 0, packedScales);
  }
  if (zeroPoints)
    pack(Layout::ZeroPoint, zeros.data(), groups, 1, 0, packedZeros);
  if (bias) {
    packedBias.assign(static_cast<size_t>(blocks * kBlockRows), 0);
    auto raw = randomNormal(static_cast<size_t>(features), 1, seed + 2);
    std::copy(raw.begin(), raw.end(), packedBias.begin());
  }
}

void Linear::makeInput(uint64_t seed) {
  auto count = static_cast<size_t>(rows * columns);
  auto random = randomNormal(count, 1, seed + 3);
  xs.resize(count);
  if (residual)
    residuals = randomNormal(static_cast<size_t>(rows * outputs), 1, seed + 4);
  rowScales.assign(static_cast<size_t>(rows), 1);
  if (inputScales)
    for (int64_t r = 0; r < rows; ++r)
      rowScales[size_t(r)] = 0.01f + 0.001f * float(r % 17);
  auto round = [&](size_t i, float value) {
    if (input == "bf16")
      return double(fromBFloat16(toBFloat16(value)));
    return double(fromFloat16(toFloat16(value)));
    (void)i;
  };
  if (norm) {
    x.resize(count * 4);
    std::memcpy(x.data(), random.data(), x.size());
    normWeight = randomNormal(static_cast<size_t>(columns), 1, seed + 5);
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t k = 0; k < columns; ++k) {
        double v = random[size_t(r * columns + k)];
        sum += v * v;
      }
      double factor = 1 / std::sqrt(sum / double(columns) + 1e-5);
      for (int64_t k = 0; k < columns; ++k) {
        auto i = size_t(r * columns + k);
        xs[i] = round(i, float(random[i] * factor * normWeight[size_t(k)]));
      }
    }
    return;
  }
  if (input == "int8" || input == "fp8") {
    x.resize(count);
    for (size_t i = 0; i < count; ++i) {
      if (input == "int8") {
        int code = std::clamp(int(std::lround(random[i] * 40)), -127, 127);
        x[i] = static_cast<char>(code);
        xs[i] = code;
      } else {
        uint32_t bits;
        std::memcpy(&bits, &random[i], 4);
        auto code = static_cast<uint8_t>(bits >> 9);
        if ((code & 0x7f) == 0x7f)
          code = 0x3f;
        x[i] = static_cast<char>(code);
        xs[i] = fromE4M3(code);
      }
    }
    return;
  }
  x.resize(count * 2);
  for (size_t i = 0; i < count; ++i) {
    uint16_t bits =
        input == "bf16" ? toBFloat16(random[i]) : toFloat16(random[i]);
    std::memcpy(x.data() + 2 * i, &bits, 2);
    xs[i] = round(i, random[i]);
  }
}

double Linear::dot(int64_t row, int64_t feature) const {
  double total = 0;
  int64_t width = groupColumns ? groupColumns : columns;
  for (int64_t g = 0; g < groups; ++g) {
    double sum = 0;
    for (int64_t k = g * width; k < (g + 1) * width; ++k)
      sum += xs[size_t(row * columns + k)] *
             double(values[size_t(feature * columns + k)]);
    total += sum * scales[size_t(feature * groups + g)];
  }
  total *= rowScales[size_t(row)];
  return bias ? total + packedBias[size_t(feature)] : total;
}

const std::vector<double> &
Linear::reference(const std::vector<int64_t> &places) const {
  std::vector<double> &result = lastReference;
  if (places == lastPlaces)
    return result;
  lastPlaces = places;
  result.assign(places.size(), 0);
  parallelFor(static_cast<int64_t>(places.size()), [&](int64_t i) {
    int64_t row = places[size_t(i)] / outputs, f = places[size_t(i)] % outputs;
    double value;
    if (swiglu) {
      double gate = dot(row, f / 8 * 16 + f % 8);
      double up = dot(row, f / 8 * 16 + f % 8 + 8);
      value = gate / (1 + std::exp(-gate)) * up;
    } else {
      value = dot(row, f);
    }
    if (residual)
      value += residuals[size_t(row * outputs + f)];
    result[size_t(i)] = value;
  });
  return result;
}

double Linear::bytes() const {
  double outputBytes = output == "f32" ? 4 : 2;
  return double(packedWeights.size() + packedScales.size() +
                packedZeros.size() + x.size()) +
         double(rows * outputs) * (outputBytes + (residual ? 4 : 0));
}

/// The data of a case: those of the case before where only the kernel differs.
static const Linear &getLinear(const Case &words, uint64_t seed) {
  static std::unique_ptr<const Linear> last;
  static std::string lastKey;
  std::string key;
  for (const char *word :
       {"run", "rows", "features", "columns", "weights", "input", "output",
        "group", "scales", "zero_points", "input_scales", "bias", "residual",
        "swiglu", "norm"})
    key += words.text(word, "-") + " ";
  if (key != lastKey)
    last = std::make_unique<const Linear>(words, seed);
  lastKey = key;
  return *last;
}

namespace {

class Run : public CaseRun {
public:
  Run(Device &device, const std::string &folder, const Case &words,
      uint64_t seed);
  std::string describe() const override;
  bool isTimed() const override { return words.number("time"); }
  bool check(std::string &said) override;
  Timing time(std::string &said) override;

private:
  std::vector<Address> arguments(size_t set) const;
  std::vector<double> readResult() const;

  Device &device;
  const Case &words;
  const Linear &linear;
  Kernel kernel;
  /// Copies of the weights and their scales and zero points.
  std::vector<Address> weights, scales, zeros;
  Address x = 0, rowScales = 0, normWeight = 0, bias = 0, residual = 0, y = 0,
          workspace = 0, sizes = 0;
  size_t resultBytes;
};

constexpr size_t kGuard = 4096;
/// More than L2 holds.
constexpr double kRotatedBytes = 400e6;

} // namespace

Run::Run(Device &device, const std::string &folder, const Case &words,
         uint64_t seed)
    : device(device), words(words), linear(getLinear(words, seed)) {
  std::string name = words.text("name");
  kernel = device.load(folder + "/" + name + ".cubin", name,
                       unsigned(words.number("shared")));
  kernel.gridX = unsigned(words.number("grid", 1));
  kernel.gridY = unsigned(words.number("grid_y", 1));
  kernel.threads = unsigned(words.number("threads", 1));
  kernel.cluster = unsigned(words.number("cluster", 1));
  bool timed = words.number("time");
  double size = double(linear.packedWeights.size());
  int sets = timed ? std::clamp(int(kRotatedBytes / size) + 1, 2, 64) : 1;
  for (int i = 0; i < sets; ++i) {
    weights.push_back(device.upload(linear.packedWeights));
    scales.push_back(device.upload(linear.packedScales));
    zeros.push_back(device.upload(linear.packedZeros));
  }
  x = device.upload(linear.x);
  rowScales = device.upload(linear.rowScales);
  normWeight = device.upload(linear.normWeight);
  bias = device.upload(linear.packedBias);
  residual = device.upload(linear.residuals);
  resultBytes =
      size_t(linear.rows * linear.outputs) * (linear.output == "f32" ? 4 : 2);
  y = device.allocate(resultBytes + kGuard);
  auto workspaceBytes = size_t(words.number("workspace"));
  workspace = device.allocate(workspaceBytes);
  device.fill(workspace, 0, std::max<size_t>(workspaceBytes, 256));
  qlm::format::StepSizes stepSizes = {linear.rows, 1, linear.rows, 1};
  sizes = device.upload(&stepSizes, sizeof(stepSizes));
}

std::vector<Address> Run::arguments(size_t set) const {
  return {x,    rowScales, normWeight, weights[set], scales[set], zeros[set],
          bias, residual,  y,          workspace,    sizes};
}

std::vector<double> Run::readResult() const {
  std::vector<char> raw(resultBytes + kGuard);
  device.download(raw.data(), y, raw.size());
  size_t bytes = linear.output == "f32" ? 4 : 2;
  std::vector<double> values(resultBytes / bytes);
  for (size_t i = 0; i < values.size(); ++i) {
    if (bytes == 4) {
      float value;
      std::memcpy(&value, raw.data() + 4 * i, 4);
      values[i] = value;
      continue;
    }
    uint16_t value;
    std::memcpy(&value, raw.data() + 2 * i, 2);
    values[i] =
        linear.output == "f16" ? fromFloat16(value) : fromBFloat16(value);
  }
  for (size_t i = resultBytes; i < raw.size(); ++i)
    if (raw[i] != char(0xff))
      return {};
  return values;
}

bool Run::check(std::string &said) {
  double worst = 0;
  bool same = true;
  std::vector<double> first;
  for (int round = 0; round < 3; ++round) {
    device.fill(y, 0xff, resultBytes + kGuard);
    // Twice in a row: the second must find what it needs as it was.
    device.launch(kernel, arguments(0));
    device.launch(kernel, arguments(0));
    device.synchronize();
    std::vector<double> result = readResult();
    if (result.empty()) {
      said = "WROTE PAST THE END";
      return false;
    }
    for (double value : result)
      if (!std::isfinite(value)) {
        said = "NOT FINITE OR NOT WRITTEN";
        return false;
      }
    if (round == 0)
      first = result;
    same = same && first == result;
    if (round > 0)
      continue;
    // All of a small case, a sample of a large one.
    std::vector<int64_t> places;
    int64_t total = linear.rows * linear.outputs;
    double work = double(total) * double(linear.columns);
    int64_t stride = std::max<int64_t>(1, int64_t(work / 6e8));
    for (int64_t i = 0; i < total; i += stride)
      places.push_back((i * 7919 + i / 3) % total);
    std::vector<double> sample;
    for (int64_t place : places)
      sample.push_back(result[size_t(place)]);
    worst = relativeError(linear.reference(places), sample);
  }
  // Errors of rounding y; of weights times scales in f16 (GEMM); of tensor
  // cores that keep about 14 bits of a sum of FP8 products (an H100 gave
  // 1.2e-3 of 4096 columns).
  double bound = 5e-4;
  if (linear.output == "bf16")
    bound = 4e-3;
  else if (linear.output == "f16")
    bound = 1e-3;
  if (linear.input == "fp8")
    bound = 4e-3;
  bool good = worst < bound && same;
  char text[160];
  std::snprintf(text, sizeof(text), "error %.1e%s%s", worst,
                same ? "" : " DIFFERENT BITS", good ? "" : " FAILED");
  said = text;
  return good;
}

Timing Run::time(std::string &said) {
  auto one = [&](int i) {
    device.launch(kernel, arguments(size_t(i) % weights.size()));
  };
  Device::Times plain = device.timeGraph(64, one);
  kernel.dependent = true;
  Device::Times dependent = device.timeGraph(64, one);
  kernel.dependent = false;
  double best = std::min(plain.median, dependent.median);
  double flops = 2.0 * double(linear.rows) * double(linear.features) *
                 double(linear.columns);
  char text[200];
  std::snprintf(text, sizeof(text),
                "  %8.2f us, dependent %8.2f (%.2f-%.2f)  %5.0f GB/s %6.1f "
                "TFLOP/s  regs %d local %d",
                plain.median, dependent.median, dependent.low, dependent.high,
                linear.bytes() / best * 1e-3, flops / best * 1e-6,
                device.getRegisters(kernel), device.getLocalBytes(kernel));
  said += text;
  return {words.text("label"), best, linear.bytes() / best * 1e-3,
          flops / best * 1e-6};
}

std::string Run::describe() const {
  std::string flags;
  for (auto [word, flag] : {std::pair("zero_points", " zp"),
                            {"norm", " norm"},
                            {"bias", " bias"},
                            {"residual", " res"},
                            {"swiglu", " swiglu"}})
    if (words.number(word))
      flags += flag;
  char text[200];
  std::snprintf(
      text, sizeof(text), "%-5s m%-5s %6s x %-6s %-4s*%-4s g%-3s%s ->%s",
      words.text("kernel", "auto").c_str(),
      words.text("run", words.text("rows", "1")).c_str(),
      words.text("features").c_str(), words.text("columns").c_str(),
      words.text("weights", "f16").c_str(), words.text("input", "f16").c_str(),
      words.text("group", "0").c_str(), flags.c_str(),
      words.text("output", "f32").c_str());
  return text;
}

int main(int argc, char **argv) {
  return runCases(argc, argv,
                  [](Device &device, const std::string &folder,
                     const Case &words, int number) {
                    return std::make_unique<Run>(device, folder, words,
                                                 uint64_t(number));
                  });
}
