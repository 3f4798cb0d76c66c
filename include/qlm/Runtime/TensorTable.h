//===- TensorTable.h - Header of a safetensors file -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TENSORTABLE_H
#define QLM_RUNTIME_TENSORTABLE_H

#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace qlm {

/// Where a tensor lies in its file.
struct TensorEntry {
  std::string type; ///< safetensors' name of the element type, e.g. "F32"
  std::vector<int64_t> shape;
  uint64_t offset = 0; ///< from the beginning of the file
  uint64_t bytes = 0;
};

using TensorTable = std::unordered_map<std::string, TensorEntry>;

/// Reads the header of the safetensors file whose \p size bytes lie at
/// \p data; \p name stands for the file in messages. Checked: the header fits
/// in the file, no name occurs twice, shapes times element size equal the byte
/// range, ranges lie inside the file and don't overlap.
/// Errors: Corrupt.
Result<TensorTable> parseTensorTable(const void *data, size_t size,
                                     const std::string &name);

} // namespace qlm

#endif // QLM_RUNTIME_TENSORTABLE_H
