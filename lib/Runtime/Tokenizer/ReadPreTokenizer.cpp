//===- ReadPreTokenizer.cpp - A pre-tokenizer from JSON -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/Normalizer.h"
#include "qlm/Runtime/Tokenizer/PreTokenizer.h"
#include "qlm/Runtime/Tokenizer/Utf8.h"

namespace qlm::tokenizer {

/// How GPT-2 splits text: ByteLevel with `use_regex`.
static constexpr std::string_view gpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Result<PreTokenizer> PreTokenizer::read(const JsonNode &node) {
  PreTokenizer preTokenizer;
  QLM_RETURN_IF_ERROR(preTokenizer.readInto(node));
  return preTokenizer;
}

static Result<SplitBehavior> readBehavior(const JsonNode &node) {
  Result<std::string> name = node.getString("behavior");
  if (!name.ok())
    return name.status();
  if (*name == "Removed")
    return SplitBehavior::Removed;
  if (*name == "Isolated")
    return SplitBehavior::Isolated;
  if (*name == "MergedWithPrevious")
    return SplitBehavior::MergedWithPrevious;
  if (*name == "MergedWithNext")
    return SplitBehavior::MergedWithNext;
  if (*name == "Contiguous")
    return SplitBehavior::Contiguous;
  return node.error("split behavior '" + *name + "' is not handled",
                    StatusCode::Unsupported);
}

Status PreTokenizer::addSplit(std::string_view expression,
                              SplitBehavior behavior) {
  Result<Pattern> pattern = Pattern::regex(expression);
  if (!pattern.ok())
    return pattern.status();
  PreTokenizerStep step;
  step.pattern = pattern.take();
  step.behavior = behavior;
  steps.push_back(std::move(step));
  return Status();
}

Status PreTokenizer::readInto(const JsonNode &node) {
  Result<std::string> type = node.getType();
  if (!type.ok())
    return type.status();
  if (*type == "Sequence") {
    Result<std::vector<JsonNode>> list = node.getList("pretokenizers");
    if (!list.ok())
      return list.status();
    for (const JsonNode &inner : *list)
      QLM_RETURN_IF_ERROR(readInto(inner));
    return Status();
  }
  // Each of these may double a text that is split to characters; files have
  // one, and a long chain would exhaust the memory.
  constexpr int maxGrowingSteps = 4;
  if ((*type == "ByteLevel" || *type == "Metaspace") &&
      ++growingSteps > maxGrowingSteps)
    return node.error("more than " + std::to_string(maxGrowingSteps) +
                          " ByteLevel and Metaspace pre-tokenizers",
                      StatusCode::Unsupported);
  if (*type == "ByteLevel")
    return readByteLevel(node);
  if (*type == "Split")
    return readSplit(node);
  if (*type == "Metaspace")
    return readMetaspaceSteps(node);
  if (*type == "Digits") {
    Result<bool> individual = node.getBool("individual_digits", std::nullopt);
    if (!individual.ok())
      return individual.status();
    return addSplit(R"(\p{N})", *individual ? SplitBehavior::Isolated
                                            : SplitBehavior::Contiguous);
  }
  if (*type == "Punctuation") {
    Result<std::optional<JsonNode>> given = node.find("behavior");
    if (!given.ok())
      return given.status();
    Result<SplitBehavior> behavior = SplitBehavior::Isolated;
    if (*given)
      behavior = readBehavior(node);
    if (!behavior.ok())
      return behavior.status();
    return addSplit(R"([!-/:-@\[-`{-~\p{P}])", *behavior);
  }
  if (*type == "WhitespaceSplit")
    return addSplit(R"(\s)", SplitBehavior::Removed);
  return node.error("pre-tokenizer '" + *type + "' is not handled",
                    StatusCode::Unsupported);
}

Status PreTokenizer::readByteLevel(const JsonNode &node) {
  Result<bool> prefix = node.getBool("add_prefix_space", std::nullopt);
  if (!prefix.ok())
    return prefix.status();
  Result<bool> splits = node.getBool("use_regex", true);
  if (!splits.ok())
    return splits.status();
  PreTokenizerStep step;
  if (*prefix) {
    step.kind = PreTokenizerStep::Kind::PrefixSpace;
    steps.push_back(std::move(step));
  }
  if (*splits)
    QLM_RETURN_IF_ERROR(addSplit(gpt2Words, SplitBehavior::Isolated));
  step = PreTokenizerStep();
  step.kind = PreTokenizerStep::Kind::SpellBytes;
  steps.push_back(std::move(step));
  return Status();
}

Status PreTokenizer::readSplit(const JsonNode &node) {
  PreTokenizerStep step;
  Result<Pattern> pattern = readPattern(node);
  if (!pattern.ok())
    return pattern.status();
  step.pattern = pattern.take();
  Result<SplitBehavior> behavior = readBehavior(node);
  if (!behavior.ok())
    return behavior.status();
  step.behavior = *behavior;
  Result<bool> invert = node.getBool("invert", std::nullopt);
  if (!invert.ok())
    return invert.status();
  step.invert = *invert;
  steps.push_back(std::move(step));
  return Status();
}

Status PreTokenizer::readMetaspaceSteps(const JsonNode &node) {
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::Metaspace;
  QLM_RETURN_IF_ERROR(readMetaspace(node, step.mark, step.scheme));
  Result<bool> splits = node.getBool("split", true);
  if (!splits.ok())
    return splits.status();
  PreTokenizerStep split;
  split.pattern = Pattern::literal(step.mark);
  split.behavior = SplitBehavior::MergedWithNext;
  steps.push_back(std::move(step));
  if (*splits)
    steps.push_back(std::move(split));
  return Status();
}

Status readMetaspace(const JsonNode &node, std::string &mark,
                     PrependScheme &scheme) {
  Result<std::string> replacement = node.getString("replacement");
  if (!replacement.ok())
    return replacement.status();
  mark = replacement.take();
  if (mark.empty() || scalarLength(mark[0]) != mark.size())
    return node.error("replacement must be one character, is '" + mark + "'");
  scheme = PrependScheme::Always;
  Result<std::optional<JsonNode>> given = node.find("prepend_scheme");
  if (!given.ok())
    return given.status();
  if (*given) {
    Result<std::string> name = node.getString("prepend_scheme");
    if (!name.ok())
      return name.status();
    if (*name == "first")
      scheme = PrependScheme::First;
    else if (*name == "never")
      scheme = PrependScheme::Never;
    else if (*name != "always")
      return node.error("prepend_scheme '" + *name + "' is not handled",
                        StatusCode::Unsupported);
  }
  Result<bool> prefix = node.getBool("add_prefix_space", true);
  if (!prefix.ok())
    return prefix.status();
  if (!*prefix && *given && scheme != PrependScheme::Never)
    return node.error("add_prefix_space is false, but prepend_scheme is not "
                      "'never'");
  if (!*prefix)
    scheme = PrependScheme::Never;
  return Status();
}

} // namespace qlm::tokenizer
