//===- Normalizer.cpp - Text rewriting before splitting -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/Normalizer.h"

#include "qlm/Runtime/Tokenizer/Utf8.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace qlm::tokenizer {

Result<Pattern> readPattern(const JsonNode &node) {
  Result<JsonNode> pattern = node.need("pattern");
  if (!pattern.ok())
    return pattern.status();
  Result<std::optional<JsonNode>> literal = pattern->find("String");
  if (!literal.ok())
    return literal.status();
  if (*literal) {
    Result<std::string> text = pattern->getString("String");
    if (!text.ok())
      return text.status();
    // An empty literal matches between all characters, as the expression.
    if (!text->empty())
      return Pattern::literal(text.take());
    return Pattern::regex("");
  }
  Result<std::string> text = pattern->getString("Regex");
  if (!text.ok())
    return text.status();
  Result<Pattern> compiled = Pattern::regex(*text);
  if (!compiled.ok())
    return pattern->error(compiled.status());
  return compiled;
}

Status readReplace(const JsonNode &node, std::optional<Pattern> &pattern,
                   std::string &content, size_t &growth) {
  constexpr size_t maxGrowth = 1024;
  Result<Pattern> read = readPattern(node);
  if (!read.ok())
    return read.status();
  pattern = read.take();
  Result<std::string> text = node.getString("content");
  if (!text.ok())
    return text.status();
  content = text.take();
  // An expression may match between all characters.
  const std::string *literal = pattern->getLiteral();
  size_t factor = literal
                      ? (content.size() + literal->size() - 1) / literal->size()
                      : content.size() + 1;
  if (factor > maxGrowth || growth * std::max<size_t>(factor, 1) > maxGrowth)
    return node.error("replacements can make a text more than " +
                          std::to_string(maxGrowth) + " times longer",
                      StatusCode::Unsupported);
  growth *= std::max<size_t>(factor, 1);
  return Status();
}

Result<Normalizer> Normalizer::read(const JsonNode &node) {
  Normalizer normalizer;
  QLM_RETURN_IF_ERROR(normalizer.readInto(node));
  return normalizer;
}

Status Normalizer::readInto(const JsonNode &node) {
  Result<std::string> type = node.getType();
  if (!type.ok())
    return type.status();
  using Kind = NormalizerStep::Kind;
  NormalizerStep step;
  if (*type == "Sequence") {
    Result<std::vector<JsonNode>> list = node.getList("normalizers");
    if (!list.ok())
      return list.status();
    for (const JsonNode &inner : *list)
      QLM_RETURN_IF_ERROR(readInto(inner));
    return Status();
  }
  if (*type == "NFC" || *type == "NFD" || *type == "NFKC" || *type == "NFKD") {
    bool compose = type->back() == 'C';
    step.form = type->size() == 4
                    ? (compose ? NormalForm::Nfkc : NormalForm::Nfkd)
                    : (compose ? NormalForm::Nfc : NormalForm::Nfd);
  } else if (*type == "Lowercase") {
    step.kind = Kind::Lowercase;
  } else if (*type == "Prepend") {
    step.kind = Kind::Prepend;
    Result<std::string> content = node.getString("prepend");
    if (!content.ok())
      return content.status();
    step.content = content.take();
  } else if (*type == "Replace") {
    step.kind = Kind::Replace;
    QLM_RETURN_IF_ERROR(readReplace(node, step.pattern, step.content, growth));
  } else if (*type == "Strip") {
    step.kind = Kind::Strip;
    Result<bool> left = node.getBool("strip_left", std::nullopt);
    if (!left.ok())
      return left.status();
    Result<bool> right = node.getBool("strip_right", std::nullopt);
    if (!right.ok())
      return right.status();
    step.stripLeft = *left;
    step.stripRight = *right;
  } else {
    return node.error("normalizer '" + *type + "' is not handled",
                      StatusCode::Unsupported);
  }
  steps.push_back(std::move(step));
  return Status();
}

static void strip(std::string &text, const NormalizerStep &step,
                  bool &keepsStart) {
  size_t end = text.size();
  while (step.stripRight && end > 0) {
    size_t begin = previousScalar(text, end), position = begin;
    if (!isWhiteSpace(nextScalar(text, position)))
      break;
    end = begin;
  }
  size_t begin = 0;
  while (step.stripLeft && begin < end) {
    size_t position = begin;
    if (!isWhiteSpace(nextScalar(text, position)))
      break;
    begin = position;
  }
  keepsStart = keepsStart && begin == 0;
  text = text.substr(begin, end - begin);
}

/// Replaces as Pattern::replaceAll does, and follows what the library that
/// this equals takes for the origin of replaced text: that of the last
/// replaced character, or the input's start for an insertion there.
static Status replace(const std::string &text, const NormalizerStep &step,
                      std::string &out, bool &keepsStart) {
  std::vector<Span> matches;
  QLM_RETURN_IF_ERROR(step.pattern->findAll(text, matches));
  size_t done = 0;
  for (const Span &match : matches) {
    out.append(text, done, match.begin - done);
    out += step.content;
    done = match.end;
  }
  out.append(text, done, text.size() - done);
  if (matches.empty() || matches[0].begin > 0)
    return Status();
  size_t end = matches[0].end;
  if (end == 0)
    keepsStart = keepsStart || !step.content.empty();
  else
    keepsStart =
        keepsStart && !step.content.empty() && end == scalarLength(text[0]);
  return Status();
}

Status Normalizer::apply(std::string &text, bool &keepsStart) const {
  std::string out;
  for (const NormalizerStep &step : steps) {
    out.clear();
    switch (step.kind) {
    case NormalizerStep::Kind::Unicode:
      if (isAscii(text))
        continue;
      QLM_RETURN_IF_ERROR(normalizeUnicode(text, step.form, out));
      break;
    case NormalizerStep::Kind::Lowercase:
      lowercase(text, out);
      break;
    case NormalizerStep::Kind::Prepend:
      if (text.empty())
        continue;
      out = step.content + text;
      break;
    case NormalizerStep::Kind::Replace:
      QLM_RETURN_IF_ERROR(replace(text, step, out, keepsStart));
      break;
    case NormalizerStep::Kind::Strip:
      strip(text, step, keepsStart);
      continue;
    }
    text.swap(out);
  }
  return Status();
}

} // namespace qlm::tokenizer
