//===- JsonNode.cpp - Checked access to a JSON document -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/JsonNode.h"

#include <nlohmann/json.hpp>

namespace qlm::tokenizer {

/// Real files nest about ten levels.
static constexpr int maxDepth = 64;

/// Whether brackets outside strings nest deeper than maxDepth.
static bool nestsTooDeep(std::string_view text) {
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    switch (text[i]) {
    case '"':
      for (++i; i < text.size() && text[i] != '"'; ++i)
        if (text[i] == '\\')
          ++i;
      break;
    case '[':
    case '{':
      if (++depth > maxDepth)
        return true;
      break;
    case ']':
    case '}':
      --depth;
      break;
    default:
      break;
    }
  }
  return false;
}

namespace {
/// Finds where a text stops being JSON, without building anything.
struct ErrorFinder : nlohmann::json_sax<Json> {
  std::size_t offset = 0;
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t &) override { return true; }
  bool string(string_t &) override { return true; }
  bool binary(binary_t &) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool key(string_t &) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string &,
                   const nlohmann::detail::exception &) override {
    offset = position;
    return false;
  }
};
} // namespace

Result<Json> parseJson(std::string_view text, const std::string &name) {
  if (nestsTooDeep(text))
    return Status(StatusCode::Corrupt, name + ": JSON nests deeper than " +
                                           std::to_string(maxDepth) +
                                           " levels");
  Json document = Json::parse(text.begin(), text.end(), nullptr,
                              /*allow_exceptions=*/false);
  if (document.is_discarded()) {
    ErrorFinder finder;
    Json::sax_parse(text.begin(), text.end(), &finder);
    return Status(StatusCode::Corrupt, name + ": not valid JSON at offset " +
                                           std::to_string(finder.offset) +
                                           " of " +
                                           std::to_string(text.size()));
  }
  return document;
}

Status JsonNode::error(const std::string &what, StatusCode code) const {
  // The root's path is the file's name with a colon.
  return Status(code, path + (path.back() == ':' ? " " : ": ") + what);
}

Status JsonNode::error(const Status &status) const {
  return error(status.message(), status.getCode());
}

Result<std::optional<JsonNode>> JsonNode::find(const char *key) const {
  if (!value->is_object())
    return error(std::string("must be an object, is ") + value->type_name());
  auto member = value->find(key);
  if (member == value->end() || member->is_null())
    return std::optional<JsonNode>();
  bool isRoot = path.back() == ':';
  return std::optional<JsonNode>(
      JsonNode(*member, path + (isRoot ? " " : ".") + key));
}

Result<JsonNode> JsonNode::need(const char *key) const {
  Result<std::optional<JsonNode>> member = find(key);
  if (!member.ok())
    return member.status();
  if (!*member)
    return error(std::string("has no '") + key + "'");
  return std::move(**member);
}

Result<std::string> JsonNode::getString(const char *key) const {
  Result<JsonNode> member = need(key);
  if (!member.ok())
    return member.status();
  const Json &json = **member;
  if (!json.is_string())
    return member->error(std::string("must be a string, is ") +
                         json.type_name());
  return json.get<std::string>();
}

Result<bool> JsonNode::getBool(const char *key,
                               std::optional<bool> fallback) const {
  Result<std::optional<JsonNode>> member = find(key);
  if (!member.ok())
    return member.status();
  if (!*member) {
    if (fallback)
      return *fallback;
    return error(std::string("has no '") + key + "'");
  }
  const Json &json = ***member;
  if (!json.is_boolean())
    return (*member)->error(std::string("must be true or false, is ") +
                            json.type_name());
  return json.get<bool>();
}

Result<int64_t> JsonNode::getInteger(const char *key, int64_t high) const {
  Result<JsonNode> member = need(key);
  if (!member.ok())
    return member.status();
  const Json &json = **member;
  if (!json.is_number_unsigned() ||
      json.get<uint64_t>() > static_cast<uint64_t>(high))
    return member->error("must be a whole number from 0 to " +
                         std::to_string(high) + ", is " + json.dump());
  return static_cast<int64_t>(json.get<uint64_t>());
}

Result<std::vector<JsonNode>> JsonNode::getList(const char *key) const {
  Result<JsonNode> member = need(key);
  if (!member.ok())
    return member.status();
  const Json &json = **member;
  if (!json.is_array())
    return member->error(std::string("must be a list, is ") + json.type_name());
  std::vector<JsonNode> elements;
  elements.reserve(json.size());
  for (size_t i = 0; i < json.size(); ++i)
    elements.emplace_back(json[i],
                          member->path + "[" + std::to_string(i) + "]");
  return elements;
}

std::optional<int32_t> readTokenId(const Json &value) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(maxTokenId))
    return std::nullopt;
  return static_cast<int32_t>(value.get<uint64_t>());
}

} // namespace qlm::tokenizer
