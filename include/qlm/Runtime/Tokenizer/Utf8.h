//===- Utf8.h - UTF-8 reading and repair ------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_UTF8_H
#define QLM_RUNTIME_TOKENIZER_UTF8_H

#include <cstddef>
#include <string>
#include <string_view>

namespace qlm::tokenizer {

/// Reads the scalar at \p position of valid UTF-8 and moves past it.
inline char32_t nextScalar(std::string_view text, size_t &position) {
  auto byte = [&](size_t i) {
    return static_cast<unsigned char>(text[position + i]);
  };
  char32_t lead = byte(0);
  if (lead < 0x80) {
    position += 1;
    return lead;
  }
  if (lead < 0xE0) {
    char32_t scalar = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    position += 2;
    return scalar;
  }
  if (lead < 0xF0) {
    char32_t scalar =
        (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    position += 3;
    return scalar;
  }
  char32_t scalar = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 |
                    (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  position += 4;
  return scalar;
}

/// The start of the scalar that ends right before \p position (> 0).
inline size_t previousScalar(std::string_view text, size_t position) {
  do {
    --position;
  } while ((static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  return position;
}

/// The bytes of the scalar whose first byte is \p lead.
inline size_t scalarLength(char lead) {
  unsigned char byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// Appends the UTF-8 of \p scalar, which must be a Unicode scalar value.
void appendScalar(std::string &out, char32_t scalar);

/// The offset of the first byte that isn't part of a well-formed character
/// (no surrogates, no overlong forms), or npos when all of \p text is valid.
size_t findInvalidUtf8(std::string_view text);

/// Whether \p scalar has Unicode's White_Space property.
bool isWhiteSpace(char32_t scalar);

/// Whether every byte of \p text is below 0x80.
bool isAscii(std::string_view text);

/// Turns a stream of bytes into valid UTF-8. Each maximal part of a broken
/// character becomes one U+FFFD (The Unicode Standard, section 3.9, "U+FFFD
/// Substitution of Maximal Subparts"); an unfinished character at the end of
/// a push waits for the next one.
class Utf8Repair {
public:
  void push(std::string_view bytes, std::string &out);
  void finish(std::string &out);

private:
  void pushByte(unsigned char byte, std::string &out);

  char pending[4] = {};
  int have = 0, need = 0;
  /// The values that the next continuation byte may take.
  unsigned char low = 0x80, high = 0xBF;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_UTF8_H
