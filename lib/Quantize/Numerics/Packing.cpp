//===- Packing.cpp - Blocks of 16 rows as the kernels read them -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The formulas are in qlm/Package/Format.h. All layouts are one: a row is a
// sequence of cells of 1, 2, 4 or 8 input bytes; cell j of the 16 rows becomes
// one line of 16 packed cells:
//
//   layout        a cell holds      packed cell
//   f32x16        1 column          4 bytes, as they are
//   f16x16        1 column          2 bytes, as they are
//   bf16x16x2     2 columns         4 bytes, as they are
//   i8x16x4       4 codes           4 bytes, offset added
//   i4x16x8       8 codes           4 bytes, codes 0-3 low, 4-7 high nibbles
//   scale16       1 scale           2 or 4 bytes, as they are
//   zero16        1 zero point      1 byte, offset added
//   bias          the one value     4 bytes, as they are
//   f8x16x4       4 codes           4 bytes, as they are
//   scale8        1 code            1 byte, as it is
//
// Adding an offset of half the range to two's complement flips the top bit,
// so offsets are added to all codes of a cell at once.
//
//===----------------------------------------------------------------------===//

#include "Bits.h"
#include "PackingCuda.h"
#include "qlm/Package/Format.h"
#include "qlm/Quantize/Numerics.h"

#include <algorithm>

using namespace qlm::numerics;

namespace {

constexpr int64_t kRows = qlm::format::kRowBlock;
constexpr uint64_t kEachByte = 0x0101010101010101ull;
constexpr uint64_t kLowNibbles = 0x0f0f0f0f0f0f0f0full;

/// Copies cells as they are.
template <typename T> struct PlainCell {
  using Input = T;
  using Packed = T;
  Packed pack(Input cell) const { return cell; }
  Input unpack(Packed cell) const { return cell; }
};

/// Adds the offset to each byte.
template <typename T> struct CodeCell {
  using Input = T;
  using Packed = T;
  T flips;
  explicit CodeCell(int offset)
      : flips(static_cast<T>(kEachByte * static_cast<uint64_t>(offset))) {}
  Packed pack(Input cell) const { return static_cast<T>(cell ^ flips); }
  Input unpack(Packed cell) const { return static_cast<T>(cell ^ flips); }
};

/// Joins eight 4-bit codes, one a byte, into four bytes.
struct NibbleCell {
  using Input = uint64_t;
  using Packed = uint32_t;
  uint64_t flips;
  explicit NibbleCell(int offset)
      : flips(kEachByte * static_cast<uint64_t>(offset)) {}
  Packed pack(Input cell) const {
    uint64_t codes = (cell ^ flips) & kLowNibbles;
    return static_cast<uint32_t>(codes | (codes >> 28));
  }
  Input unpack(Packed cell) const {
    uint64_t joined = cell;
    uint64_t codes = (joined | (joined << 28)) & kLowNibbles;
    // With an offset codes are signed: extend the nibble's sign to its byte.
    codes ^= flips;
    uint64_t negative = flips ? (codes >> 3) & kEachByte : 0;
    return codes | (negative * 0xf0u);
  }
};

/// Packs \p rows rows of \p rowBytes bytes. Where a row ends inside a cell,
/// the rest of the packed cell is cleared by packing codes that map to zero.
template <typename Cell>
void packRows(const Cell &cell, const void *input, int64_t rows,
              int64_t rowBytes, void *packed) {
  using Input = typename Cell::Input;
  using Packed = typename Cell::Packed;
  const auto *source = static_cast<const unsigned char *>(input);
  auto *target = static_cast<unsigned char *>(packed);
  constexpr auto kCellBytes = static_cast<int64_t>(sizeof(Input));
  int64_t whole = rowBytes / kCellBytes, rest = rowBytes % kCellBytes;
  constexpr auto kLineBytes = static_cast<int64_t>(sizeof(Packed)) * kRows;
  if (rows < kRows)
    std::memset(packed, 0,
                static_cast<size_t>((whole + (rest != 0)) * kLineBytes));
  // By strips of columns that stay in the first-level cache: each input line
  // is read whole, each output line written whole.
  constexpr int64_t kStrip = 64;
  for (int64_t first = 0; first < whole; first += kStrip) {
    int64_t last = std::min(first + kStrip, whole);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t j = first; j < last; ++j)
        storeAs<Packed>(
            target + j * kLineBytes +
                row * static_cast<int64_t>(sizeof(Packed)),
            cell.pack(loadAs<Input>(source + row * rowBytes + j * kCellBytes)));
  }
  if (!rest)
    return;
  for (int64_t row = 0; row < rows; ++row) {
    Input tail = cell.unpack(0);
    std::memcpy(&tail, source + row * rowBytes + whole * kCellBytes,
                static_cast<size_t>(rest));
    storeAs<Packed>(target + whole * kLineBytes +
                        row * static_cast<int64_t>(sizeof(Packed)),
                    cell.pack(tail));
  }
}

template <typename Cell>
void unpackRows(const Cell &cell, const void *packed, int64_t rows,
                int64_t rowBytes, void *output) {
  using Packed = typename Cell::Packed;
  const auto *source = static_cast<const unsigned char *>(packed);
  auto *target = static_cast<unsigned char *>(output);
  constexpr auto kCellBytes =
      static_cast<int64_t>(sizeof(typename Cell::Input));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t done = 0, j = 0; done < rowBytes; done += kCellBytes, ++j) {
      auto value = cell.unpack(loadAs<Packed>(
          source + (j * kRows + row) * static_cast<int64_t>(sizeof(Packed))));
      std::memcpy(target + row * rowBytes + done, &value,
                  static_cast<size_t>(std::min(kCellBytes, rowBytes - done)));
    }
}

/// Calls \p visit(cell, bytes of a row) with the layout's cell.
template <typename Visitor>
void withCell(Layout layout, int64_t columns, int64_t elementBytes,
              int codeOffset, Visitor visit) {
  switch (layout) {
  case Layout::Float32:
    return visit(PlainCell<uint32_t>(), 4 * columns);
  case Layout::BFloat16:
    return visit(PlainCell<uint32_t>(), 2 * columns);
  case Layout::Float16:
    return visit(PlainCell<uint16_t>(), 2 * columns);
  case Layout::Int8:
    return visit(CodeCell<uint32_t>(codeOffset), columns);
  case Layout::Int4:
    return visit(NibbleCell(codeOffset), columns);
  case Layout::Scale:
    if (elementBytes == 2)
      return visit(PlainCell<uint16_t>(), 2 * columns);
    return visit(PlainCell<uint32_t>(), 4 * columns);
  case Layout::ZeroPoint:
    return visit(CodeCell<uint8_t>(codeOffset), columns);
  case Layout::Bias:
    return visit(PlainCell<uint32_t>(), int64_t(4));
  case Layout::Float8:
    return visit(PlainCell<uint32_t>(), columns);
  case Layout::ScaleCode:
    return visit(PlainCell<uint8_t>(), columns);
  case Layout::Plain:
    // Not in blocks: nobody packs it.
    return;
  case Layout::Fragment16:
  case Layout::Fragment8:
  case Layout::Fragment8x8:
  case Layout::Fragment4:
    return; // PackingCuda.cpp
  }
}

} // namespace

int64_t qlm::numerics::packedBlockBytes(Layout layout, int64_t columns,
                                        int64_t elementBytes) {
  if (isFragment(layout))
    return fragmentBlockBytes(layout, columns);
  int64_t bytes = 0;
  withCell(
      layout, columns, elementBytes, /*codeOffset=*/0,
      [&](auto cell, int64_t rowBytes) {
        using Cell = decltype(cell);
        auto cellBytes = static_cast<int64_t>(sizeof(typename Cell::Input));
        auto packedBytes = static_cast<int64_t>(sizeof(typename Cell::Packed));
        bytes = (rowBytes + cellBytes - 1) / cellBytes * packedBytes * kRows;
      });
  return bytes;
}

void qlm::numerics::packBlock(Layout layout, const void *input, int64_t rows,
                              int64_t columns, int64_t elementBytes,
                              int codeOffset, void *packed) {
  if (isFragment(layout))
    return packFragments(layout, input, rows, columns, codeOffset, packed);
  withCell(layout, columns, elementBytes, codeOffset,
           [&](const auto &cell, int64_t rowBytes) {
             packRows(cell, input, rows, rowBytes, packed);
           });
}

void qlm::numerics::unpackBlock(Layout layout, const void *packed, int64_t rows,
                                int64_t columns, int64_t elementBytes,
                                int codeOffset, void *output) {
  if (isFragment(layout))
    return unpackFragments(layout, packed, rows, columns, codeOffset, output);
  withCell(layout, columns, elementBytes, codeOffset,
           [&](const auto &cell, int64_t rowBytes) {
             unpackRows(cell, packed, rows, rowBytes, output);
           });
}
