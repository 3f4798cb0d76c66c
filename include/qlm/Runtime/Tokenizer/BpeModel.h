//===- BpeModel.h - Byte-pair encoding --------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_BPEMODEL_H
#define QLM_RUNTIME_TOKENIZER_BPEMODEL_H

#include "qlm/Runtime/Tokenizer/JsonNode.h"
#include "qlm/Runtime/Tokenizer/MergeTable.h"
#include "qlm/Runtime/Tokenizer/WordCache.h"

#include <array>
#include <memory>
#include <unordered_map>

namespace qlm::tokenizer {

/// The `model` of a tokenizer file: a vocabulary and ranked merges (Sennrich
/// et al., "Neural Machine Translation of Rare Words with Subword Units").
class BpeModel {
public:
  /// Reads a model of type BPE. Errors: Unsupported (another type, dropout),
  /// Corrupt (ids out of range or given twice, merges of unknown pieces).
  static Result<std::unique_ptr<BpeModel>> read(const JsonNode &node);

  /// Appends the ids of \p word (valid UTF-8). When \p spellAsBytes, the word
  /// is spelled in the byte alphabet first. Errors: InvalidArgument when a
  /// character needs the unknown token and the vocabulary has none.
  Status encode(std::string_view word, bool spellAsBytes,
                std::vector<int32_t> &ids) const;

  std::optional<int32_t> idOf(std::string_view piece) const;
  /// The piece of \p id, or null.
  const std::string *pieceOf(int32_t id) const;
  size_t size() const { return vocabulary.size(); }
  int32_t getLargestId() const { return largestId; }

private:
  Status readOptions(const JsonNode &node);
  Status readVocabulary(const JsonNode &node);
  Status readMerges(const JsonNode &node);
  Status addMerge(const JsonNode &node, size_t rank, const std::string &left,
                  const std::string &right);
  void prepareTables();

  Status encodeWord(std::string_view word, std::string_view spelled,
                    std::vector<int32_t> &ids) const;
  Status encodeNew(std::string_view spelled, std::vector<int32_t> &ids) const;
  int32_t findCharacter(std::string_view character) const;
  bool fallBackToBytes(std::string_view piece, std::vector<int32_t> &ids) const;

  /// Pieces by id; their strings are the keys of `vocabulary`.
  std::unordered_map<int32_t, std::string> pieces;
  std::unordered_map<std::string_view, int32_t> vocabulary;
  MergeTable merges;
  int32_t largestId = -1;

  std::optional<std::string> unknownToken;
  std::string subwordPrefix; ///< of every character but a word's first
  std::string wordSuffix;    ///< of a word's last character
  bool fuseUnknown = false, byteFallback = false, ignoreMerges = false;

  /// Ids of the characters below 0x400 and of `<0x00>` to `<0xFF>`; -1: none.
  std::array<int32_t, 0x400> smallCharacters;
  std::array<int32_t, 256> byteTokens;
  /// No merge crosses from another character to U+2581, so that a text may be
  /// cut there and its words looked up in the cache.
  bool cutsAtSpaceMark = false;

  mutable WordCache cache;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_BPEMODEL_H
