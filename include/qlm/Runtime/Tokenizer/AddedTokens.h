//===- AddedTokens.h - Tokens beside the model's vocabulary -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_ADDEDTOKENS_H
#define QLM_RUNTIME_TOKENIZER_ADDEDTOKENS_H

#include "qlm/Runtime/Tokenizer/BpeModel.h"
#include "qlm/Runtime/Tokenizer/Normalizer.h"

#include <unordered_map>

namespace qlm::tokenizer {

/// An entry of the file's `added_tokens`.
struct AddedToken {
  std::string content;
  /// What the token looks like in normalized text; `content` if not normalized.
  std::string normalizedContent;
  bool singleWord = false; ///< only where no word character touches it
  bool stripLeft = false;  ///< takes the white space before it along
  bool stripRight = false; ///< takes the white space after it along
  bool normalized = false; ///< found in normalized text, not in the raw one
  bool special = false;    ///< skipped when decoding
};

/// Finds the leftmost longest of a set of strings.
class TokenTrie {
public:
  /// Adds \p text, which isn't empty. Returns the id that has this text
  /// already, or -1.
  int32_t insert(std::string_view text, int32_t id);
  bool empty() const { return nodes.size() == 1; }

  struct Match {
    Span span;
    int32_t id;
  };
  /// The first match that begins at \p from or later; the longest there.
  std::optional<Match> find(std::string_view text, size_t from) const;

private:
  struct Node {
    int32_t id = -1;
    std::vector<std::pair<unsigned char, uint32_t>> children; // sorted
  };
  const uint32_t *child(const Node &node, char byte) const;

  std::vector<Node> nodes = std::vector<Node>(1);
  std::array<bool, 256> starts = {};
};

/// A part of a text: an added token, or text between them (id -1).
struct TextPart {
  Span span;
  int32_t id = -1;
};

/// The added tokens of a file and how they are found in text.
class AddedTokens {
public:
  /// Reads the list \p entries. As in the `tokenizers` library, a token whose
  /// content the model knows has the model's id, another takes the next free
  /// one; the ids of the file aren't used. Errors: Corrupt.
  static Result<AddedTokens> read(const std::vector<JsonNode> &entries,
                                  const BpeModel &model,
                                  const Normalizer &normalizer);

  /// Replaces \p parts by the parts of \p text, of raw text the tokens that
  /// aren't normalized, of normalized text those that are.
  Status split(std::string_view text, bool isNormalized,
               std::vector<TextPart> &parts) const;

  std::optional<int32_t> idOf(std::string_view content) const;
  /// The added token of \p id, or null.
  const AddedToken *find(int32_t id) const;
  int32_t getLargestId() const { return largestId; }

private:
  explicit AddedTokens(Pattern wordCharacter)
      : wordCharacter(std::move(wordCharacter)) {}
  Status add(const JsonNode &node, const BpeModel &model,
             const Normalizer &normalizer);
  Status buildTries(const JsonNode &node);
  Status touchesWord(std::string_view text, Span match, bool &touches) const;

  std::unordered_map<int32_t, AddedToken> tokens;
  std::unordered_map<std::string, int32_t> ids;
  TokenTrie rawTrie, normalizedTrie;
  Pattern wordCharacter;
  int32_t nextId = 0;
  int32_t largestId = -1;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_ADDEDTOKENS_H
