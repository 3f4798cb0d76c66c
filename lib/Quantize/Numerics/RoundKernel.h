//===- RoundKernel.h - GPTQ's columns of a few rows -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Compiled once for each width of vectors, as ProductKernel.h is. Rows go side
// by side, kRoundedRows of them in the lanes of vectors:
//
//   for column i:  code, rounded = round(values[i]);  error = given[i] -
//   rounded
//                  values[j] += error * feedback[i, j]   for each j > i
//
// Errors of a few columns are kept in registers, so that columns after those
// are loaded and stored once for all of them. Each value gets the errors in the
// order of columns, one product and one sum each: the bits don't depend on the
// width of vectors, nor on how columns are cut into blocks of one call.
// Reference: test/Quantize/GptqTest.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_NUMERICS_ROUNDKERNEL_H
#define QLM_LIB_QUANTIZE_NUMERICS_ROUNDKERNEL_H

#include <stdint.h>

namespace qlm::numerics {

inline constexpr int64_t kRoundedRows = 16;

/// Some columns of kRoundedRows rows. Arrays are `[columns][kRoundedRows]`.
struct RoundedColumns {
  int64_t count; ///< columns that are rounded
  int64_t width; ///< and those after them that get their errors
  float *values; ///< `width` of them; with what errors before have added
  const float *given;
  const float *scales;
  const float *zeroPoints;
  float low, high;       ///< codes less the zero point are between, less it too
  const float *feedback; ///< of column 0 to column 0
  int64_t stride;        ///< of its rows
  const float *packed;   ///< as packFeedback makes it
  // Results.
  float *errors;
  uint8_t *codes;
  /// In the place of uniform rounding, one column at a time, unless null.
  void (*round)(const void *context, int64_t column, const float *values,
                uint8_t *codes, float *rounded);
  const void *context;
};

/// The kernel of one width.
struct RoundKernel {
  int64_t sub; ///< columns whose errors are kept in registers
  void (*round)(const RoundedColumns &columns);
};

extern const RoundKernel kRoundKernel128;
extern const RoundKernel kRoundKernel256;
extern const RoundKernel kRoundKernel512;

#ifdef QLM_VECTOR_BYTES

// The compiler takes as many registers for one as the width needs.
typedef float RowFloats
    __attribute__((vector_size(4 * kRoundedRows), aligned(4)));
typedef int32_t RowInts
    __attribute__((vector_size(4 * kRoundedRows), aligned(4)));

static RowFloats loadRows(const float *from) {
  return *reinterpret_cast<const RowFloats *>(from);
}

static void storeRows(float *to, RowFloats values) {
  *reinterpret_cast<RowFloats *>(to) = values;
}

/// As Rounding.cpp's codeGroup and dequantize; what the code stands for.
static RowFloats roundUniform(const RoundedColumns &columns, int64_t i,
                              RowFloats value) {
  constexpr float kRounder = 12582912.0f; // 1.5 * 2^23
  RowFloats scale = loadRows(columns.scales + i * kRoundedRows);
  RowFloats zero = loadRows(columns.zeroPoints + i * kRoundedRows);
  RowFloats low = columns.low - zero, high = columns.high - zero;
  RowFloats quotient = value / scale;
  quotient = quotient < low ? low : quotient;
  quotient = quotient > high ? high : quotient;
  quotient = scale == 0 ? RowFloats{} : quotient;
  RowFloats moved = quotient + kRounder;
  RowInts code = (RowInts)moved + __builtin_convertvector(zero, RowInts);
  uint8_t *codes = columns.codes + i * kRoundedRows;
  for (int lane = 0; lane < kRoundedRows; ++lane)
    codes[lane] = static_cast<uint8_t>(code[lane]);
  return (moved - kRounder) * scale;
}

/// The error of column \p i.
static RowFloats roundColumn(const RoundedColumns &columns, int64_t i) {
  float *at = columns.values + i * kRoundedRows;
  RowFloats rounded;
  if (columns.round) {
    float values[kRoundedRows];
    columns.round(columns.context, i, at, columns.codes + i * kRoundedRows,
                  values);
    rounded = loadRows(values);
  } else {
    rounded = roundUniform(columns, i, loadRows(at));
  }
  RowFloats error = loadRows(columns.given + i * kRoundedRows) - rounded;
  storeRows(columns.errors + i * kRoundedRows, error);
  return error;
}

/// \p Sub columns from \p first on.
template <int Sub>
static void roundSub(const RoundedColumns &columns, int64_t first) {
  const float *feedback = columns.feedback + first * columns.stride;
  RowFloats errors[Sub];
#pragma clang loop unroll(full)
  for (int i = 0; i < Sub; ++i) {
    errors[i] = roundColumn(columns, first + i);
    for (int j = i + 1; j < Sub; ++j) {
      float *at = columns.values + (first + j) * kRoundedRows;
      storeRows(at, loadRows(at) +
                        errors[i] * feedback[i * columns.stride + first + j]);
    }
  }
  // [columns][width / Sub][Sub]: what is multiplied at once lies together.
  const float *packed = columns.packed + first * columns.width;
  for (int64_t j = first + Sub; j < columns.width; ++j) {
    float *at = columns.values + j * kRoundedRows;
    RowFloats sum = loadRows(at);
#pragma clang loop unroll(full)
    for (int i = 0; i < Sub; ++i)
      sum = sum + errors[i] * packed[j * Sub + i];
    storeRows(at, sum);
  }
}

template <int Sub> static void roundColumns(const RoundedColumns &columns) {
  int64_t first = 0;
  for (; first + Sub <= columns.count; first += Sub)
    roundSub<Sub>(columns, first);
  for (; first < columns.count; ++first)
    roundSub<1>(columns, first);
}

#endif // QLM_VECTOR_BYTES

} // namespace qlm::numerics

#endif // QLM_LIB_QUANTIZE_NUMERICS_ROUNDKERNEL_H
