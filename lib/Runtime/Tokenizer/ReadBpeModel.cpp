//===- ReadBpeModel.cpp - A BPE model from JSON ---------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/BpeModel.h"
#include "qlm/Runtime/Tokenizer/Utf8.h"

#include <cstdio>
#include <nlohmann/json.hpp>

namespace qlm::tokenizer {

static constexpr std::string_view spaceMark = "\xE2\x96\x81";

Result<std::unique_ptr<BpeModel>> BpeModel::read(const JsonNode &node) {
  Result<std::optional<JsonNode>> type = node.find("type");
  if (!type.ok())
    return type.status();
  // Files from before the types were written have BPE's fields only.
  if (*type) {
    Result<std::string> name = node.getType();
    if (!name.ok())
      return name.status();
    if (*name != "BPE")
      return node.error("model type '" + *name + "' is not handled, only BPE",
                        StatusCode::Unsupported);
  }
  auto model = std::make_unique<BpeModel>();
  QLM_RETURN_IF_ERROR(model->readOptions(node));
  Result<JsonNode> vocab = node.need("vocab");
  if (!vocab.ok())
    return vocab.status();
  QLM_RETURN_IF_ERROR(model->readVocabulary(*vocab));
  Result<JsonNode> merges = node.need("merges");
  if (!merges.ok())
    return merges.status();
  QLM_RETURN_IF_ERROR(model->readMerges(*merges));
  model->prepareTables();
  return model;
}

Status BpeModel::readOptions(const JsonNode &node) {
  Result<std::optional<JsonNode>> dropout = node.find("dropout");
  if (!dropout.ok())
    return dropout.status();
  if (*dropout && !(***dropout == 0.0))
    return (*dropout)->error("must be null or 0: random merges are not handled",
                             StatusCode::Unsupported);

  for (auto [key, text] :
       {std::pair("continuing_subword_prefix", &subwordPrefix),
        std::pair("end_of_word_suffix", &wordSuffix)}) {
    Result<std::optional<JsonNode>> member = node.find(key);
    if (!member.ok())
      return member.status();
    if (!*member)
      continue;
    Result<std::string> value = node.getString(key);
    if (!value.ok())
      return value.status();
    *text = value.take();
  }
  Result<std::optional<JsonNode>> unknown = node.find("unk_token");
  if (!unknown.ok())
    return unknown.status();
  if (*unknown) {
    Result<std::string> value = node.getString("unk_token");
    if (!value.ok())
      return value.status();
    unknownToken = value.take();
  }
  for (auto [key, flag] : {std::pair("fuse_unk", &fuseUnknown),
                           std::pair("byte_fallback", &byteFallback),
                           std::pair("ignore_merges", &ignoreMerges)}) {
    Result<bool> value = node.getBool(key, false);
    if (!value.ok())
      return value.status();
    *flag = *value;
  }
  return Status();
}

Status BpeModel::readVocabulary(const JsonNode &node) {
  if (!(*node).is_object())
    return node.error(std::string("must be an object, is ") +
                      (*node).type_name());
  pieces.reserve((*node).size());
  vocabulary.reserve((*node).size());
  for (auto entry = (*node).begin(); entry != (*node).end(); ++entry) {
    std::optional<int32_t> id = readTokenId(entry.value());
    if (!id)
      return node.error(
          "id of '" + entry.key() + "' must be a whole number from 0 to " +
          std::to_string(maxTokenId) + ", is " + entry.value().dump());
    auto [slot, isNew] = pieces.emplace(*id, entry.key());
    if (!isNew)
      return node.error("id " + std::to_string(*id) + " is given to '" +
                        slot->second + "' and to '" + entry.key() + "'");
    vocabulary.emplace(slot->second, *id);
    largestId = std::max(largestId, *id);
  }
  return Status();
}

Status BpeModel::readMerges(const JsonNode &node) {
  const Json &list = *node;
  if (!list.is_array())
    return node.error(std::string("must be a list, is ") + list.type_name());
  merges.reserve(list.size());
  cutsAtSpaceMark = !ignoreMerges && subwordPrefix.empty() &&
                    wordSuffix.empty() && idOf(spaceMark);
  size_t rank = 0;
  for (const Json &entry : list) {
    if (entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
        entry[1].is_string()) {
      QLM_RETURN_IF_ERROR(addMerge(node, rank++,
                                   entry[0].get_ref<const std::string &>(),
                                   entry[1].get_ref<const std::string &>()));
      continue;
    }
    if (!entry.is_string())
      return node.error("entry " + std::to_string(rank) +
                        " must be a string or a pair of strings");
    const std::string &text = entry.get_ref<const std::string &>();
    if (text.rfind("#version", 0) == 0)
      continue;
    size_t space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos)
      return node.error("entry " + std::to_string(rank) +
                        " must be two pieces with one space between, is '" +
                        text + "'");
    QLM_RETURN_IF_ERROR(
        addMerge(node, rank++, text.substr(0, space), text.substr(space + 1)));
  }
  return Status();
}

Status BpeModel::addMerge(const JsonNode &node, size_t rank,
                          const std::string &left, const std::string &right) {
  auto unknown = [&](std::string_view piece) {
    return node.error("entry " + std::to_string(rank) + " needs piece '" +
                      std::string(piece) + "', which is not in the vocabulary");
  };
  if (right.size() < subwordPrefix.size())
    return node.error("entry " + std::to_string(rank) + " continues with '" +
                      right + "', which is shorter than the subword prefix '" +
                      subwordPrefix + "'");
  std::optional<int32_t> leftId = idOf(left);
  if (!leftId)
    return unknown(left);
  std::optional<int32_t> rightId = idOf(right);
  if (!rightId)
    return unknown(right);
  std::string joined = left + right.substr(subwordPrefix.size());
  std::optional<int32_t> id = idOf(joined);
  if (!id)
    return unknown(joined);
  merges.insert(*leftId, *rightId, {static_cast<int32_t>(rank), *id});

  auto endsInMark = [](std::string_view text) {
    return text.size() >= spaceMark.size() &&
           text.substr(text.size() - spaceMark.size()) == spaceMark;
  };
  if (right.rfind(spaceMark, 0) == 0 && !endsInMark(left))
    cutsAtSpaceMark = false;
  return Status();
}

void BpeModel::prepareTables() {
  for (size_t scalar = 0; scalar < smallCharacters.size(); ++scalar) {
    std::string text;
    appendScalar(text, static_cast<char32_t>(scalar));
    smallCharacters[scalar] = idOf(text).value_or(-1);
  }
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    byteTokens[byte] = idOf(name).value_or(-1);
  }
}

} // namespace qlm::tokenizer
