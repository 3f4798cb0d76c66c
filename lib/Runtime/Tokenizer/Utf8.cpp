//===- Utf8.cpp - UTF-8 reading and repair --------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/Utf8.h"

#include <cstdint>
#include <cstring>

namespace qlm::tokenizer {

static constexpr std::string_view replacement = "\xEF\xBF\xBD";

void appendScalar(std::string &out, char32_t scalar) {
  auto add = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (scalar < 0x80) {
    add(scalar);
  } else if (scalar < 0x800) {
    add(0xC0 | scalar >> 6);
    add(0x80 | (scalar & 0x3F));
  } else if (scalar < 0x10000) {
    add(0xE0 | scalar >> 12);
    add(0x80 | (scalar >> 6 & 0x3F));
    add(0x80 | (scalar & 0x3F));
  } else {
    add(0xF0 | scalar >> 18);
    add(0x80 | (scalar >> 12 & 0x3F));
    add(0x80 | (scalar >> 6 & 0x3F));
    add(0x80 | (scalar & 0x3F));
  }
}

/// What a first byte demands: how many bytes follow, and the range of the
/// first of them (The Unicode Standard, table 3-7). Zero `follow` with a byte
/// of 0x80 or more means that it starts nothing.
struct LeadByte {
  int follow;
  unsigned char low, high;
};

static LeadByte classifyLead(unsigned char byte) {
  if (byte >= 0xC2 && byte <= 0xDF)
    return {1, 0x80, 0xBF};
  if (byte == 0xE0)
    return {2, 0xA0, 0xBF};
  if (byte == 0xED)
    return {2, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF)
    return {2, 0x80, 0xBF};
  if (byte == 0xF0)
    return {3, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3)
    return {3, 0x80, 0xBF};
  if (byte == 0xF4)
    return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

/// The length of the run of ASCII at \p position, eight bytes at a time.
static size_t asciiRun(std::string_view text, size_t position) {
  size_t end = position;
  while (text.size() - end >= sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, text.data() + end, sizeof(word));
    if (word & 0x8080808080808080ull)
      break;
    end += sizeof(word);
  }
  while (end < text.size() && static_cast<unsigned char>(text[end]) < 0x80)
    ++end;
  return end - position;
}

bool isAscii(std::string_view text) { return asciiRun(text, 0) == text.size(); }

size_t findInvalidUtf8(std::string_view text) {
  for (size_t i = asciiRun(text, 0); i < text.size(); i += asciiRun(text, i)) {
    LeadByte lead = classifyLead(static_cast<unsigned char>(text[i]));
    if (!lead.follow || text.size() - i <= static_cast<size_t>(lead.follow))
      return i;
    for (int k = 1; k <= lead.follow; ++k) {
      auto byte = static_cast<unsigned char>(text[i + k]);
      if (byte < (k == 1 ? lead.low : 0x80) ||
          byte > (k == 1 ? lead.high : 0xBF))
        return i;
    }
    i += lead.follow + 1;
  }
  return std::string_view::npos;
}

bool isWhiteSpace(char32_t scalar) {
  return (scalar >= 0x09 && scalar <= 0x0D) || scalar == 0x20 ||
         scalar == 0x85 || scalar == 0xA0 || scalar == 0x1680 ||
         (scalar >= 0x2000 && scalar <= 0x200A) || scalar == 0x2028 ||
         scalar == 0x2029 || scalar == 0x202F || scalar == 0x205F ||
         scalar == 0x3000;
}

void Utf8Repair::push(std::string_view bytes, std::string &out) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (!have) {
      size_t run = asciiRun(bytes, i);
      out.append(bytes, i, run);
      i += run;
      if (i == bytes.size())
        return;
    }
    pushByte(static_cast<unsigned char>(bytes[i]), out);
  }
}

void Utf8Repair::pushByte(unsigned char byte, std::string &out) {
  if (have && (byte < low || byte > high)) {
    out += replacement;
    have = 0;
  }
  if (have) {
    pending[have++] = static_cast<char>(byte);
    low = 0x80;
    high = 0xBF;
    if (--need == 0) {
      out.append(pending, have);
      have = 0;
    }
    return;
  }
  if (byte < 0x80) {
    out.push_back(static_cast<char>(byte));
    return;
  }
  LeadByte lead = classifyLead(byte);
  if (!lead.follow) {
    out += replacement;
    return;
  }
  pending[0] = static_cast<char>(byte);
  have = 1;
  need = lead.follow;
  low = lead.low;
  high = lead.high;
}

void Utf8Repair::finish(std::string &out) {
  if (have)
    out += replacement;
  have = 0;
}

} // namespace qlm::tokenizer
