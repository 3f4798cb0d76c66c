//===- ByteAlphabet.cpp - Bytes as printable characters -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/ByteAlphabet.h"

#include "qlm/Runtime/Tokenizer/Utf8.h"

#include <array>

namespace qlm::tokenizer {

namespace {
struct Alphabet {
  std::array<char32_t, 256> scalars;
  /// The byte of each character, or -1.
  std::array<int, 0x144> bytes;

  Alphabet() {
    bytes.fill(-1);
    char32_t other = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      bool printable = (byte >= '!' && byte <= '~') ||
                       (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      scalars[byte] = printable ? static_cast<char32_t>(byte) : other++;
      bytes[scalars[byte]] = byte;
    }
  }
};
} // namespace

static const Alphabet &alphabet() {
  static const Alphabet instance;
  return instance;
}

void spellBytes(std::string_view bytes, std::string &out) {
  const Alphabet &table = alphabet();
  for (char byte : bytes)
    appendScalar(out, table.scalars[static_cast<unsigned char>(byte)]);
}

void unspellBytes(std::string_view text, std::string &out) {
  const Alphabet &table = alphabet();
  size_t before = out.size();
  for (size_t i = 0; i < text.size();) {
    char32_t scalar = nextScalar(text, i);
    if (scalar >= table.bytes.size() || table.bytes[scalar] < 0) {
      out.resize(before);
      out += text;
      return;
    }
    out.push_back(static_cast<char>(table.bytes[scalar]));
  }
}

} // namespace qlm::tokenizer
