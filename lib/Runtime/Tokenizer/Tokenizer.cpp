//===- Tokenizer.cpp - Text to token ids and back -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer.h"

#include "TokenizerParts.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

namespace qlm {

using namespace tokenizer;

/// The largest files that are around have some 35 MB.
static constexpr size_t maxFileBytes = size_t(256) << 20;
/// Positions within a text have to fit 32 bits.
static constexpr size_t maxTextBytes = size_t(1) << 30;

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

Tokenizer::Tokenizer(std::unique_ptr<const TokenizerParts> parts)
    : parts(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const std::string &path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(
      std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file)
    return Status(errno == ENOENT ? StatusCode::NotFound : StatusCode::Io,
                  path + ": cannot be opened: " + std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  while (size_t count = std::fread(buffer, 1, sizeof(buffer), file.get())) {
    text.append(buffer, count);
    if (text.size() > maxFileBytes)
      break;
  }
  if (std::ferror(file.get()))
    return Status(StatusCode::Io,
                  path + ": cannot be read: " + std::strerror(errno));
  return parse(text, path);
}

/// Reads the member \p key of \p root with Part::read, if it is there.
template <typename Part>
static Status readPart(const JsonNode &root, const char *key, Part &part) {
  Result<std::optional<JsonNode>> node = root.find(key);
  if (!node.ok())
    return node.status();
  if (!*node)
    return Status();
  Result<Part> read = Part::read(**node);
  if (!read.ok())
    return read.status();
  part = read.take();
  return Status();
}

static Status readParts(const JsonNode &root, TokenizerParts &parts) {
  Result<std::optional<JsonNode>> version = root.find("version");
  if (!version.ok())
    return version.status();
  if (*version && ***version != "1.0")
    return (*version)->error("must be \"1.0\", is " + (***version).dump(),
                             StatusCode::Unsupported);
  Result<JsonNode> model = root.need("model");
  if (!model.ok())
    return model.status();
  Result<std::unique_ptr<BpeModel>> bpe = BpeModel::read(*model);
  if (!bpe.ok())
    return bpe.status();
  parts.model = bpe.take();
  QLM_RETURN_IF_ERROR(readPart(root, "normalizer", parts.normalizer));
  QLM_RETURN_IF_ERROR(readPart(root, "pre_tokenizer", parts.preTokenizer));
  QLM_RETURN_IF_ERROR(readPart(root, "post_processor", parts.postProcessor));
  QLM_RETURN_IF_ERROR(readPart(root, "decoder", parts.decoder));

  std::vector<JsonNode> entries;
  Result<std::optional<JsonNode>> list = root.find("added_tokens");
  if (!list.ok())
    return list.status();
  if (*list) {
    Result<std::vector<JsonNode>> elements = root.getList("added_tokens");
    if (!elements.ok())
      return elements.status();
    entries = elements.take();
  }
  Result<AddedTokens> added =
      AddedTokens::read(entries, *parts.model, parts.normalizer);
  if (!added.ok())
    return added.status();
  parts.added = added.take();
  return Status();
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::parse(std::string_view json,
                                                    const std::string &name) {
  if (json.size() > maxFileBytes)
    return Status(StatusCode::Unsupported, name + ": file has more than " +
                                               std::to_string(maxFileBytes) +
                                               " bytes");
  Result<Json> document = parseJson(json, name);
  if (!document.ok())
    return document.status();
  auto parts = std::make_unique<TokenizerParts>();
  QLM_RETURN_IF_ERROR(readParts(JsonNode(*document, name + ":"), *parts));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

//===----------------------------------------------------------------------===//
// Encoding
//===----------------------------------------------------------------------===//

/// Encodes \p text, a part between added tokens found in the raw input;
/// \p atStart: the input begins with it.
static Status encodePart(const TokenizerParts &parts, std::string_view text,
                         bool atStart, std::vector<int32_t> &ids) {
  std::string normalized(text);
  bool keepsStart = true;
  QLM_RETURN_IF_ERROR(parts.normalizer.apply(normalized, keepsStart));
  atStart = atStart && keepsStart;
  std::vector<TextPart> found;
  QLM_RETURN_IF_ERROR(
      parts.added->split(normalized, /*isNormalized=*/true, found));
  WordList list;
  for (const TextPart &part : found) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    list.text =
        normalized.substr(part.span.begin, part.span.end - part.span.begin);
    QLM_RETURN_IF_ERROR(
        parts.preTokenizer.apply(list, atStart && part.span.begin == 0));
    std::string_view words = list.text;
    for (const Word &word : list.words)
      QLM_RETURN_IF_ERROR(parts.model->encode(
          words.substr(word.span.begin, word.span.end - word.span.begin),
          list.spellAsBytes, ids));
  }
  return Status();
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text,
                                               bool addSpecialTokens) const {
  if (text.size() > maxTextBytes)
    return Status(StatusCode::InvalidArgument,
                  "text has " + std::to_string(text.size()) +
                      " bytes, at most " + std::to_string(maxTextBytes) +
                      " are handled");
  size_t invalid = findInvalidUtf8(text);
  if (invalid != text.npos)
    return Status(StatusCode::InvalidArgument,
                  "text is not valid UTF-8 at byte " + std::to_string(invalid) +
                      " of " + std::to_string(text.size()));
  std::vector<int32_t> ids;
  std::vector<TextPart> found;
  QLM_RETURN_IF_ERROR(parts->added->split(text, /*isNormalized=*/false, found));
  for (const TextPart &part : found) {
    if (part.id >= 0)
      ids.push_back(part.id);
    else
      QLM_RETURN_IF_ERROR(encodePart(
          *parts, text.substr(part.span.begin, part.span.end - part.span.begin),
          /*atStart=*/part.span.begin == 0, ids));
  }
  parts->postProcessor.apply(addSpecialTokens, ids);
  return ids;
}

//===----------------------------------------------------------------------===//
// Decoding and look-ups
//===----------------------------------------------------------------------===//

const std::string *TokenizerParts::decodedPiece(int32_t id,
                                                bool skipSpecialTokens) const {
  const AddedToken *token = added->find(id);
  if (!token)
    return model->pieceOf(id);
  // The `tokenizers` library compares the normalized spelling here, and so
  // shows special tokens that its normalizer changes; those are skipped too.
  if (skipSpecialTokens && token->special)
    return nullptr;
  return &token->normalizedContent;
}

std::string Tokenizer::decode(const int32_t *ids, size_t count,
                              bool skipSpecialTokens) const {
  DecodeStream stream(*parts, skipSpecialTokens);
  std::string out;
  for (size_t i = 0; i < count; ++i)
    stream.push(ids[i], out);
  stream.finish(out);
  return out;
}

int32_t Tokenizer::vocabularySize() const {
  return std::max(parts->model->getLargestId(), parts->added->getLargestId()) +
         1;
}

std::optional<int32_t> Tokenizer::tokenId(std::string_view token) const {
  if (std::optional<int32_t> id = parts->added->idOf(token))
    return id;
  return parts->model->idOf(token);
}

bool Tokenizer::isSpecial(int32_t id) const {
  const AddedToken *token = parts->added->find(id);
  return token && token->special;
}

IncrementalDecoder::IncrementalDecoder(const Tokenizer &tokenizer,
                                       bool skipSpecialTokens)
    : stream(std::make_unique<DecodeStream>(*tokenizer.parts,
                                            skipSpecialTokens)) {}
IncrementalDecoder::~IncrementalDecoder() = default;
IncrementalDecoder::IncrementalDecoder(IncrementalDecoder &&) noexcept =
    default;
IncrementalDecoder &
IncrementalDecoder::operator=(IncrementalDecoder &&) noexcept = default;

std::string IncrementalDecoder::push(int32_t id) {
  std::string out;
  stream->push(id, out);
  return out;
}

std::string IncrementalDecoder::finish() {
  std::string out;
  stream->finish(out);
  return out;
}

} // namespace qlm
