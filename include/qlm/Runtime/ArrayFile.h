//===- ArrayFile.h - Arrays in NumPy's files --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_ARRAYFILE_H
#define QLM_RUNTIME_ARRAYFILE_H

#include "qlm/Runtime/Graph.h"
#include "qlm/Runtime/Status.h"

#include <string>
#include <vector>

namespace qlm {

/// An array of a file; the one of an `.npy` file has no name.
struct NamedArray {
  std::string name;
  GraphArray array;
};

/// Reads the file at \p path: one array in NumPy's format, or the `.npz` that
/// `numpy.savez` writes, uncompressed. Types that NumPy lacks come as "void1"
/// and "void2", the way `ml_dtypes` saves them.
/// Errors: NotFound, Io, Corrupt (not such a file, or cut short), Unsupported
/// (compressed, column-major, big-endian or not numbers).
Result<std::vector<NamedArray>> readArrays(const std::string &path);

/// Writes an `.npz` file, complete or not at all. Types that NumPy lacks are
/// written as its raw bytes.
Status writeArrays(const std::string &path,
                   const std::vector<NamedArray> &arrays);

/// Calls raw bytes of the right width what \p type says, in place.
void acceptRawBytes(GraphArray &array, const std::string &type);

} // namespace qlm

#endif // QLM_RUNTIME_ARRAYFILE_H
