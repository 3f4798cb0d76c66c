//===- TokenizerParts.h - What a tokenizer is made of -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_TOKENIZER_TOKENIZERPARTS_H
#define QLM_LIB_RUNTIME_TOKENIZER_TOKENIZERPARTS_H

#include "qlm/Runtime/Tokenizer/AddedTokens.h"
#include "qlm/Runtime/Tokenizer/BpeModel.h"
#include "qlm/Runtime/Tokenizer/Decoder.h"
#include "qlm/Runtime/Tokenizer/Normalizer.h"
#include "qlm/Runtime/Tokenizer/PostProcessor.h"
#include "qlm/Runtime/Tokenizer/PreTokenizer.h"

namespace qlm::tokenizer {

/// The sections of a tokenizer file, in the order in which text passes them.
struct TokenizerParts {
  std::optional<AddedTokens> added; // always there once read
  Normalizer normalizer;
  PreTokenizer preTokenizer;
  std::unique_ptr<BpeModel> model; // never null once read
  PostProcessor postProcessor;
  Decoder decoder;

  /// What the decoder gets for \p id; null when there is nothing to decode.
  const std::string *decodedPiece(int32_t id, bool skipSpecialTokens) const;
};

/// Decodes ids one by one.
class DecodeStream {
public:
  DecodeStream(const TokenizerParts &parts, bool skipSpecialTokens)
      : parts(parts), text(parts.decoder),
        skipSpecialTokens(skipSpecialTokens) {}

  void push(int32_t id, std::string &out) {
    if (const std::string *piece = parts.decodedPiece(id, skipSpecialTokens))
      text.push(*piece, out);
  }
  void finish(std::string &out) { text.finish(out); }

private:
  const TokenizerParts &parts;
  DecodeText text;
  bool skipSpecialTokens;
};

} // namespace qlm::tokenizer

#endif // QLM_LIB_RUNTIME_TOKENIZER_TOKENIZERPARTS_H
