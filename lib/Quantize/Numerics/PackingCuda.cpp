//===- PackingCuda.cpp - Weights as registers of the tensor cores ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The formulas are in qlm/Package/Format.h. A line of 512 bytes holds what the
// 32 lanes of a warp load at once, 16 bytes each; lane l = 4 r + q has the
// columns of q of rows r and r + 8, in four words:
//
//   layout   columns   word w of lane (r, q): row r + 8 (w % 2), columns
//   frag16     16      2 q, 2 q + 1                     + 8 (w / 2)
//   frag8      32      2 q, 2 q + 1, 2 q + 8, 2 q + 9   + 16 (w / 2)
//   frag8x8    32      4 q .. 4 q + 3                   + 16 (w / 2)
//   frag4      64      both rows, columns as in frag8's word, + 16 w; nibble
//                      j + 4 i: row r + 8 (j % 2), column 2 q + 8 (j / 2) + i
//
//===----------------------------------------------------------------------===//

#include "PackingCuda.h"
#include "Bits.h"

#include <cstring>

using namespace qlm::numerics;

namespace {

constexpr int64_t kLanes = 32, kWords = 4, kHalfBlock = 8;

/// The first bit of (row, column) in a packed block.
int64_t getBit(Layout layout, int64_t row, int64_t column) {
  int64_t lineColumns = fragmentLineColumns(layout);
  int64_t line = column / lineColumns, k = column % lineColumns;
  int64_t r = row % kHalfBlock, lower = row / kHalfBlock;
  int64_t in16 = k % 16, pair = in16 % 8 / 2;
  int64_t lane, word, bit;
  switch (layout) {
  case Layout::Fragment16:
    lane = 4 * r + pair;
    word = lower + 2 * (in16 / 8);
    bit = in16 % 2 * 16;
    break;
  case Layout::Fragment8:
    lane = 4 * r + pair;
    word = lower + 2 * (k / 16);
    bit = 8 * (in16 % 2 + 2 * (in16 / 8));
    break;
  case Layout::Fragment8x8:
    lane = 4 * r + in16 / 4;
    word = lower + 2 * (k / 16);
    bit = 8 * (in16 % 4);
    break;
  default: // Fragment4
    lane = 4 * r + pair;
    word = k / 16;
    bit = 4 * (lower + 2 * (in16 / 8)) + in16 % 2 * 16;
    break;
  }
  return ((line * kLanes + lane) * kWords + word) * 32 + bit;
}

} // namespace

bool qlm::numerics::isFragment(Layout layout) {
  return layout >= Layout::Fragment16;
}

int64_t qlm::numerics::fragmentLineColumns(Layout layout) {
  if (layout == Layout::Fragment16)
    return 16;
  return layout == Layout::Fragment4 ? 64 : 32;
}

int64_t qlm::numerics::fragmentBlockBytes(Layout layout, int64_t columns) {
  constexpr int64_t kPadded = qlm::format::kFragmentColumns;
  int64_t padded = (columns + kPadded - 1) / kPadded * kPadded;
  return padded / fragmentLineColumns(layout) * qlm::format::kFragmentLineBytes;
}

void qlm::numerics::packFragments(Layout layout, const void *input,
                                  int64_t rows, int64_t columns, int codeOffset,
                                  void *packed) {
  const auto *source = static_cast<const unsigned char *>(input);
  auto *target = static_cast<unsigned char *>(packed);
  std::memset(packed, 0,
              static_cast<size_t>(fragmentBlockBytes(layout, columns)));
  int64_t bytes = layout == Layout::Fragment16 ? 2 : 1;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      int64_t bit = getBit(layout, row, column);
      const unsigned char *from = source + (row * columns + column) * bytes;
      unsigned char *to = target + bit / 8;
      if (layout == Layout::Fragment16) {
        std::memcpy(to, from, 2);
        continue;
      }
      auto code = static_cast<unsigned>(*from ^ codeOffset);
      if (layout == Layout::Fragment4)
        *to |= static_cast<unsigned char>((code & 15) << (bit % 8));
      else
        *to = static_cast<unsigned char>(code);
    }
}

void qlm::numerics::unpackFragments(Layout layout, const void *packed,
                                    int64_t rows, int64_t columns,
                                    int codeOffset, void *output) {
  const auto *source = static_cast<const unsigned char *>(packed);
  auto *target = static_cast<unsigned char *>(output);
  int64_t bytes = layout == Layout::Fragment16 ? 2 : 1;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      int64_t bit = getBit(layout, row, column);
      const unsigned char *from = source + bit / 8;
      unsigned char *to = target + (row * columns + column) * bytes;
      if (layout == Layout::Fragment16) {
        std::memcpy(to, from, 2);
        continue;
      }
      int code = *from ^ codeOffset;
      if (layout == Layout::Fragment4) {
        code = ((*from >> (bit % 8)) & 15) ^ codeOffset;
        // With an offset codes are signed: extend the nibble's sign.
        if (codeOffset && (code & 8))
          code |= 0xF0;
      }
      *to = static_cast<unsigned char>(code);
    }
}
