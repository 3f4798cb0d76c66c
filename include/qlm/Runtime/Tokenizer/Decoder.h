//===- Decoder.h - Pieces to text, as a stream ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_DECODER_H
#define QLM_RUNTIME_TOKENIZER_DECODER_H

#include "qlm/Runtime/Tokenizer/JsonNode.h"
#include "qlm/Runtime/Tokenizer/Pattern.h"
#include "qlm/Runtime/Tokenizer/PreTokenizer.h"
#include "qlm/Runtime/Tokenizer/Utf8.h"

namespace qlm::tokenizer {

/// One step of a decoder. A step turns a list of pieces into a list of pieces;
/// after Fuse or ByteLevel the list is a single piece.
struct DecoderStep {
  enum class Kind {
    ByteLevel,    ///< the byte alphabet to bytes, broken ones repaired
    ByteFallback, ///< runs of `<0x..>` to characters
    Fuse,         ///< all pieces to one
    Strip,        ///< `content` off each piece's ends
    Replace,      ///< `pattern` by `content`
    Metaspace,    ///< `content` by a space, or by nothing in the first piece
    Join,         ///< a space between pieces, when the file has no decoder
  };
  Kind kind = Kind::Fuse;
  /// The input is one piece that arrives in fragments.
  bool fused = false;
  std::string content;
  std::optional<Pattern> pattern;
  int64_t stripStart = 0, stripStop = 0; ///< at most this many
  bool dropsFirst = false;               ///< Metaspace of a prepending scheme
};

/// The steps that the file's `decoder` asks for, sequences flattened.
class Decoder {
public:
  /// What a file without a decoder does: pieces with spaces between.
  Decoder();

  /// Reads ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip and
  /// Sequence. Errors: Unsupported (another type, named), Corrupt.
  static Result<Decoder> read(const JsonNode &node);

  const std::vector<DecoderStep> &getSteps() const { return steps; }

private:
  Status readInto(const JsonNode &node);

  std::vector<DecoderStep> steps;
  size_t growth = 1;
};

/// Runs a decoder piece by piece. Each step passes on what no later piece can
/// change and holds the rest back.
class DecodeText {
public:
  explicit DecodeText(const Decoder &decoder)
      : steps(&decoder.getSteps()), states(steps->size()) {}

  /// Takes a piece (valid UTF-8) and appends the text that is settled.
  void push(std::string_view piece, std::string &out);
  /// Appends the rest and begins anew.
  void finish(std::string &out);

private:
  struct State {
    std::string held;  ///< text or bytes that may still change
    int64_t count = 0; ///< pieces seen, or characters stripped or held
    int64_t trailing = 0;
    bool inside = false; ///< Strip: past what the start may lose
    Utf8Repair repair;
  };

  void pushTo(size_t index, std::string_view piece, std::string &out);
  void finishStep(size_t index, std::string &out);
  void byteFallback(size_t index, std::string_view piece, std::string &out);
  void flushBytes(size_t index, std::string &out);
  void stripPiece(size_t index, std::string_view piece, std::string &out);
  void stripFragment(size_t index, std::string_view piece, std::string &out);
  void replacePiece(size_t index, std::string_view piece, std::string &out);
  void replaceFragment(size_t index, std::string_view piece, std::string &out);

  const std::vector<DecoderStep> *steps;
  std::vector<State> states;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_DECODER_H
