//===- AddedTokens.cpp - Tokens beside the model's vocabulary -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/AddedTokens.h"

#include "qlm/Runtime/Tokenizer/Utf8.h"

#include <algorithm>

namespace qlm::tokenizer {

/// A search may walk this many bytes at each place of a text.
static constexpr size_t maxContentBytes = 4096;

//===----------------------------------------------------------------------===//
// TokenTrie
//===----------------------------------------------------------------------===//

const uint32_t *TokenTrie::child(const Node &node, char byte) const {
  auto value = static_cast<unsigned char>(byte);
  auto entry = std::lower_bound(
      node.children.begin(), node.children.end(), value,
      [](const auto &edge, unsigned char key) { return edge.first < key; });
  if (entry == node.children.end() || entry->first != value)
    return nullptr;
  return &entry->second;
}

int32_t TokenTrie::insert(std::string_view text, int32_t id) {
  starts[static_cast<unsigned char>(text[0])] = true;
  uint32_t node = 0;
  for (char byte : text) {
    if (const uint32_t *next = child(nodes[node], byte)) {
      node = *next;
      continue;
    }
    auto added = static_cast<uint32_t>(nodes.size());
    auto &children = nodes[node].children;
    std::pair<unsigned char, uint32_t> edge(byte, added);
    children.insert(std::lower_bound(children.begin(), children.end(), edge),
                    edge);
    nodes.emplace_back();
    node = added;
  }
  return std::exchange(nodes[node].id, id);
}

std::optional<TokenTrie::Match> TokenTrie::find(std::string_view text,
                                                size_t from) const {
  for (; from < text.size(); ++from) {
    if (!starts[static_cast<unsigned char>(text[from])])
      continue;
    std::optional<Match> longest;
    uint32_t node = 0;
    for (size_t i = from; i < text.size(); ++i) {
      const uint32_t *next = child(nodes[node], text[i]);
      if (!next)
        break;
      node = *next;
      if (nodes[node].id >= 0)
        longest = Match{{from, i + 1}, nodes[node].id};
    }
    if (longest)
      return longest;
  }
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

Result<AddedTokens> AddedTokens::read(const std::vector<JsonNode> &entries,
                                      const BpeModel &model,
                                      const Normalizer &normalizer) {
  // What `\w` means in the Unicode standard's annex 18, which counts joiners.
  Result<Pattern> wordCharacter = Pattern::regex(R"([\w\u200c\u200d])");
  if (!wordCharacter.ok())
    return wordCharacter.status();
  AddedTokens added(wordCharacter.take());
  added.nextId = static_cast<int32_t>(model.size());
  for (const JsonNode &entry : entries)
    QLM_RETURN_IF_ERROR(added.add(entry, model, normalizer));
  if (!entries.empty())
    QLM_RETURN_IF_ERROR(added.buildTries(entries.front()));
  return added;
}

Status AddedTokens::add(const JsonNode &node, const BpeModel &model,
                        const Normalizer &normalizer) {
  Result<int64_t> fileId = node.getInteger("id", maxTokenId);
  if (!fileId.ok())
    return fileId.status();
  Result<std::string> content = node.getString("content");
  if (!content.ok())
    return content.status();
  AddedToken token;
  token.content = content.take();
  for (auto [key, flag] : {std::pair("single_word", &token.singleWord),
                           std::pair("lstrip", &token.stripLeft),
                           std::pair("rstrip", &token.stripRight),
                           std::pair("normalized", &token.normalized),
                           std::pair("special", &token.special)}) {
    Result<bool> value = node.getBool(key, std::nullopt);
    if (!value.ok())
      return value.status();
    *flag = *value;
  }
  if (token.content.empty())
    return Status(); // such tokens are never found
  if (token.content.size() > maxContentBytes)
    return node.error("content has " + std::to_string(token.content.size()) +
                      " bytes, at most " + std::to_string(maxContentBytes) +
                      " are handled");
  token.normalizedContent = token.content;
  bool keepsStart = true;
  if (token.normalized)
    QLM_RETURN_IF_ERROR(normalizer.apply(token.normalizedContent, keepsStart));
  if (token.normalizedContent.empty() ||
      token.normalizedContent.size() > maxContentBytes)
    return node.error("content '" + token.content + "' has " +
                      std::to_string(token.normalizedContent.size()) +
                      " bytes after normalization, must have 1 to " +
                      std::to_string(maxContentBytes));

  std::optional<int32_t> id = idOf(token.content);
  if (!id)
    id = model.idOf(token.content);
  if (!id) {
    if (nextId > maxTokenId)
      return node.error("no id is left for '" + token.content + "'");
    id = nextId++;
  }
  largestId = std::max(largestId, *id);
  ids[token.content] = *id;
  tokens.insert_or_assign(*id, std::move(token));
  return Status();
}

Status AddedTokens::buildTries(const JsonNode &node) {
  for (const auto &[id, token] : tokens) {
    TokenTrie &trie = token.normalized ? normalizedTrie : rawTrie;
    int32_t other = trie.insert(token.normalizedContent, id);
    if (other >= 0)
      return node.error("tokens '" + token.content + "' and '" +
                        tokens.at(other).content +
                        "' are the same after normalization");
  }
  return Status();
}

std::optional<int32_t> AddedTokens::idOf(std::string_view content) const {
  auto entry = ids.find(std::string(content));
  if (entry == ids.end())
    return std::nullopt;
  return entry->second;
}

const AddedToken *AddedTokens::find(int32_t id) const {
  auto entry = tokens.find(id);
  return entry == tokens.end() ? nullptr : &entry->second;
}

//===----------------------------------------------------------------------===//
// Splitting
//===----------------------------------------------------------------------===//

Status AddedTokens::touchesWord(std::string_view text, Span match,
                                bool &touches) const {
  std::string_view before, after;
  if (match.begin > 0) {
    size_t start = previousScalar(text, match.begin);
    before = text.substr(start, match.begin - start);
  }
  if (match.end < text.size())
    after = text.substr(match.end, scalarLength(text[match.end]));
  std::vector<Span> found;
  QLM_RETURN_IF_ERROR(wordCharacter.findAll(before, found));
  touches = !found.empty();
  QLM_RETURN_IF_ERROR(wordCharacter.findAll(after, found));
  touches = touches || !found.empty();
  return Status();
}

/// Where the white space that ends at \p end begins, but not before \p floor.
static size_t spaceStart(std::string_view text, size_t end, size_t floor) {
  while (end > floor) {
    size_t start = previousScalar(text, end), position = start;
    if (!isWhiteSpace(nextScalar(text, position)))
      break;
    end = start;
  }
  return end;
}

static size_t spaceEnd(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    size_t position = begin;
    if (!isWhiteSpace(nextScalar(text, position)))
      break;
    begin = position;
  }
  return begin;
}

Status AddedTokens::split(std::string_view text, bool isNormalized,
                          std::vector<TextPart> &parts) const {
  parts.clear();
  const TokenTrie &trie = isNormalized ? normalizedTrie : rawTrie;
  size_t done = 0;
  // White space known to reach from `spaceBegin` to `spaceStop`: tokens made
  // of white space would otherwise have the rest measured after each of them.
  size_t spaceBegin = 0, spaceStop = 0;
  std::optional<TokenTrie::Match> match;
  for (size_t from = 0; !trie.empty(); from = match->span.end) {
    match = trie.find(text, from);
    if (!match)
      break;
    const AddedToken &token = tokens.at(match->id);
    auto [begin, end] = match->span;
    if (token.singleWord) {
      bool touches = false;
      QLM_RETURN_IF_ERROR(touchesWord(text, match->span, touches));
      if (touches)
        continue;
    }
    if (token.stripLeft)
      begin = begin <= done ? done : spaceStart(text, begin, done);
    if (token.stripRight) {
      if (end < spaceBegin || end >= spaceStop) {
        spaceBegin = end;
        spaceStop = spaceEnd(text, end);
      }
      end = std::max(end, spaceStop);
    }
    // The token before may have stripped all that this one would cover.
    if (begin >= end)
      continue;
    if (done < begin)
      parts.push_back({{done, begin}, -1});
    parts.push_back({{begin, end}, match->id});
    done = end;
  }
  if (done < text.size())
    parts.push_back({{done, text.size()}, -1});
  return Status();
}

} // namespace qlm::tokenizer
