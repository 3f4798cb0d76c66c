//===- StatisticsFile.cpp - Writes statistics, pass by pass ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StatisticsFile.h"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unistd.h>

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
  file.file = std::make_unique<Descriptor>(
      ::open(partial.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.file->number < 0)
    return ioError(partial);
  return file;
}

StatisticsFile::Descriptor::~Descriptor() {
  if (number >= 0)
    ::close(number);
}

Status StatisticsFile::writeElements(const std::string &name, int64_t first,
                                     const float *values, int64_t count) {
  auto *bytes = reinterpret_cast<const char *>(values);
  int64_t place = offsets.at(name) + 4 * first;
  for (int64_t done = 0; done < 4 * count;) {
    ssize_t written =
        ::pwrite(file->number, bytes + done,
                 static_cast<size_t>(4 * count - done), place + done);
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return ioError(path + ".partial");
    done += written;
  }
  return Status();
}

Status StatisticsFile::write(const std::string &label,
                             const std::vector<Statistic> &statistics,
                             const std::vector<std::vector<float>> &values) {
  for (size_t i = 0; i < statistics.size(); ++i)
    QLM_RETURN_IF_ERROR(writeElements(statistics[i].name, 0, values[i].data(),
                                      static_cast<int64_t>(values[i].size())));
  std::lock_guard<std::mutex> lock(*mutex);
  done.insert(label);
  return note();
}

Status StatisticsFile::note() {
  std::string notes = path + ".partial.json";
  std::ofstream stream(notes + ".tmp", std::ios::trunc);
  stream << Json{{"identity", identity}, {"done", done}}.dump();
  stream.close();
  if (!stream || std::rename((notes + ".tmp").c_str(), notes.c_str()) != 0)
    return ioError(notes);
  return Status();
}

Status StatisticsFile::finish() {
  int closed = ::close(file->number);
  file->number = -1;
  if (closed != 0 ||
      std::rename((path + ".partial").c_str(), path.c_str()) != 0)
    return ioError(path);
  std::remove((path + ".partial.json").c_str());
  return Status();
}
