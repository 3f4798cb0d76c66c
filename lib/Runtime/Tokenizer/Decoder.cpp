//===- Decoder.cpp - Pieces to text, as a stream --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/Decoder.h"

#include "qlm/Runtime/Tokenizer/ByteAlphabet.h"

#include <algorithm>

namespace qlm::tokenizer {

using Kind = DecoderStep::Kind;

static constexpr std::string_view replacement = "\xEF\xBF\xBD";

void DecodeText::push(std::string_view piece, std::string &out) {
  pushTo(0, piece, out);
}

void DecodeText::finish(std::string &out) {
  for (size_t index = 0; index < steps->size(); ++index) {
    finishStep(index, out);
    states[index] = State();
  }
}

void DecodeText::pushTo(size_t index, std::string_view piece,
                        std::string &out) {
  if (index == steps->size()) {
    out += piece;
    return;
  }
  const DecoderStep &step = (*steps)[index];
  State &state = states[index];
  switch (step.kind) {
  case Kind::ByteLevel: {
    // A piece counts as bytes only as a whole, so that fragments must wait.
    if (step.fused) {
      state.held += piece;
      return;
    }
    std::string bytes, text;
    unspellBytes(piece, bytes);
    state.repair.push(bytes, text);
    if (!text.empty())
      pushTo(index + 1, text, out);
    return;
  }
  case Kind::ByteFallback:
    if (step.fused)
      state.held += piece;
    else
      byteFallback(index, piece, out);
    return;
  case Kind::Fuse:
    pushTo(index + 1, piece, out);
    return;
  case Kind::Strip:
    if (step.fused)
      stripFragment(index, piece, out);
    else
      stripPiece(index, piece, out);
    return;
  case Kind::Replace:
    if (step.fused)
      replaceFragment(index, piece, out);
    else
      replacePiece(index, piece, out);
    return;
  case Kind::Metaspace: {
    bool drops = step.dropsFirst && (step.fused || state.count == 0);
    ++state.count;
    std::string text;
    for (size_t i = 0; i < piece.size();) {
      std::string_view scalar = piece.substr(i, scalarLength(piece[i]));
      i += scalar.size();
      if (scalar != step.content)
        text += scalar;
      else if (!drops)
        text += ' ';
    }
    pushTo(index + 1, text, out);
    return;
  }
  case Kind::Join:
    if (state.count++)
      pushTo(index + 1, " ", out);
    pushTo(index + 1, piece, out);
    return;
  }
}

/// Passes on what step \p index still holds.
void DecodeText::finishStep(size_t index, std::string &out) {
  const DecoderStep &step = (*steps)[index];
  State &state = states[index];
  switch (step.kind) {
  case Kind::ByteLevel: {
    std::string bytes, text;
    unspellBytes(state.held, bytes);
    state.repair.push(bytes, text);
    state.repair.finish(text);
    if (!text.empty())
      pushTo(index + 1, text, out);
    return;
  }
  case Kind::ByteFallback:
    if (step.fused)
      byteFallback(index, std::exchange(state.held, std::string()), out);
    flushBytes(index, out);
    return;
  case Kind::Replace:
    if (step.fused && !state.held.empty())
      replacePiece(index, std::exchange(state.held, std::string()), out);
    return;
  default:
    return; // Strip drops what it holds, the others hold nothing
  }
}

/// The value of a piece such as `<0x0A>`, or -1. A sign is taken for a digit,
/// as the `tokenizers` library does.
static int byteOfPiece(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>')
    return -1;
  auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  int high = piece[3] == '+' ? 0 : digit(piece[3]), low = digit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void DecodeText::byteFallback(size_t index, std::string_view piece,
                              std::string &out) {
  int byte = byteOfPiece(piece);
  if (byte >= 0) {
    states[index].held.push_back(static_cast<char>(byte));
    return;
  }
  flushBytes(index, out);
  pushTo(index + 1, piece, out);
}

/// A run of bytes is text as a whole, or one U+FFFD for each byte.
void DecodeText::flushBytes(size_t index, std::string &out) {
  std::string bytes = std::exchange(states[index].held, std::string());
  if (bytes.empty())
    return;
  if (findInvalidUtf8(bytes) == bytes.npos) {
    pushTo(index + 1, bytes, out);
    return;
  }
  for (size_t i = 0; i < bytes.size(); ++i)
    pushTo(index + 1, replacement, out);
}

void DecodeText::stripPiece(size_t index, std::string_view piece,
                            std::string &out) {
  const DecoderStep &step = (*steps)[index];
  const std::string &content = step.content;
  for (int64_t i = 0; i < step.stripStart; ++i) {
    if (piece.substr(0, content.size()) != content)
      break;
    piece.remove_prefix(content.size());
  }
  for (int64_t i = 0; i < step.stripStop; ++i) {
    if (piece.size() < content.size() ||
        piece.substr(piece.size() - content.size()) != content)
      break;
    piece.remove_suffix(content.size());
  }
  pushTo(index + 1, piece, out);
}

/// Drops up to stripStart characters in front, and keeps back up to stripStop
/// at the end, since they may turn out to be the last ones.
void DecodeText::stripFragment(size_t index, std::string_view piece,
                               std::string &out) {
  const DecoderStep &step = (*steps)[index];
  State &state = states[index];
  std::string text;
  for (size_t i = 0; i < piece.size();) {
    std::string_view scalar = piece.substr(i, scalarLength(piece[i]));
    i += scalar.size();
    bool strips = scalar == step.content;
    if (!state.inside && strips && state.count < step.stripStart) {
      ++state.count;
      continue;
    }
    state.inside = true;
    if (strips && state.trailing < step.stripStop) {
      ++state.trailing;
      continue;
    }
    if (!strips)
      for (; state.trailing > 0; --state.trailing)
        text += step.content;
    text += scalar;
  }
  if (!text.empty())
    pushTo(index + 1, text, out);
}

void DecodeText::replacePiece(size_t index, std::string_view piece,
                              std::string &out) {
  const DecoderStep &step = (*steps)[index];
  std::string text;
  // A pattern that gives up leaves the piece as it is.
  if (!step.pattern->replaceAll(piece, step.content, text).ok())
    text = piece;
  pushTo(index + 1, text, out);
}

/// Replaces a literal where it is complete and keeps back an end that may be
/// the beginning of one. An expression has to see all of its text.
void DecodeText::replaceFragment(size_t index, std::string_view piece,
                                 std::string &out) {
  State &state = states[index];
  state.held += piece;
  const std::string *literal = (*steps)[index].pattern->getLiteral();
  if (!literal)
    return;
  std::string_view held = state.held;
  size_t settled = 0;
  for (size_t at = held.find(*literal); at != held.npos;
       at = held.find(*literal, settled))
    settled = at + literal->size();
  size_t keep = std::min(literal->size() - 1, held.size() - settled);
  while (held.substr(held.size() - keep) != literal->substr(0, keep))
    --keep;
  std::string ready = state.held.substr(0, held.size() - keep);
  state.held.erase(0, ready.size());
  if (!ready.empty())
    replacePiece(index, ready, out);
}

} // namespace qlm::tokenizer
