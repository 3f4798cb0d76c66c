//===- PostProcessor.cpp - Tokens around an encoded text ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/PostProcessor.h"

#include <nlohmann/json.hpp>

namespace qlm::tokenizer {

/// Bounds what a file can make of each text: real templates add one or two.
static constexpr size_t maxAddedIds = 64;

Result<PostProcessor> PostProcessor::read(const JsonNode &node) {
  PostProcessor postProcessor;
  QLM_RETURN_IF_ERROR(postProcessor.readInto(node));
  return postProcessor;
}

Status PostProcessor::readInto(const JsonNode &node) {
  Result<std::string> type = node.getType();
  if (!type.ok())
    return type.status();
  if (*type == "Sequence") {
    Result<std::vector<JsonNode>> list = node.getList("processors");
    if (!list.ok())
      return list.status();
    for (const JsonNode &inner : *list)
      QLM_RETURN_IF_ERROR(readInto(inner));
    return Status();
  }
  if (*type == "TemplateProcessing")
    return readTemplate(node);
  if (*type == "ByteLevel")
    return Status();
  return node.error("post-processor '" + *type + "' is not handled",
                    StatusCode::Unsupported);
}

/// Reads the ids of the special token \p name from the table \p tokens.
static Status readSpecialToken(const JsonNode &tokens, const std::string &name,
                               std::vector<int32_t> &ids) {
  Result<std::optional<JsonNode>> entry = tokens.find(name.c_str());
  if (!entry.ok())
    return entry.status();
  if (!*entry)
    return tokens.error("has no '" + name + "', which the template uses");
  Result<std::vector<JsonNode>> list = (*entry)->getList("ids");
  if (!list.ok())
    return list.status();
  for (const JsonNode &element : *list) {
    std::optional<int32_t> id = readTokenId(*element);
    if (!id)
      return element.error("must be a whole number from 0 to " +
                           std::to_string(maxTokenId) + ", is " +
                           (*element).dump());
    ids.push_back(*id);
  }
  return Status();
}

Status PostProcessor::readTemplate(const JsonNode &node) {
  Result<std::vector<JsonNode>> list = node.getList("single");
  if (!list.ok())
    return list.status();
  Template items;
  size_t texts = 0, added = 0;
  for (const JsonNode &element : *list) {
    Item item;
    Result<std::optional<JsonNode>> text = element.find("Sequence");
    if (!text.ok())
      return text.status();
    if (*text) {
      Result<std::string> which = (*text)->getString("id");
      if (!which.ok())
        return which.status();
      if (*which != "A")
        return (*text)->error("a template for one text uses sequence '" +
                              *which + "'");
      item.isText = true;
      ++texts;
    } else {
      Result<JsonNode> special = element.need("SpecialToken");
      if (!special.ok())
        return special.status();
      Result<std::string> name = special->getString("id");
      if (!name.ok())
        return name.status();
      Result<JsonNode> tokens = node.need("special_tokens");
      if (!tokens.ok())
        return tokens.status();
      QLM_RETURN_IF_ERROR(readSpecialToken(*tokens, *name, item.ids));
      added += item.ids.size();
    }
    items.push_back(std::move(item));
  }
  if (texts != 1 || added > maxAddedIds)
    return node.error("template has the text " + std::to_string(texts) +
                      " times and " + std::to_string(added) +
                      " special ids, must have it once and at most " +
                      std::to_string(maxAddedIds));
  templates.push_back(std::move(items));
  return Status();
}

void PostProcessor::apply(bool addSpecialTokens,
                          std::vector<int32_t> &ids) const {
  // Each template has the text exactly once, so without its special tokens
  // it changes nothing.
  if (!addSpecialTokens)
    return;
  for (const Template &items : templates) {
    std::vector<int32_t> out;
    out.reserve(ids.size() + maxAddedIds);
    for (const Item &item : items) {
      const std::vector<int32_t> &source = item.isText ? ids : item.ids;
      out.insert(out.end(), source.begin(), source.end());
    }
    ids = std::move(out);
  }
}

} // namespace qlm::tokenizer
