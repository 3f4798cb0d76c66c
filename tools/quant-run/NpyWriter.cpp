//===- NpyWriter.cpp - Writes NumPy's files -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "NpyWriter.h"

#include <cerrno>
#include <cstring>
#include <unistd.h>

using namespace qlm;
using namespace qlm::tool;

NpyWriter::~NpyWriter() {
  if (!file)
    return;
  std::fclose(file);
  std::remove(temporary.c_str());
}

Status NpyWriter::fail(const std::string &what) {
  return Status(StatusCode::Io,
                path + ": " + what + ": " + std::strerror(errno));
}

Status NpyWriter::open(const std::string &newPath, int64_t rows,
                       int64_t columns) {
  path = newPath;
  temporary = path + ".tmp-" + std::to_string(getpid());
  file = std::fopen(temporary.c_str(), "wb");
  if (!file)
    return fail("cannot write");
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(rows) + ", " + std::to_string(columns) +
                       "), }";
  // Magic, version and length take 10 bytes; data begins at a multiple of 64.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  unsigned char prefix[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
  prefix[8] = static_cast<unsigned char>(header.size() & 0xff);
  prefix[9] = static_cast<unsigned char>(header.size() >> 8);
  std::fwrite(prefix, 1, sizeof(prefix), file);
  std::fwrite(header.data(), 1, header.size(), file);
  return Status();
}

void NpyWriter::write(const float *values, int64_t count) {
  std::fwrite(values, sizeof(float), static_cast<size_t>(count), file);
}

Status NpyWriter::close() {
  bool failed = std::ferror(file) != 0;
  failed |= std::fclose(file) != 0;
  file = nullptr;
  Status status;
  if (failed || std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = fail("cannot write");
    std::remove(temporary.c_str());
  }
  return status;
}
