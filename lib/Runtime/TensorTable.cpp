//===- TensorTable.cpp - Header of a safetensors file ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/TensorTable.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

using namespace qlm;
using Json = nlohmann::json;

/// The format's own limit.
static constexpr uint64_t maxHeaderBytes = 100'000'000;

/// Bytes of an element, 0 for a type that safetensors doesn't have.
static uint64_t elementBytes(const std::string &type) {
  static const std::pair<const char *, uint64_t> types[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},
      {"I32", 4},  {"F32", 4}, {"U64", 8}, {"I64", 8},     {"F64", 8}};
  for (const auto &[name, bytes] : types)
    if (type == name)
      return bytes;
  return 0;
}

static bool isWholeNumber(const Json &value) {
  return value.is_number_unsigned() &&
         value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
}

/// Reads one tensor's description; \p dataBegin .. \p fileSize is the data.
/// Returns what is wrong, or nothing.
static std::string readEntry(const Json &json, uint64_t dataBegin,
                             uint64_t fileSize, TensorEntry &entry) {
  if (!json.is_object() || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets"))
    return "must have dtype, shape and data_offsets";
  const Json &type = json["dtype"], &shape = json["shape"],
             &offsets = json["data_offsets"];
  if (!type.is_string() || !elementBytes(type.get<std::string>()))
    return "has unknown dtype " +
           type.dump(-1, ' ', false, Json::error_handler_t::replace);
  entry.type = type.get<std::string>();
  if (!shape.is_array() || shape.size() > 8 ||
      !std::all_of(shape.begin(), shape.end(), isWholeNumber))
    return "must have a shape of at most 8 whole numbers";
  uint64_t bytes = elementBytes(entry.type);
  for (const Json &dimension : shape) {
    entry.shape.push_back(dimension.get<int64_t>());
    if (__builtin_mul_overflow(bytes, dimension.get<uint64_t>(), &bytes))
      return "has a shape of more than 2^64 bytes";
  }
  if (!offsets.is_array() || offsets.size() != 2 ||
      !isWholeNumber(offsets[0]) || !isWholeNumber(offsets[1]))
    return "must have data_offsets [begin, end]";
  uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (begin > end || end > fileSize - dataBegin)
    return "has data_offsets " + std::to_string(begin) + " to " +
           std::to_string(end) + " outside the file's data of " +
           std::to_string(fileSize - dataBegin) + " bytes";
  if (end - begin != bytes)
    return "has " + std::to_string(end - begin) +
           " bytes of data for a shape of " + std::to_string(bytes);
  entry.offset = dataBegin + begin;
  entry.bytes = bytes;
  return "";
}

/// Names two tensors that share bytes, or nothing.
static std::string findOverlap(const TensorTable &table) {
  std::vector<std::pair<const TensorEntry *, const std::string *>> entries;
  for (const auto &[name, entry] : table)
    if (entry.bytes)
      entries.emplace_back(&entry, &name);
  std::sort(entries.begin(), entries.end(), [](const auto &a, const auto &b) {
    return a.first->offset < b.first->offset;
  });
  for (size_t i = 1; i < entries.size(); ++i)
    if (entries[i - 1].first->offset + entries[i - 1].first->bytes >
        entries[i].first->offset)
      return "tensors '" + *entries[i - 1].second + "' and '" +
             *entries[i].second + "' overlap";
  return "";
}

/// Parses the header; objects nest two levels, and a name that occurs twice
/// (which JSON readers resolve differently) makes it invalid.
static Json parseHeader(const char *text, size_t size, std::string &duplicate) {
  std::unordered_set<std::string> names;
  auto callback = [&](int depth, Json::parse_event_t event, Json &value) {
    if (depth == 1 && event == Json::parse_event_t::key &&
        !names.insert(value.get_ref<const std::string &>()).second)
      duplicate = value.get<std::string>();
    return depth < 8;
  };
  return Json::parse(text, text + size, callback, /*allow_exceptions=*/false);
}

Result<TensorTable> qlm::parseTensorTable(const void *data, size_t size,
                                          const std::string &name) {
  auto error = [&](const std::string &what) {
    return Status(StatusCode::Corrupt, name + ": " + what);
  };
  if (size < 8)
    return error("file of " + std::to_string(size) +
                 " bytes has no safetensors header");
  uint64_t headerBytes;
  std::memcpy(&headerBytes, data, 8);
  if (headerBytes > size - 8 || headerBytes > maxHeaderBytes)
    return error("header of " + std::to_string(headerBytes) +
                 " bytes does not fit in the file of " + std::to_string(size));
  std::string duplicate;
  Json header =
      parseHeader(static_cast<const char *>(data) + 8, headerBytes, duplicate);
  if (!header.is_object())
    return error("header is not a JSON object");
  if (!duplicate.empty())
    return error("tensor '" + duplicate + "' occurs twice");

  TensorTable table;
  for (const auto &member : header.items()) {
    if (member.key() == "__metadata__")
      continue;
    TensorEntry entry;
    std::string what = readEntry(member.value(), 8 + headerBytes, size, entry);
    if (!what.empty())
      return error("tensor '" + member.key() + "' " + what);
    table.emplace(member.key(), std::move(entry));
  }
  if (std::string what = findOverlap(table); !what.empty())
    return error(what);
  return table;
}
