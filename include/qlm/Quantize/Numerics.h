//===- Numerics.h - How weights are rounded and packed ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Parameter programs evaluated by plain C++, with the results that the
// operations' descriptions define (include/qlm/Dialect/QlmParameterOps.td,
// QlmQuantizationOps.td), bit for bit. No LLVM header, no allocation, no
// global state: any thread may call any function on its own buffers.
//
// Matrices are row-major and contiguous. Package walks them in blocks of 16
// rows (qlm::format::kRowBlock): convert to f32, `quantizeRtn`, `packBlock`.
//
// A code takes one byte: two's complement in a symmetric scheme, unsigned in
// a scheme with zero points, an index into a table, or the bits of f8E4M3FN;
// 4-bit codes are kept one a byte until they are packed. Scales are f32 values
// that already are rounded to the scheme's type.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_NUMERICS_H
#define QLM_QUANTIZE_NUMERICS_H

#include <cstddef>
#include <cstdint>
#include <string>

namespace qlm::numerics {

//===----------------------------------------------------------------------===//
// Floating-point types
//===----------------------------------------------------------------------===//

/// Element types of a weight file.
enum class FloatType { Float32, Float16, BFloat16 };

/// Bytes of one element: 4 or 2.
constexpr int64_t getFloatBytes(FloatType type) {
  return type == FloatType::Float32 ? 4 : 2;
}

/// Rounds to IEEE binary16, half to even; beyond 65504 (after rounding) is
/// infinity, NaN stays NaN.
uint16_t toFloat16(float value);
/// Rounds to bfloat16, half to even; NaN stays NaN.
uint16_t toBFloat16(float value);
/// Rounds to f8E4M3FN, half to even; beyond 448 is 448, NaN stays NaN.
uint8_t toFloat8(float value);
/// Extends f8E4M3FN; exact.
float fromFloat8(uint8_t bits);
/// Extends IEEE binary16; exact.
float fromFloat16(uint16_t bits);
/// Extends bfloat16; exact.
float fromBFloat16(uint16_t bits);

/// Extends \p count elements of \p type at \p source to f32; exact.
void toFloat32(FloatType type, const void *source, float *target,
               int64_t count);
/// Rounds \p count f32 values to \p type, half to even.
void fromFloat32(FloatType type, const float *source, void *target,
                 int64_t count);
/// `qlm.convert`: rounds or extends \p count elements. \p source and
/// \p target don't overlap; neither needs to be aligned.
void convert(FloatType sourceType, const void *source, FloatType targetType,
             void *target, int64_t count);

//===----------------------------------------------------------------------===//
// Schemes
//===----------------------------------------------------------------------===//

/// How many values share one scale; the order of the dialect's enumeration.
enum class Granularity { Tensor, Channel, Group, Row };

/// What a code stands for; the order of the dialect's enumeration.
enum class Codebook { Uniform, NF4, Float8 };

/// `#qlm.scheme` in plain C++ (`getNumericsScheme` makes it from the
/// attribute).
struct Scheme {
  int bits = 8;                                   ///< 4 or 8
  Granularity granularity = Granularity::Channel; ///< what shares a scale
  int64_t groupSize = 0;                          ///< columns, with Group
  bool zeroPoints = false;                        ///< unsigned codes
  int lo = -127;                                  ///< smallest code
  int hi = 127;                                   ///< largest code
  double bound = 127;     ///< symmetric scale = absmax / bound
  bool scalesF16 = false; ///< scales are rounded to f16, else f32
  /// Not uniform: without zero points; NF4 has neither range nor bound.
  Codebook codebook = Codebook::Uniform;

  /// Columns that share a scale.
  int64_t getColumnsPerScale(int64_t columns) const {
    return granularity == Granularity::Group ? groupSize : columns;
  }
  /// Scales of one row of \p columns columns; 1 for channel, row and tensor.
  int64_t getScalesPerRow(int64_t columns) const {
    return granularity == Granularity::Group ? columns / groupSize : 1;
  }
  /// Scales of a matrix.
  int64_t getScaleCount(int64_t rows, int64_t columns) const {
    return granularity == Granularity::Tensor ? 1
                                              : rows * getScalesPerRow(columns);
  }
  /// Bytes of a stored scale: 2 or 4.
  int64_t getScaleBytes() const { return scalesF16 ? 2 : 4; }
  /// What `packBlock` adds to a code or zero point: 0 for unsigned storage,
  /// else 8 (4 bits) or 128 (8 bits).
  int getCodeOffset() const {
    return zeroPoints || codebook != Codebook::Uniform ? 0 : 1 << (bits - 1);
  }
};

/// Success, or the first value that can't be quantized.
struct [[nodiscard]] RoundingResult {
  enum Kind {
    Ok,
    NonFinite,     ///< a weight is infinite or NaN
    ScaleOverflow, ///< a scale is beyond the largest f16 (or f32)
    GroupSize,     ///< the group size doesn't divide the columns
  };
  Kind kind = Ok;
  int64_t row = 0;    ///< row of the block given
  int64_t column = 0; ///< column, or first column of the group
  float value = 0;    ///< the weight, or the scale before rounding to f16

  bool ok() const { return kind == Ok; }
  /// One line, with the position in the weight: "weight must be finite, got
  /// inf at [19, 7]". \p firstRow is the block's first row.
  std::string getMessage(int64_t firstRow = 0) const;
};

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

/// `qlm.rtn`: rounds \p weights `[rows, columns]` to the nearest codes.
///
/// Writes \p codes `[rows, columns]`, \p scales `[rows, scales per row]` (one
/// for tensor granularity, whose matrix must be given whole), and, if the
/// scheme has them, \p zeroPoints of the scales' shape (else may be null).
/// On failure the outputs are unspecified.
RoundingResult quantizeRtn(const float *weights, int64_t rows, int64_t columns,
                           const Scheme &scheme, uint8_t *codes, float *scales,
                           uint8_t *zeroPoints);

/// The values that share a scale, seen so far: for a tensor's one scale,
/// which takes a look at all values before any of them gets a code.
struct ValueRange {
  float magnitude = 0; ///< largest magnitude
  float smallest = 0;  ///< min(0, smallest value)
  float largest = 0;   ///< max(0, largest value)
};

/// Widens \p range by \p weights `[rows, columns]`. Fails on a value that
/// isn't finite.
RoundingResult widenRange(const float *weights, int64_t rows, int64_t columns,
                          ValueRange &range);
/// The scale and zero point (may be null) of values in \p range, as
/// `quantizeRtn` finds them. Fails when the scale overflows its type.
RoundingResult findScale(const Scheme &scheme, const ValueRange &range,
                         float *scale, uint8_t *zeroPoint);

/// `qlm.quantize`: codes of \p input `[rows, columns]` for given scales and
/// zero points (null in a symmetric scheme). \p input must be finite.
void quantizeWithScales(const float *input, int64_t rows, int64_t columns,
                        const Scheme &scheme, const float *scales,
                        const uint8_t *zeroPoints, uint8_t *codes);

/// `qlm.dequantize`: \p result `[rows, columns]` f32.
void dequantize(const uint8_t *codes, int64_t rows, int64_t columns,
                const Scheme &scheme, const float *scales,
                const uint8_t *zeroPoints, float *result);

/// `qlm.quantize_scales`: double quantization of \p count scales. Writes
/// \p codes `[count]` and \p super `[getSuperScaleCount(count)]`: the offset
/// and a scale for each block of 256. With \p offset, that one in place of
/// the mean.
void quantizeScales(const float *scales, int64_t count, uint8_t *codes,
                    float *super, const float *offset = nullptr);
/// `qlm.dequantize_scales`: \p scales `[count]`.
void dequantizeScales(const uint8_t *codes, int64_t count, const float *super,
                      float *scales);
/// Elements of `super` for \p count scales.
constexpr int64_t getSuperScaleCount(int64_t count) {
  return 1 + (count + 255) / 256;
}

/// `qlm.dynamic_quantize` of one token: \p columns codes in [-127, 127] and
/// their scale. An infinite or NaN input makes the scale infinite or NaN, so
/// that it isn't lost; a zero's code is 0 even where `127 / m` overflows.
void dynamicQuantizeRow(const float *input, int64_t columns, int8_t *codes,
                        float *scale);

/// Stores \p count scales as the scheme's type (f32 or f16); exact, since
/// they are rounded already.
void storeScales(const Scheme &scheme, const float *scales, void *target,
                 int64_t count);
/// Extends stored scales to f32.
void loadScales(const Scheme &scheme, const void *source, float *scales,
                int64_t count);

//===----------------------------------------------------------------------===//
// Packed layouts
//===----------------------------------------------------------------------===//

/// Layouts of qlm/Package/Format.h; the order of the dialect's LayoutKind.
enum class Layout {
  Float32,   ///< f32x16
  BFloat16,  ///< bf16x16x2
  Float16,   ///< f16x16
  Int8,      ///< i8x16x4
  Int4,      ///< i4x16x8
  Scale,     ///< scale16
  ZeroPoint, ///< zero16
  Bias,      ///< bias
  Float8,    ///< f8x16x4
  ScaleCode, ///< scale8
  Plain,     ///< plain: as it is, in no blocks
  // Of the GPU; numbers leave room for others of the CPU.
  Fragment16 = 32, ///< frag16: f16 and bf16
  Fragment8,       ///< frag8: 8-bit codes for 16-bit activations
  Fragment8x8,     ///< frag8x8: 8-bit codes for 8-bit activations
  Fragment4,       ///< frag4: 4-bit codes for 16-bit activations
};

/// Bytes of one packed block of 16 rows. \p columns is the matrix's columns,
/// the scales of a row for Scale and ZeroPoint, and 1 for Bias.
/// \p elementBytes counts for Scale only: 4 or 2.
int64_t packedBlockBytes(Layout layout, int64_t columns,
                         int64_t elementBytes = 4);

/// `qlm.pack` of one block: orders \p rows (1 to 16) rows of \p columns
/// elements of \p elementBytes bytes, and fills up with zero bytes.
///
/// \p input: f32 for Float32 and Bias, 16-bit values for Float16 and
/// BFloat16, one byte a code or zero point for Int8, Int4, Float8, ScaleCode
/// and ZeroPoint, f32 or f16 for Scale. \p codeOffset is added to each code and
/// zero point: `Scheme::getCodeOffset()`, 0 for the other layouts. \p packed
/// has `packedBlockBytes` bytes and doesn't overlap the input; neither needs to
/// be aligned.
void packBlock(Layout layout, const void *input, int64_t rows, int64_t columns,
               int64_t elementBytes, int codeOffset, void *packed);

/// Undoes `packBlock`: writes the \p rows rows to \p output.
void unpackBlock(Layout layout, const void *packed, int64_t rows,
                 int64_t columns, int64_t elementBytes, int codeOffset,
                 void *output);

} // namespace qlm::numerics

#endif // QLM_QUANTIZE_NUMERICS_H
