//===- Functional.h - Quantization of plain arrays --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The compiler's numerics as functions on a matrix [rows, columns] in memory:
//
//   using namespace qlm::numerics;
//   QuantizedTensor q = *quantizePerGroup(w, 64, 256, 4, /*groupSize=*/32);
//   std::vector<float> again = dequantize(q);
//
// They return no value, and a message in \p error, where a value or an option
// can't be quantized. Python: qlm.functional.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_FUNCTIONAL_H
#define QLM_QUANTIZE_FUNCTIONAL_H

#include "qlm/Quantize/Numerics.h"

#include <optional>
#include <string>
#include <vector>

namespace qlm::numerics {

/// A matrix of codes with what turns them back into numbers.
struct QuantizedTensor {
  Scheme scheme;
  int64_t rows = 0, columns = 0;
  std::vector<uint8_t> codes;      ///< [rows, columns], one a byte
  std::vector<float> scales;       ///< scheme.getScaleCount(rows, columns)
  std::vector<uint8_t> zeroPoints; ///< of the scales' count, or empty
  /// Double quantization: codes of scales, and `super`; else empty. `scales`
  /// are what they stand for.
  std::vector<uint8_t> scaleCodes;
  std::vector<float> superScales;
};

/// The compiler's scheme of 4 or 8 bits: symmetric int8 in [-127, 127] with
/// f32 scales, int4 in [-8, 7] with f16 scales of absmax / 7.5, or unsigned
/// with zero points.
Scheme getUniformScheme(int bits, Granularity granularity, int64_t groupSize,
                        bool zeroPoints);

/// Rounds \p values `[rows, columns]` by \p scheme.
std::optional<QuantizedTensor> quantize(const float *values, int64_t rows,
                                        int64_t columns, const Scheme &scheme,
                                        std::string &error);
/// One scale, no zero point.
std::optional<QuantizedTensor> quantizeSymmetric(const float *values,
                                                 int64_t rows, int64_t columns,
                                                 int bits, std::string &error);
/// One scale and one zero point.
std::optional<QuantizedTensor> quantizeAsymmetric(const float *values,
                                                  int64_t rows, int64_t columns,
                                                  int bits, std::string &error);
/// A scale for each row.
std::optional<QuantizedTensor> quantizePerChannel(const float *values,
                                                  int64_t rows, int64_t columns,
                                                  int bits, bool zeroPoints,
                                                  std::string &error);
/// A scale for each \p groupSize columns of a row.
std::optional<QuantizedTensor>
quantizePerGroup(const float *values, int64_t rows, int64_t columns, int bits,
                 int64_t groupSize, bool zeroPoints, std::string &error);
/// NormalFloat4 with an f32 scale for each \p groupSize columns; with
/// \p doubleQuant, scales are quantized too.
std::optional<QuantizedTensor>
quantizeNormalFloat4(const float *values, int64_t rows, int64_t columns,
                     int64_t groupSize, bool doubleQuant, std::string &error);
/// f8E4M3FN with a scale for each row.
std::optional<QuantizedTensor> quantizeFloat8(const float *values, int64_t rows,
                                              int64_t columns,
                                              std::string &error);

/// The numbers that the codes stand for, `[rows, columns]`.
std::vector<float> dequantize(const QuantizedTensor &tensor);

} // namespace qlm::numerics

#endif // QLM_QUANTIZE_FUNCTIONAL_H
