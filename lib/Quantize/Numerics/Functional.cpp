//===- Functional.cpp - Quantization of plain arrays ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Functional.h"

#include "qlm/Package/Tables.h"

using namespace qlm;
using namespace qlm::numerics;

Scheme qlm::numerics::getUniformScheme(int bits, Granularity granularity,
                                       int64_t groupSize, bool zeroPoints) {
  Scheme scheme;
  bool wide = bits == 8;
  scheme.bits = bits;
  scheme.granularity = granularity;
  scheme.groupSize = groupSize;
  scheme.zeroPoints = zeroPoints;
  scheme.lo = zeroPoints ? 0 : wide ? -127 : -8;
  scheme.hi = zeroPoints ? (1 << bits) - 1 : wide ? 127 : 7;
  scheme.bound = wide ? 127 : 7.5;
  scheme.scalesF16 = !wide;
  return scheme;
}

/// Says what is wrong with \p scheme or the shape; empty if nothing is.
static std::string check(int64_t rows, int64_t columns, const Scheme &scheme) {
  if (scheme.bits != 4 && scheme.bits != 8)
    return "bits must be 4 or 8, got " + std::to_string(scheme.bits);
  if (rows <= 0 || columns <= 0)
    return "the matrix must not be empty, got " + std::to_string(rows) + "x" +
           std::to_string(columns);
  if (scheme.granularity == Granularity::Group &&
      (scheme.groupSize <= 0 || columns % scheme.groupSize != 0))
    return "group size must divide the columns, got " +
           std::to_string(scheme.groupSize) + " and " + std::to_string(columns);
  return "";
}

std::optional<QuantizedTensor>
qlm::numerics::quantize(const float *values, int64_t rows, int64_t columns,
                        const Scheme &scheme, std::string &error) {
  error = check(rows, columns, scheme);
  if (!error.empty())
    return std::nullopt;
  QuantizedTensor tensor;
  tensor.scheme = scheme;
  tensor.rows = rows;
  tensor.columns = columns;
  auto count = static_cast<size_t>(scheme.getScaleCount(rows, columns));
  tensor.codes.resize(static_cast<size_t>(rows * columns));
  tensor.scales.resize(count);
  if (scheme.zeroPoints)
    tensor.zeroPoints.resize(count);
  RoundingResult result = quantizeRtn(
      values, rows, columns, scheme, tensor.codes.data(), tensor.scales.data(),
      scheme.zeroPoints ? tensor.zeroPoints.data() : nullptr);
  error = result.getMessage();
  if (!result.ok())
    return std::nullopt;
  return tensor;
}

std::optional<QuantizedTensor>
qlm::numerics::quantizeSymmetric(const float *values, int64_t rows,
                                 int64_t columns, int bits,
                                 std::string &error) {
  return quantize(values, rows, columns,
                  getUniformScheme(bits, Granularity::Tensor, 0, false), error);
}

std::optional<QuantizedTensor>
qlm::numerics::quantizeAsymmetric(const float *values, int64_t rows,
                                  int64_t columns, int bits,
                                  std::string &error) {
  return quantize(values, rows, columns,
                  getUniformScheme(bits, Granularity::Tensor, 0, true), error);
}

std::optional<QuantizedTensor>
qlm::numerics::quantizePerChannel(const float *values, int64_t rows,
                                  int64_t columns, int bits, bool zeroPoints,
                                  std::string &error) {
  return quantize(values, rows, columns,
                  getUniformScheme(bits, Granularity::Channel, 0, zeroPoints),
                  error);
}

std::optional<QuantizedTensor>
qlm::numerics::quantizePerGroup(const float *values, int64_t rows,
                                int64_t columns, int bits, int64_t groupSize,
                                bool zeroPoints, std::string &error) {
  return quantize(
      values, rows, columns,
      getUniformScheme(bits, Granularity::Group, groupSize, zeroPoints), error);
}

std::optional<QuantizedTensor>
qlm::numerics::quantizeNormalFloat4(const float *values, int64_t rows,
                                    int64_t columns, int64_t groupSize,
                                    bool doubleQuant, std::string &error) {
  Scheme scheme;
  scheme.bits = 4;
  scheme.granularity = Granularity::Group;
  scheme.groupSize = groupSize;
  scheme.codebook = Codebook::NF4;
  auto tensor = quantize(values, rows, columns, scheme, error);
  if (!tensor || !doubleQuant)
    return tensor;
  auto count = static_cast<int64_t>(tensor->scales.size());
  tensor->scaleCodes.resize(tensor->scales.size());
  tensor->superScales.resize(static_cast<size_t>(getSuperScaleCount(count)));
  quantizeScales(tensor->scales.data(), count, tensor->scaleCodes.data(),
                 tensor->superScales.data());
  dequantizeScales(tensor->scaleCodes.data(), count, tensor->superScales.data(),
                   tensor->scales.data());
  return tensor;
}

std::optional<QuantizedTensor>
qlm::numerics::quantizeFloat8(const float *values, int64_t rows,
                              int64_t columns, std::string &error) {
  Scheme scheme;
  scheme.codebook = Codebook::Float8;
  scheme.bound = format::kFloat8Max;
  return quantize(values, rows, columns, scheme, error);
}

std::vector<float> qlm::numerics::dequantize(const QuantizedTensor &tensor) {
  std::vector<float> values(tensor.codes.size());
  dequantize(tensor.codes.data(), tensor.rows, tensor.columns, tensor.scheme,
             tensor.scales.data(),
             tensor.zeroPoints.empty() ? nullptr : tensor.zeroPoints.data(),
             values.data());
  return values;
}
