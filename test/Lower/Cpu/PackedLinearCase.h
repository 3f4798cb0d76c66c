//===- PackedLinearCase.h - A packed linear with its answer -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Random weights in one format, packed by the formulas of
// qlm/Package/Format.h written out once more, and the result of the
// operation's formula in float64.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_LOWER_CPU_PACKEDLINEARCASE_H
#define QLM_TEST_LOWER_CPU_PACKEDLINEARCASE_H

#include "KernelTest.h"
#include "qlm/Package/Tables.h"

#include <cmath>

#include <numeric>

namespace mlir::qlm::cpu::test {

/// How a weight is stored and what comes with it.
struct LinearFormat {
  std::string name;
  std::string layout;      ///< as in #qlm.layout
  std::string granularity; ///< "" (not quantized), "tensor", "channel", "group"
  int64_t group = 0;       ///< of granularity "group"
  bool zeroPoints = false;
  bool halfScales = false;
  bool byteActivations = false;
  bool shortActivations = false; ///< bf16
  bool float8Activations = false;
  bool bias = false;
  bool residual = false;
  std::string codebook; ///< "" (uniform), "nf4" or "fp8"
  bool doubleScales = false;
  bool outliers = false; ///< of byte activations
  bool gated = false;
  bool shortResult = false; ///< bf16, if gated

  int64_t bits() const { return layout == "i4x16x8" ? 4 : 8; }
};

/// One operation with its operands.
class LinearCase {
public:
  LinearCase(LinearFormat format, int64_t features, int64_t columns,
             int64_t rows)
      : format(format), n(features), k(columns), rows(rows),
        blocks((n + 15) / 16), resultFeatures(format.gated ? n / 2 : n),
        random(n * 1000 + k + rows) {
    groupColumns = format.granularity == "group" ? format.group : k;
    groups = k / groupColumns;
    makeActivations();
    if (format.granularity.empty())
      makeFloatWeights();
    else
      makeCodes();
    if (format.bias) {
      bias = random.floats(n);
      packedBias.assign(blocks * 16, 0.0f);
      std::copy(bias.begin(), bias.end(), packedBias.begin());
    }
    if (format.residual)
      residual = random.floats(rows * n);
  }

  /// A function with the operation.
  std::string getText() const {
    std::vector<std::string> types, uses = {"%x"};
    std::string kText = std::to_string(k), nText = std::to_string(n),
                blockText = std::to_string(blocks);
    std::string parameters = "%x: ";
    auto add = [&](const std::string &use, const std::string &value,
                   const std::string &type) {
      if (!types.empty())
        parameters += ", " + value + ": ";
      parameters += type;
      types.push_back(type);
      if (value != "%x")
        uses.push_back(use + value);
    };
    add("", "%x",
        "tensor<?x" + kText +
            (format.byteActivations     ? "xi8>"
             : format.float8Activations ? "xf8E4M3FN>"
             : format.shortActivations  ? "xbf16>"
                                        : "xf32>"));
    if (hasInputScales())
      add(" input_scales ", "%xs", "tensor<?xf32>");
    if (format.outliers)
      add(" outliers ", "%o",
          "tensor<?x" + std::to_string(1 + 2 * k) + "xf32>");
    add(", ", "%w", "tensor<" + blockText + weightDims() + ">");
    std::string dims =
        "tensor<" + blockText + "x" + std::to_string(groups) + "x16x";
    if (!format.granularity.empty())
      add(" scales ", "%s",
          dims + (format.doubleScales ? "i8>"
                  : format.halfScales ? "f16>"
                                      : "f32>"));
    if (format.doubleScales)
      add(" super_scales ", "%ss",
          "tensor<" + std::to_string(superScales.size()) + "xf32>");
    if (format.zeroPoints)
      add(" zero_points ", "%z", dims + "i8>");
    if (format.bias)
      add(" bias ", "%b", "tensor<" + std::to_string(blocks * 16) + "xf32>");
    std::string result = "tensor<?x" + std::to_string(resultFeatures) +
                         (format.shortResult ? "xbf16>" : "xf32>");
    if (format.residual)
      add(" residual ", "%r", result);
    std::string useText, typeText;
    for (const std::string &use : uses)
      useText += use;
    for (const std::string &type : types)
      typeText += (typeText.empty() ? "" : ", ") + type;
    return "func.func @f(" + parameters + ") -> " + result +
           " {\n  %y = qlm.packed_linear " + useText + " {" +
           (format.gated ? "qlm.gated, " : "") + "inFeatures = " + kText +
           ", outFeatures = " + nText + ", layout = #qlm.layout<" +
           format.layout + ">" + schemeText() + "} : (" + typeText + ") -> " +
           result + "\n  return %y : " + result + "\n}";
  }

  /// Buffers of rows first .. first + count - 1, which are copied so that
  /// whatever lies around them is poison.
  struct Run {
    std::vector<std::unique_ptr<Buffer<char>>> buffers;
    std::unique_ptr<Buffer<char>> result;
    bool shortResult = false;
    std::vector<float> getResult() const {
      std::vector<char> bytes = result->toVector();
      size_t size = shortResult ? 2 : 4;
      std::vector<float> values(bytes.size() / size);
      for (size_t i = 0; i < values.size(); ++i) {
        // bf16 is the upper half of f32.
        uint32_t bits = 0;
        memcpy(reinterpret_cast<char *>(&bits) + 4 - size, &bytes[i * size],
               size);
        memcpy(&values[i], &bits, 4);
      }
      return values;
    }
    std::vector<void *> addresses() {
      std::vector<void *> list;
      for (auto &buffer : buffers)
        list.push_back(buffer->data());
      list.push_back(result->data());
      return list;
    }
    bool areIntact() const {
      return result->isIntact() &&
             std::all_of(buffers.begin(), buffers.end(),
                         [](auto &buffer) { return buffer->isIntact(); });
    }
  };
  Run makeRun(int64_t first, int64_t count) const {
    Run run;
    auto add = [&](const auto &values, int64_t from, int64_t size) {
      const char *data = reinterpret_cast<const char *>(values.data() + from);
      run.buffers.push_back(std::make_unique<Buffer<char>>(
          std::vector<char>(data, data + size * int64_t(sizeof(values[0])))));
    };
    if (hasInputScales()) {
      add(codes, first * k, count * k);
      add(inputScales, first, count);
      if (format.outliers)
        add(outliers, first * (1 + 2 * k), count * (1 + 2 * k));
    } else if (format.shortActivations) {
      std::vector<uint16_t> upper(rows * k);
      for (int64_t i = 0; i < rows * k; ++i)
        upper[i] = static_cast<uint16_t>(getBits(input[i]) >> 16);
      add(upper, first * k, count * k);
    } else {
      add(input, first * k, count * k);
    }
    add(packed, 0, packed.size());
    if (!format.granularity.empty())
      add(packedScales, 0, packedScales.size());
    if (format.doubleScales)
      add(superScales, 0, superScales.size());
    if (format.zeroPoints)
      add(packedZeros, 0, packedZeros.size());
    if (format.bias)
      add(packedBias, 0, packedBias.size());
    if (format.residual)
      add(residual, first * n, count * n);
    run.shortResult = format.shortResult;
    run.result = std::make_unique<Buffer<char>>(count * resultFeatures *
                                                (format.shortResult ? 2 : 4));
    return run;
  }

  /// The result in float64, and the scale of rounding errors.
  std::pair<double, double> getExpected(int64_t row, int64_t feature) const {
    if (!format.gated)
      return getSum(row, feature);
    auto [gate, gateMagnitude] = getSum(row, feature);
    auto [up, upMagnitude] = getSum(row, feature + resultFeatures);
    double silu = gate / (1 + std::exp(-gate));
    // The slope of silu is at most 1.1.
    constexpr double kSlope = 1.1;
    return {silu * up, kSlope * gateMagnitude * std::abs(up) +
                           std::abs(silu) * upMagnitude + std::abs(silu * up)};
  }

  /// A feature of the product in float64, and the sum of the magnitudes of what
  /// is added after the exact part.
  std::pair<double, double> getSum(int64_t row, int64_t feature) const {
    double sum = 0, magnitude = 0;
    for (int64_t g = 0; g < groups; ++g) {
      double groupSum = 0, groupMagnitude = 0;
      for (int64_t c = g * groupColumns; c < (g + 1) * groupColumns; ++c) {
        double x = format.byteActivations ? double(codes[row * k + c])
                                          : double(input[row * k + c]);
        double term = x * values[feature * k + c];
        groupSum += term;
        groupMagnitude += std::abs(term);
        // Sums of int4 codes are rounded before their zero point is taken off.
        constexpr double kMiddleCode = 8;
        if (format.layout == "i4x16x8" && !format.byteActivations)
          groupMagnitude += std::abs(x) * kMiddleCode;
      }
      double scale = format.granularity.empty() ? 1 : getScale(feature, g);
      sum += scale * groupSum;
      // Integers add up exactly within a group.
      magnitude +=
          std::abs(scale) *
          (format.byteActivations ? std::abs(groupSum) : groupMagnitude);
    }
    if (hasInputScales()) {
      sum *= inputScales[row];
      magnitude *= inputScales[row];
    }
    auto addTerm = [&](double term) {
      sum += term;
      magnitude += std::abs(term);
    };
    for (int64_t c = 0; format.outliers && c < k; ++c)
      addTerm(getScale(feature, 0) * double(wide[row * k + c]) *
              values[feature * k + c]);
    if (format.bias)
      addTerm(bias[feature]);
    if (format.residual)
      addTerm(residual[row * n + feature]);
    return {sum, magnitude};
  }

private:
  bool hasInputScales() const {
    return format.byteActivations || format.float8Activations;
  }
  static uint32_t getBits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
  }

  std::string weightDims() const {
    auto dims = [](int64_t middle, const char *rest) {
      return "x" + std::to_string(middle) + "x" + rest;
    };
    if (format.layout == "f32x16")
      return dims(k, "16xf32");
    if (format.layout == "f16x16")
      return dims(k, "16xf16");
    if (format.layout == "bf16x16x2")
      return dims((k + 1) / 2, "32xbf16");
    int64_t columns = format.bits() == 4 ? 8 : 4;
    return dims((k + columns - 1) / columns, "64xi8");
  }

  std::string schemeText() const {
    if (format.granularity.empty())
      return "";
    std::string bits = std::to_string(format.bits());
    std::string text =
        std::string(", scheme = #qlm.scheme<") +
        (format.codebook == "fp8"                        ? "f8E4M3FN"
         : format.zeroPoints || !format.codebook.empty() ? "ui" + bits
                                                         : "i" + bits) +
        ", " + format.granularity;
    if (format.granularity == "group")
      text += ", " + std::to_string(format.group);
    if (!format.codebook.empty())
      return text + (format.codebook == "nf4" ? ", nf4" : ", bound 448.0") +
             ", scales f32>";
    if (format.zeroPoints)
      text += ", zero_points, range [0, " +
              std::to_string((1 << format.bits()) - 1) + "]";
    else
      text += format.bits() == 4 ? ", range [-8, 7]" : ", range [-127, 127]";
    if (!format.zeroPoints)
      text += format.bits() == 4 ? ", bound 7.5" : ", bound 127.0";
    return text + (format.halfScales ? ", scales f16>" : ", scales f32>");
  }

  void makeActivations() {
    if (hasInputScales()) {
      codes = random.integers<int8_t>(rows * k, -127, 127);
      for (int64_t i = 0; format.float8Activations && i < rows * k; ++i) {
        // Bits of f8E4M3FN; those of NaN are left out.
        codes[i] = codes[i] == 127 || codes[i] == -1 ? 0 : codes[i];
        input.push_back(
            static_cast<float>(getFloat8(static_cast<uint8_t>(codes[i]))));
      }
      inputScales = random.floats(rows, 0.01f);
      for (float &scale : inputScales)
        scale = std::abs(scale) + 1e-4f;
      if (format.outliers)
        makeOutliers();
    } else {
      input = random.floats(rows * k);
    }
    // bf16 values are those whose lower half is zero.
    if (format.shortActivations)
      for (float &value : input) {
        uint32_t bits = getBits(value) & 0xFFFF0000u;
        memcpy(&value, &bits, 4);
      }
  }

  /// Rows with none, one, some and only outliers, whose codes are 0. What
  /// follows a list is NaN.
  void makeOutliers() {
    wide.assign(rows * k, 0);
    outliers.assign(rows * (1 + 2 * k), std::nanf(""));
    std::vector<float> drawn = random.floats(rows * k, 20);
    for (int64_t row = 0; row < rows; ++row) {
      float *list = outliers.data() + row * (1 + 2 * k);
      int64_t kind = row % 4, count = 0, one = (row * 7) % k;
      for (int64_t c = 0; c < k; ++c) {
        if (kind == 0 || (kind == 1 && c != one) || (kind == 2 && c % 5 != 3))
          continue;
        codes[row * k + c] = 0;
        wide[row * k + c] = list[1 + k + count] = drawn[row * k + c];
        list[1 + count++] = static_cast<float>(c);
      }
      list[0] = static_cast<float>(count);
    }
  }

  template <typename T> void put(int64_t index, T value) {
    memcpy(packed.data() + index * sizeof(T), &value, sizeof(T));
  }

  void makeFloatWeights() {
    std::vector<float> weights = random.floats(n * k);
    int64_t size = format.layout == "f32x16" ? 4 : 2;
    int64_t even = format.layout == "bf16x16x2" ? (k + 1) / 2 * 2 : k;
    packed.assign(blocks * 16 * even * size, 0);
    values.resize(n * k);
    for (int64_t f = 0; f < n; ++f)
      for (int64_t c = 0; c < k; ++c) {
        int64_t b = f / 16, r = f % 16;
        float w = weights[f * k + c];
        double &value = values[f * k + c];
        if (format.layout == "f32x16") {
          put(b * k * 16 + c * 16 + r, w);
          value = w;
        } else if (format.layout == "f16x16") {
          put(b * k * 16 + c * 16 + r, static_cast<_Float16>(w));
          value = static_cast<float>(static_cast<_Float16>(w));
        } else {
          uint32_t bits = getBits(w);
          put(b * even * 16 + c / 2 * 32 + r * 2 + c % 2,
              static_cast<uint16_t>(bits >> 16));
          bits &= 0xFFFF0000u;
          memcpy(&w, &bits, 4);
          value = w;
        }
      }
  }

  void makeCodes() {
    int64_t top = (1 << format.bits()) - 1;
    bool four = format.bits() == 4;
    int64_t wordColumns = four ? 8 : 4,
            words = (k + wordColumns - 1) / wordColumns;
    packed.assign(blocks * words * 64, 0);
    values.resize(n * k);
    // One scale of a whole weight is packed as if each row had its own.
    bool one = format.granularity == "tensor";
    int64_t scaleCount = blocks * groups * 16;
    scales.assign(scaleCount, 0);
    packedZeros.assign(scaleCount, 0);
    std::vector<float> numbers = random.floats(scaleCount, 0.01f);
    auto zeros = random.integers(scaleCount, 0, top);
    for (int64_t f = 0; f < n; ++f)
      for (int64_t g = 0; g < groups; ++g) {
        int64_t i = scaleIndex(f, g), source = one ? 0 : i;
        scales[i] = format.halfScales ? float(_Float16(numbers[source]))
                                      : numbers[source];
        packedZeros[i] = static_cast<uint8_t>(zeros[source]);
      }
    storeScales();
    // A symmetric code never has the lowest int8.
    auto codesOfWeight =
        random.integers(n * k, four || format.zeroPoints ? 0 : 1, top);
    if (format.codebook == "fp8")
      for (auto &code : codesOfWeight)
        code = code % 128 == 127 ? 0 : code; // no NaN
    for (int64_t f = 0; f < n; ++f)
      for (int64_t c = 0; c < k; ++c) {
        int64_t u = codesOfWeight[f * k + c];
        int64_t at =
            (f / 16 * words + c / wordColumns) * 64 + f % 16 * 4 + c % 4;
        bool high = four && c % 8 >= 4;
        packed[at] =
            static_cast<char>(uint8_t(packed[at]) | (high ? u << 4 : u));
        int64_t zero = format.zeroPoints
                           ? packedZeros[scaleIndex(f, c / groupColumns)]
                           : (top + 1) / 2;
        values[f * k + c] =
            format.codebook.empty() ? double(u - zero) : getTableValue(u);
      }
  }

  double getTableValue(int64_t code) const {
    if (format.codebook == "nf4")
      return ::qlm::format::kNormalFloat4[code];
    return getFloat8(code);
  }

  static double getFloat8(int64_t code) {
    int64_t exponent = code / 8 % 16, mantissa = code % 8;
    double magnitude = exponent ? std::ldexp(8 + mantissa, int(exponent) - 10)
                                : std::ldexp(double(mantissa), -9);
    return code < 128 ? magnitude : -magnitude;
  }

  /// Random codes of scales, and the scales that they stand for.
  void makeDoubleScales() {
    int64_t count = n * groups;
    superScales = random.floats(1 + (count + 255) / 256, 0.01f);
    auto drawn = random.integers(scales.size(), 0, 255);
    packedScales.assign(scales.size(), 0);
    for (int64_t f = 0; f < n; ++f)
      for (int64_t g = 0; g < groups; ++g) {
        int64_t i = scaleIndex(f, g);
        packedScales[i] = static_cast<char>(drawn[i]);
        float product = ::qlm::format::kDynamicMap[drawn[i]] *
                        superScales[1 + (f * groups + g) / 256];
        scales[i] = product + superScales[0];
      }
  }

  void storeScales() {
    if (format.doubleScales)
      return makeDoubleScales();
    packedScales.resize(scales.size() * (format.halfScales ? 2 : 4));
    for (size_t i = 0; i < scales.size(); ++i) {
      if (format.halfScales) {
        _Float16 half = static_cast<_Float16>(scales[i]);
        memcpy(packedScales.data() + 2 * i, &half, 2);
      } else {
        memcpy(packedScales.data() + 4 * i, &scales[i], 4);
      }
    }
  }

  int64_t scaleIndex(int64_t feature, int64_t group) const {
    return (feature / 16 * groups + group) * 16 + feature % 16;
  }
  double getScale(int64_t feature, int64_t group) const {
    return scales[scaleIndex(feature, group)];
  }

public:
  LinearFormat format;
  int64_t n, k, rows, blocks, resultFeatures, groups, groupColumns;

private:
  Random random;
  std::vector<float> input, inputScales, bias, residual, scales;
  std::vector<float> outliers; ///< lists, [rows, 1 + 2 * k]
  std::vector<float> wide;     ///< the same as values, 0 elsewhere, [rows, k]
  std::vector<int8_t> codes;
  std::vector<double> values; ///< weights without scales, [n, k]
  std::vector<char> packed, packedScales;
  std::vector<uint8_t> packedZeros;
  std::vector<float> packedBias;
  std::vector<float> superScales;
};

} // namespace mlir::qlm::cpu::test

#endif // QLM_TEST_LOWER_CPU_PACKEDLINEARCASE_H
