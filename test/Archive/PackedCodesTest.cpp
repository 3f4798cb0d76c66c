//===- PackedCodesTest.cpp - Weights that a file holds as codes -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/PackedCodes.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

using mlir::qlm::PackedCodes;

TEST(PackedCodes, KeysAreReadAsTheyAreWritten) {
  PackedCodes codes{8, 72, 4, 16};
  EXPECT_EQ(codes.getKey(1000), "codes[8, 72] of 4 bits by 16 at 1000");
  EXPECT_EQ(codes.getScalesKey(1000), "F32[8, 5] at 1320");
  EXPECT_EQ(codes.getZerosKey(1000), "F32[8, 5] at 1480");
  auto read = PackedCodes::parseKey(codes.getKey(1000));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->second, 1000);
  EXPECT_EQ(read->first.getRecordBytes(), 8 * 40 + 2 * 160);
}

TEST(PackedCodes, OtherKeysAreNone) {
  for (const char *key :
       {"", "F32[8, 4] at 0", "codes[8, 64] of 4 bits by 16",
        "codes[8, 64] of 3 bits by 16 at 0", "codes[8, 64] of 4 bits by 8 at 0",
        "codes[0, 64] of 4 bits by 16 at 0",
        "codes[-1, 64] of 4 bits by 16 at 0",
        "codes[8, 64] of 4 bits by 16 at -1",
        "codes[8, 64] of 4 bits by 16 at 0 ",
        "codes[8, 99999999999] of 4 bits by 16 at 0",
        "codes[8, 99999999999999999999] of 4 bits by 16 at 0"})
    EXPECT_FALSE(PackedCodes::parseKey(key)) << key;
}

/// Two rows of 17 columns in blocks of 16, codes counting up, by hand.
TEST(PackedCodes, ValuesAreThoseOfTheFormula) {
  for (int64_t bits : {2, 4, 8}) {
    PackedCodes codes{2, 17, bits, 16};
    int64_t perByte = 8 / bits, mask = (1 << bits) - 1;
    std::vector<uint8_t> record(codes.getRecordBytes());
    auto code = [&](int64_t row, int64_t k) { return (7 * row + k) & mask; };
    for (int64_t row = 0; row < 2; ++row)
      for (int64_t k = 0; k < 32; ++k)
        record[row * 4 * bits + k / perByte] |=
            static_cast<uint8_t>(code(row, k) << (k % perByte * bits));
    const float scales[] = {0.5f, -2, 0.25f, 4}, zeros[] = {1, 0, 2.5f, 3};
    std::memcpy(record.data() + codes.getCodesBytes(), scales, 16);
    std::memcpy(record.data() + codes.getCodesBytes() + 16, zeros, 16);
    std::vector<float> values(17);
    for (int64_t row = 0; row < 2; ++row) {
      codes.dequantize(record, row, 1, values.data());
      for (int64_t k = 0; k < 17; ++k) {
        int64_t place = 2 * row + k / 16;
        EXPECT_EQ(values[k], (static_cast<float>(code(row, k)) - zeros[place]) *
                                 scales[place])
            << bits << " bits, row " << row << ", column " << k;
      }
    }
  }
}
