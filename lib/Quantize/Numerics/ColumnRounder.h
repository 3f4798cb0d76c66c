//===- ColumnRounder.h - Scales of some rows, and rounding ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_NUMERICS_COLUMNROUNDER_H
#define QLM_LIB_QUANTIZE_NUMERICS_COLUMNROUNDER_H

#include "qlm/Quantize/Numerics.h"

#include <limits>
#include <vector>

namespace qlm::numerics {

/// The scales of one chunk of rows, and how a value is rounded with them.
class ColumnRounder {
public:
  ColumnRounder(const Scheme &scheme, int64_t columns, float *scales,
                uint8_t *zeroPoints)
      : one(scheme), perRow(scheme.getScalesPerRow(columns)),
        perScale(scheme.getColumnsPerScale(columns)), scales(scales),
        zeroPoints(zeroPoints) {
    one.granularity = Granularity::Channel;
  }

  int64_t getColumnsPerScale() const { return perScale; }

  /// Finds the scale of row \p row and group \p group from \p values. With
  /// \p importance, by column, its range may be shrunk.
  RoundingResult findScale(const float *values, int64_t row, int64_t group,
                           const float *importance) {
    std::vector<uint8_t> codes(static_cast<size_t>(perScale));
    int64_t at = row * perRow + group;
    uint8_t *zero = zeroPoints ? zeroPoints + at : nullptr;
    RoundingResult result =
        quantizeRtn(values, 1, perScale, one, codes.data(), scales + at, zero);
    result.row = row;
    result.column += group * perScale;
    if (result.ok() && importance)
      shrinkRange(values, importance, codes.data(), scales + at, zero);
    return result;
  }

  /// The scale and zero point of a group.
  void getScale(int64_t row, int64_t group, float &scale, float &zero) const {
    int64_t at = row * perRow + group;
    scale = scales[at];
    zero = zeroPoints ? zeroPoints[at] : 0;
  }

  /// The code of \p value in \p column, and what it stands for.
  uint8_t round(float value, int64_t row, int64_t column, float &rounded) {
    int64_t at = row * perRow + column / perScale;
    const uint8_t *zero = zeroPoints ? zeroPoints + at : nullptr;
    uint8_t code = 0;
    quantizeWithScales(&value, 1, 1, one, scales + at, zero, &code);
    dequantize(&code, 1, 1, one, scales + at, zero, &rounded);
    return code;
  }

private:
  /// Replaces \p scale and \p zero by those of the part of the range that
  /// loses least.
  void shrinkRange(const float *values, const float *importance, uint8_t *codes,
                   float *scale, uint8_t *zero) {
    ValueRange range;
    if (!widenRange(values, 1, perScale, range).ok())
      return;
    std::vector<float> rounded(static_cast<size_t>(perScale));
    double least = std::numeric_limits<double>::infinity();
    float bestScale = *scale;
    uint8_t bestZero = zero ? *zero : 0;
    for (int step = 0; step <= 10; ++step) {
      float part = 1.0f - 0.05f * static_cast<float>(step), triedScale = 0;
      uint8_t triedZero = 0;
      ValueRange shrunk{range.magnitude * part, range.smallest * part,
                        range.largest * part};
      if (!numerics::findScale(one, shrunk, &triedScale,
                               zero ? &triedZero : nullptr)
               .ok())
        continue;
      const uint8_t *zeroAt = zero ? &triedZero : nullptr;
      quantizeWithScales(values, 1, perScale, one, &triedScale, zeroAt, codes);
      dequantize(codes, 1, perScale, one, &triedScale, zeroAt, rounded.data());
      double loss = 0;
      for (int64_t k = 0; k < perScale; ++k) {
        double error = static_cast<double>(rounded[k]) - values[k];
        loss += error * error * importance[k];
      }
      if (loss < least) {
        least = loss;
        bestScale = triedScale;
        bestZero = triedZero;
      }
    }
    *scale = bestScale;
    if (zero)
      *zero = bestZero;
  }

  Scheme one; ///< of a single value
  int64_t perRow, perScale;
  float *scales;
  uint8_t *zeroPoints;
};

} // namespace qlm::numerics

#endif // QLM_LIB_QUANTIZE_NUMERICS_COLUMNROUNDER_H
