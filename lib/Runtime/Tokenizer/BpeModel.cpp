//===- BpeModel.cpp - Byte-pair encoding ----------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/BpeModel.h"

#include "qlm/Runtime/Tokenizer/ByteAlphabet.h"
#include "qlm/Runtime/Tokenizer/Utf8.h"

namespace qlm::tokenizer {

static constexpr std::string_view spaceMark = "\xE2\x96\x81";

std::optional<int32_t> BpeModel::idOf(std::string_view piece) const {
  auto entry = vocabulary.find(piece);
  if (entry == vocabulary.end())
    return std::nullopt;
  return entry->second;
}

const std::string *BpeModel::pieceOf(int32_t id) const {
  auto entry = pieces.find(id);
  return entry == pieces.end() ? nullptr : &entry->second;
}

int32_t BpeModel::findCharacter(std::string_view character) const {
  if (character.size() <= 2) {
    size_t position = 0;
    char32_t scalar = nextScalar(character, position);
    if (scalar < smallCharacters.size())
      return smallCharacters[scalar];
  }
  return idOf(character).value_or(-1);
}

bool BpeModel::fallBackToBytes(std::string_view piece,
                               std::vector<int32_t> &ids) const {
  for (char byte : piece)
    if (byteTokens[static_cast<unsigned char>(byte)] < 0)
      return false;
  for (char byte : piece)
    ids.push_back(byteTokens[static_cast<unsigned char>(byte)]);
  return true;
}

Status BpeModel::encode(std::string_view word, bool spellAsBytes,
                        std::vector<int32_t> &ids) const {
  if (word.empty())
    return Status();
  if (spellAsBytes) {
    if (word.size() <= WordCache::maxWordBytes && cache.find(word, ids))
      return Status();
    std::string spelled;
    spellBytes(word, spelled);
    return encodeWord(word, spelled, ids);
  }
  if (!cutsAtSpaceMark) {
    if (word.size() <= WordCache::maxWordBytes && cache.find(word, ids))
      return Status();
    return encodeWord(word, word, ids);
  }
  // Each part begins with the marks before its word.
  for (size_t begin = 0, end; begin < word.size(); begin = end) {
    end = begin;
    while (word.substr(end, spaceMark.size()) == spaceMark)
      end += spaceMark.size();
    end = std::min(word.find(spaceMark, end), word.size());
    std::string_view part = word.substr(begin, end - begin);
    if (part.size() <= WordCache::maxWordBytes && cache.find(part, ids))
      continue;
    QLM_RETURN_IF_ERROR(encodeWord(part, part, ids));
  }
  return Status();
}

/// Encodes a word that the cache didn't have and puts it there.
Status BpeModel::encodeWord(std::string_view word, std::string_view spelled,
                            std::vector<int32_t> &ids) const {
  std::vector<int32_t> symbols;
  QLM_RETURN_IF_ERROR(encodeNew(spelled, symbols));
  ids.insert(ids.end(), symbols.begin(), symbols.end());
  if (word.size() <= WordCache::maxWordBytes)
    cache.store(word, symbols.data(), symbols.size());
  return Status();
}

Status BpeModel::encodeNew(std::string_view spelled,
                           std::vector<int32_t> &ids) const {
  if (ignoreMerges)
    if (std::optional<int32_t> whole = idOf(spelled)) {
      ids.push_back(*whole);
      return Status();
    }
  ids.reserve(spelled.size());
  int32_t unknownId = -1;
  // An unknown token waits here so that those right after can fuse with it.
  // Byte tokens don't end the wait; the library this equals behaves so.
  bool unknownWaits = false;
  bool affixes = !subwordPrefix.empty() || !wordSuffix.empty();
  std::string affixed;
  for (size_t i = 0; i < spelled.size();) {
    std::string_view character = spelled.substr(i, scalarLength(spelled[i]));
    bool first = i == 0;
    i += character.size();
    if (affixes) {
      affixed = (first ? "" : subwordPrefix) + std::string(character) +
                (i == spelled.size() ? wordSuffix : "");
      character = affixed;
    }
    int32_t id =
        affixes ? idOf(character).value_or(-1) : findCharacter(character);
    if (id >= 0) {
      if (unknownWaits)
        ids.push_back(unknownId);
      unknownWaits = false;
      ids.push_back(id);
      continue;
    }
    if (byteFallback && fallBackToBytes(character, ids))
      continue;
    if (!unknownToken)
      continue; // the model has no way to say it
    if (unknownWaits && fuseUnknown)
      continue;
    if (unknownWaits)
      ids.push_back(unknownId);
    unknownId = idOf(*unknownToken).value_or(-1);
    if (unknownId < 0)
      return Status(StatusCode::InvalidArgument,
                    "text has a character outside the vocabulary, and so is "
                    "the unknown token '" +
                        *unknownToken + "'");
    unknownWaits = true;
  }
  if (unknownWaits)
    ids.push_back(unknownId);
  merges.apply(ids);
  return Status();
}

} // namespace qlm::tokenizer
