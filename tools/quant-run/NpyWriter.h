//===- NpyWriter.h - Writes NumPy's files -----------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANT_RUN_NPYWRITER_H
#define QLM_TOOLS_QUANT_RUN_NPYWRITER_H

#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <cstdio>
#include <string>

namespace qlm::tool {

/// Writes a float32 matrix row by row in NumPy's format 1.0. The file gets its
/// name only in close(); a writer dropped before leaves nothing behind.
class NpyWriter {
public:
  ~NpyWriter();
  Status open(const std::string &path, int64_t rows, int64_t columns);
  void write(const float *values, int64_t count);
  Status close();

private:
  Status fail(const std::string &what);

  std::string path, temporary;
  std::FILE *file = nullptr;
};

} // namespace qlm::tool

#endif // QLM_TOOLS_QUANT_RUN_NPYWRITER_H
