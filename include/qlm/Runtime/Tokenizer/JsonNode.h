//===- JsonNode.h - Checked access to a JSON document -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_JSONNODE_H
#define QLM_RUNTIME_TOKENIZER_JSONNODE_H

#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlm::tokenizer {

using Json = nlohmann::json;

/// Ids stay below this, so that tables sized by an id stay small.
inline constexpr int64_t maxTokenId = (1 << 24) - 1;

/// Parses \p text. Errors: Corrupt when it is not JSON, or when it nests
/// deeper than any tokenizer file does; \p name stands for the file.
Result<Json> parseJson(std::string_view text, const std::string &name);

/// A value of a document and the way to it (`tokenizer.json: model.vocab`),
/// with which every error begins. The document must outlive it.
class JsonNode {
public:
  JsonNode(const Json &value, std::string path)
      : value(&value), path(std::move(path)) {}

  const Json &operator*() const { return *value; }

  Status error(const std::string &what,
               StatusCode code = StatusCode::Corrupt) const;
  /// \p status with this node's path in front.
  Status error(const Status &status) const;

  /// The member \p key; nothing when absent or null.
  Result<std::optional<JsonNode>> find(const char *key) const;
  /// The member \p key, which must be there.
  Result<JsonNode> need(const char *key) const;

  Result<std::string> getString(const char *key) const;
  Result<bool> getBool(const char *key, std::optional<bool> fallback) const;
  /// A whole number from 0 to \p high.
  Result<int64_t> getInteger(const char *key, int64_t high) const;
  Result<std::vector<JsonNode>> getList(const char *key) const;
  /// The member `type`, which names what a component is.
  Result<std::string> getType() const { return getString("type"); }

private:
  const Json *value;
  std::string path;
};

/// The id in \p value, or nothing when it isn't a whole number from 0 to
/// maxTokenId.
std::optional<int32_t> readTokenId(const Json &value);

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_JSONNODE_H
