//===- PackedCodes.cpp - Weights that a file holds as codes ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/PackedCodes.h"

#include "llvm/ADT/Twine.h"

#include <cstring>
#include <vector>

namespace mlir::qlm {

void PackedCodes::unpackRow(const char *bytes, uint8_t *codes) const {
  // Blocks are whole bytes, so that a row's follow each other.
  int64_t perByte = 8 / bits;
  unsigned mask = (1u << bits) - 1;
  for (int64_t i = 0; i < columns; ++i)
    codes[i] = static_cast<uint8_t>(
        (static_cast<uint8_t>(bytes[i / perByte]) >> (i % perByte * bits)) &
        mask);
}

void PackedCodes::dequantize(llvm::ArrayRef<uint8_t> record, int64_t row,
                             int64_t count, float *target) const {
  int64_t blocks = getBlocks();
  std::vector<uint8_t> codes(columns);
  std::vector<float> scales(blocks), zeros(blocks);
  const auto *bytes = reinterpret_cast<const char *>(record.data());
  for (int64_t i = row; i < row + count; ++i, target += columns) {
    unpackRow(bytes + i * getRowBytes(), codes.data());
    const char *parameters = bytes + getCodesBytes() + i * blocks * 4;
    std::memcpy(scales.data(), parameters, blocks * 4);
    std::memcpy(zeros.data(), parameters + getScalesBytes(), blocks * 4);
    for (int64_t k = 0; k < columns; ++k)
      target[k] =
          (static_cast<float>(codes[k]) - zeros[k / block]) * scales[k / block];
  }
}

std::string PackedCodes::getKey(int64_t offset) const {
  return ("codes[" + llvm::Twine(rows) + ", " + llvm::Twine(columns) + "] of " +
          llvm::Twine(bits) + " bits by " + llvm::Twine(block) + " at " +
          llvm::Twine(offset))
      .str();
}

static std::string getFloatsKey(const PackedCodes &codes, int64_t offset) {
  return ("F32[" + llvm::Twine(codes.rows) + ", " +
          llvm::Twine(codes.getBlocks()) + "] at " + llvm::Twine(offset))
      .str();
}

std::string PackedCodes::getScalesKey(int64_t offset) const {
  return getFloatsKey(*this, offset + getCodesBytes());
}

std::string PackedCodes::getZerosKey(int64_t offset) const {
  return getFloatsKey(*this, offset + getCodesBytes() + getScalesBytes());
}

std::optional<std::pair<PackedCodes, int64_t>>
PackedCodes::parseKey(llvm::StringRef key) {
  PackedCodes codes;
  int64_t offset = 0;
  auto read = [&](llvm::StringRef before, int64_t &value) {
    return key.consume_front(before) && !key.consumeInteger(10, value);
  };
  constexpr int64_t kLargest = int64_t(1) << 30;
  if (!read("codes[", codes.rows) || !read(", ", codes.columns) ||
      !read("] of ", codes.bits) || !read(" bits by ", codes.block) ||
      !read(" at ", offset) || !key.empty())
    return std::nullopt;
  if (codes.rows < 1 || codes.rows > kLargest || codes.columns < 1 ||
      codes.columns > kLargest || codes.block < 16 || codes.block > kLargest ||
      (codes.bits != 2 && codes.bits != 4 && codes.bits != 8) || offset < 0)
    return std::nullopt;
  return std::pair(codes, offset);
}

} // namespace mlir::qlm
