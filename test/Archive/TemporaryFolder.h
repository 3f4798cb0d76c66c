//===- TemporaryFolder.h - Folders and weight files of tests ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_ARCHIVE_TEMPORARYFOLDER_H
#define QLM_TEST_ARCHIVE_TEMPORARYFOLDER_H

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>

namespace mlir::qlm::test {

/// A folder that lives as long as the object.
class TemporaryFolder {
public:
  TemporaryFolder() {
    llvm::SmallString<128> made;
    (void)llvm::sys::fs::createUniqueDirectory("qlm-test", made);
    path = made.str().str();
  }
  ~TemporaryFolder() { (void)llvm::sys::fs::remove_directories(path); }
  TemporaryFolder(const TemporaryFolder &) = delete;

  std::string join(llvm::StringRef name) const {
    llvm::SmallString<128> joined(path);
    llvm::sys::path::append(joined, name);
    return joined.str().str();
  }
  /// Writes a file and returns its path.
  std::string write(llvm::StringRef name, llvm::StringRef bytes) const {
    std::ofstream(join(name), std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return join(name);
  }

  std::string path;
};

/// The bytes of a safetensors file: the header's size, the header, the data.
inline std::string makeSafetensors(llvm::StringRef header, size_t dataBytes) {
  uint64_t size = header.size();
  std::string bytes(sizeof(size), '\0');
  for (unsigned i = 0; i < sizeof(size); ++i)
    bytes[i] = static_cast<char>(size >> (8 * i));
  bytes += header;
  for (size_t i = 0; i < dataBytes; ++i)
    bytes += static_cast<char>(i);
  return bytes;
}

/// The message of what must be an error.
template <typename T> std::string getMessage(llvm::Expected<T> result) {
  if (result)
    return "success";
  return llvm::toString(result.takeError());
}

} // namespace mlir::qlm::test

#endif // QLM_TEST_ARCHIVE_TEMPORARYFOLDER_H
