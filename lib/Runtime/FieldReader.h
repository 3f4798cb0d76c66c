//===- FieldReader.h - A JSON object's fields, first error kept -*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_FIELDREADER_H
#define QLM_LIB_RUNTIME_FIELDREADER_H

#include "qlm/Package/Format.h"
#include "qlm/Runtime/Tokenizer/JsonNode.h"

#include <nlohmann/json.hpp>

namespace qlm {

/// Reads fields of one JSON object. The first error stays in a status shared
/// by all readers of a document; after it, fields read as zero and empty.
class FieldReader {
public:
  FieldReader(tokenizer::JsonNode node, Status &status)
      : node(std::move(node)), status(&status) {}

  bool ok() const { return status->ok(); }
  const tokenizer::Json &operator*() const { return *node; }
  void fail(const std::string &what, StatusCode code = StatusCode::Corrupt) {
    if (ok())
      *status = node.error(what, code);
  }

  bool has(const char *key) {
    return (*node).is_object() && (*node).contains(key) &&
           !(*node)[key].is_null();
  }
  std::string string(const char *key) {
    return take(ok() ? node.getString(key) : Result<std::string>(*status));
  }
  bool boolean(const char *key) {
    return take(ok() ? node.getBool(key, std::nullopt) : Result<bool>(*status));
  }
  /// A whole number from \p low to \p high.
  int64_t integer(const char *key, int64_t low, int64_t high) {
    int64_t value =
        take(ok() ? node.getInteger(key, high) : Result<int64_t>(*status));
    if (ok() && value < low)
      fail(std::string(key) + " must be a whole number from " +
           std::to_string(low) + " to " + std::to_string(high) + ", is " +
           std::to_string(value));
    return value;
  }
  FieldReader object(const char *key) {
    Result<tokenizer::JsonNode> member =
        ok() ? node.need(key) : Result<tokenizer::JsonNode>(*status);
    if (!member.ok()) {
      keep(member.status());
      return FieldReader(node, *status);
    }
    FieldReader reader(member.take(), *status);
    if (!(*reader).is_object())
      reader.fail(std::string("must be an object, is ") +
                  (*reader).type_name());
    return reader;
  }
  std::vector<FieldReader> list(const char *key) {
    std::vector<FieldReader> readers;
    Result<std::vector<tokenizer::JsonNode>> nodes =
        ok() ? node.getList(key)
             : Result<std::vector<tokenizer::JsonNode>>(*status);
    if (!nodes.ok()) {
      keep(nodes.status());
      return readers;
    }
    for (tokenizer::JsonNode &element : *nodes)
      readers.emplace_back(std::move(element), *status);
    return readers;
  }

  /// Checks "format" and "version". Call it before other fields are read:
  /// another version may change what any of them means.
  void checkFormat(const std::string &format) {
    std::string name = has("format") ? string("format") : "";
    if (ok() && name != format)
      fail("format must be '" + format + "', is '" + name + "'");
    int64_t version = integer("version", 0, INT32_MAX);
    if (ok() && version != format::kFormatVersion)
      fail("package has version " + std::to_string(version) +
               ", this runtime reads version " +
               std::to_string(format::kFormatVersion) +
               "; recompile it with quantc",
           StatusCode::Unsupported);
  }

private:
  void keep(const Status &error) {
    if (ok())
      *status = error;
  }
  template <typename T> T take(Result<T> result) {
    if (result.ok())
      return result.take();
    keep(result.status());
    return T();
  }

  tokenizer::JsonNode node;
  Status *status;
};

} // namespace qlm

#endif // QLM_LIB_RUNTIME_FIELDREADER_H
