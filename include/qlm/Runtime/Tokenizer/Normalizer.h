//===- Normalizer.h - Text rewriting before splitting -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_NORMALIZER_H
#define QLM_RUNTIME_TOKENIZER_NORMALIZER_H

#include "qlm/Runtime/Tokenizer/JsonNode.h"
#include "qlm/Runtime/Tokenizer/Pattern.h"

namespace qlm::tokenizer {

/// The Unicode normalization forms.
enum class NormalForm { Nfc, Nfd, Nfkc, Nfkd };

/// Appends the normal form of \p text (valid UTF-8) to \p out. Takes time
/// proportional to the text, with a sort of each run of combining marks.
Status normalizeUnicode(std::string_view text, NormalForm form,
                        std::string &out);

/// Appends \p text with each character replaced by its lower-case mapping,
/// which doesn't look at the characters around.
void lowercase(std::string_view text, std::string &out);

/// Reads `{"String": ...}` or `{"Regex": ...}`, the member `pattern` of \p
/// node.
Result<Pattern> readPattern(const JsonNode &node);

/// Reads the members `pattern` and `content` of a Replace. \p growth is how
/// many times longer the replacements read so far can make a text; a file
/// that asks for more than a thousand times is refused with Unsupported.
Status readReplace(const JsonNode &node, std::optional<Pattern> &pattern,
                   std::string &content, size_t &growth);

/// One step of a normalizer.
struct NormalizerStep {
  enum class Kind { Unicode, Lowercase, Prepend, Replace, Strip };
  Kind kind = Kind::Unicode;
  NormalForm form = NormalForm::Nfc;
  std::string content;            ///< Prepend, Replace
  std::optional<Pattern> pattern; ///< Replace
  bool stripLeft = false, stripRight = false;
};

/// The steps that the file's `normalizer` asks for, sequences flattened.
class Normalizer {
public:
  /// Reads NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip and
  /// Sequence. Errors: Unsupported (another type, named), Corrupt.
  static Result<Normalizer> read(const JsonNode &node);

  bool empty() const { return steps.empty(); }

  /// Rewrites \p text. \p keepsStart turns false when the first character was
  /// taken away, so that the result doesn't begin where the input began.
  Status apply(std::string &text, bool &keepsStart) const;

private:
  Status readInto(const JsonNode &node);

  std::vector<NormalizerStep> steps;
  size_t growth = 1;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_NORMALIZER_H
