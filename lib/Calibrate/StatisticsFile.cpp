//===- StatisticsFile.cpp - Writes statistics, pass by pass ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StatisticsFile.h"

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

using namespace qlm;
using Json = nlohmann::ordered_json;

static Status ioError(const std::string &path) {
  return Status(StatusCode::Io, "cannot write '" + path + "'");
}

/// The labels that an earlier run of \p identity noted in \p path.
static std::set<std::string> readDone(const std::string &path,
                                      const std::string &identity) {
  std::ifstream file(path);
  Json notes = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!notes.is_object() || notes.value("identity", Json()) != identity ||
      !notes.contains("done") || !notes["done"].is_array())
    return {};
  std::set<std::string> labels;
  for (const Json &label : notes["done"])
    if (label.is_string())
      labels.insert(label.get<std::string>());
  return labels;
}

Result<StatisticsFile>
StatisticsFile::open(const std::string &path, const std::string &identity,
                     const std::vector<Statistic> &tensors, int64_t tokens,
                     int64_t window) {
  StatisticsFile file;
  file.path = path;
  file.identity = identity;
  Json header;
  header["__metadata__"] = {{"tokens", std::to_string(tokens)},
                            {"window", std::to_string(window)}};
  int64_t bytes = 0;
  for (const Statistic &tensor : tensors) {
    int64_t end = bytes + 4 * tensor.elements();
    header[tensor.name] = {{"dtype", "F32"},
                           {"shape", tensor.shape},
                           {"data_offsets", {bytes, end}}};
    file.offsets[tensor.name] = bytes;
    bytes = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 8 + 63) / 64 * 64 - 8, ' ');
  auto first = static_cast<int64_t>(text.size()) + 8;
  for (auto &[name, offset] : file.offsets)
    offset += first;

  std::string partial = path + ".partial";
  std::error_code code;
  bool fits = std::filesystem::file_size(partial, code) ==
                  static_cast<uintmax_t>(first + bytes) &&
              !code;
  if (fits)
    file.done = readDone(partial + ".json", identity);
  file.resumed = !file.done.empty();
  if (!file.resumed) {
    std::ofstream created(partial, std::ios::binary | std::ios::trunc);
    auto length = static_cast<uint64_t>(text.size());
    created.write(reinterpret_cast<const char *>(&length), 8);
    created << text;
    if (!created.flush())
      return ioError(partial);
    created.close();
    std::filesystem::resize_file(partial, static_cast<uintmax_t>(first + bytes),
                                 code);
    if (code)
      return ioError(partial);
  }
  file.stream.open(partial, std::ios::binary | std::ios::in | std::ios::out);
  if (!file.stream)
    return ioError(partial);
  return file;
}

Status StatisticsFile::write(const std::string &label,
                             const std::vector<Statistic> &statistics,
                             const std::vector<std::vector<float>> &values) {
  for (size_t i = 0; i < statistics.size(); ++i) {
    stream.seekp(offsets.at(statistics[i].name));
    stream.write(reinterpret_cast<const char *>(values[i].data()),
                 static_cast<std::streamsize>(values[i].size() * 4));
  }
  if (!stream.flush())
    return ioError(path + ".partial");
  done.insert(label);
  return note();
}

Status StatisticsFile::note() {
  std::string notes = path + ".partial.json";
  std::ofstream file(notes + ".tmp", std::ios::trunc);
  file << Json{{"identity", identity}, {"done", done}}.dump();
  file.close();
  if (!file || std::rename((notes + ".tmp").c_str(), notes.c_str()) != 0)
    return ioError(notes);
  return Status();
}

Status StatisticsFile::finish() {
  stream.close();
  if (!stream || std::rename((path + ".partial").c_str(), path.c_str()) != 0)
    return ioError(path);
  std::remove((path + ".partial.json").c_str());
  return Status();
}
