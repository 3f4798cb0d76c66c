//===- PackedCodes.h - Weights that a file holds as codes -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_ARCHIVE_PACKEDCODES_H
#define QLM_ARCHIVE_PACKEDCODES_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

#include <cstdint>
#include <optional>
#include <string>

namespace mlir::qlm {

/// Records of a decoder's file lie in one that is called so among those of
/// `qlm.parameter`s; the module's attribute says where it is.
inline constexpr llvm::StringLiteral kPackedFile = "packed";
inline constexpr llvm::StringLiteral kPackedAttr = "qlm.packed";
/// Of an initializer: the key of its record.
inline constexpr llvm::StringLiteral kPackedKeyAttr = "qlm.packed_key";
/// Of an initializer or a `qlm.parameter`: the scheme of its codes, which
/// linears can keep.
inline constexpr llvm::StringLiteral kKeptSchemeAttr = "qlm.kept_scheme";

/// A matrix `[rows, columns]` of codes, of which each `block` columns of a row
/// share a scale and a zero point:
///
///   value[r, k] = (code[r, k] - zero[r, k / block]) * scale[r, k / block]
///
/// A record of one in a file: codes of 2, 4 or 8 bits, the first in the lowest
/// bits of a byte, each block in bytes of its own, `[rows, blocks, block * bits
/// / 8]`; then scales and zero points, `[rows, blocks]` f32 each. Its key is
/// "codes[rows, columns] of 4 bits by 32 at OFFSET".
struct PackedCodes {
  int64_t rows = 0, columns = 0, bits = 0, block = 0;

  int64_t getBlocks() const { return (columns + block - 1) / block; }
  int64_t getRowBytes() const { return getBlocks() * (block * bits / 8); }
  int64_t getCodesBytes() const { return rows * getRowBytes(); }
  int64_t getScalesBytes() const { return rows * getBlocks() * 4; }
  int64_t getRecordBytes() const {
    return getCodesBytes() + 2 * getScalesBytes();
  }

  /// The first \p columns codes of a row whose bytes begin at \p bytes.
  void unpackRow(const char *bytes, uint8_t *codes) const;
  /// Rows \p row to \p row + \p count of \p record as f32.
  void dequantize(llvm::ArrayRef<uint8_t> record, int64_t row, int64_t count,
                  float *target) const;

  std::string getKey(int64_t offset) const;
  /// Keys of the scales and of the zero points of a record at \p offset, as
  /// tensors of a raw file (ParameterArchive::find).
  std::string getScalesKey(int64_t offset) const;
  std::string getZerosKey(int64_t offset) const;
  /// What \p key says, and the offset; nothing for other keys and for sizes
  /// whose record would not fit in memory.
  static std::optional<std::pair<PackedCodes, int64_t>>
  parseKey(llvm::StringRef key);
};

} // namespace mlir::qlm

#endif // QLM_ARCHIVE_PACKEDCODES_H
