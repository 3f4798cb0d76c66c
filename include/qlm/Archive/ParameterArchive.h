//===- ParameterArchive.h - Weights of a model's folder ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_ARCHIVE_PARAMETERARCHIVE_H
#define QLM_ARCHIVE_PARAMETERARCHIVE_H

#include "qlm/Archive/Safetensors.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/Support/MemoryBuffer.h"

#include <memory>
#include <mutex>
#include <string>

namespace mlir::qlm {

/// Resolves what `qlm.parameter` names, a file of a folder and a key, to bytes.
/// Files are mapped at first use and stay mapped as long as the archive
/// lives, and so do the tensors it returned. Safe from several threads. A
/// streaming reader calls `adviseDone` after each block so that its resident
/// memory doesn't grow with the file.
class ParameterArchive {
public:
  /// \p folder is what `qlm.source` says.
  explicit ParameterArchive(llvm::StringRef folder) : folder(folder) {}

  /// Lets \p file stand for the file at \p path, anywhere. Call it before any
  /// other function.
  void setPath(llvm::StringRef file, llvm::StringRef path) {
    paths[file] = path.str();
  }

  /// The same for a file whose keys say where elements lie.
  void setRawPath(llvm::StringRef file, llvm::StringRef path) {
    rawPaths[file] = path.str();
  }

  /// The tensor \p key of \p file, a path relative to the folder. Fails when
  /// the path leaves the folder, the file is malformed, or has no such key.
  ///
  /// In a file that isn't called `.safetensors` a key says where the elements
  /// lie and what they are: "F32[256, 768] at 1024".
  llvm::Expected<const ArchiveTensor *> find(llvm::StringRef file,
                                             llvm::StringRef key);

  /// The mapped file at \p file, a path relative to the folder.
  llvm::Expected<SafetensorsFile *> open(llvm::StringRef file);

  llvm::StringRef getFolder() const { return folder; }

private:
  llvm::Expected<const ArchiveTensor *> findRaw(llvm::StringRef file,
                                                llvm::StringRef key);

  std::string folder;
  llvm::StringMap<std::string> paths, rawPaths;
  std::mutex mutex;
  llvm::StringMap<std::unique_ptr<SafetensorsFile>> files;
  llvm::StringMap<std::unique_ptr<llvm::MemoryBuffer>> rawFiles;
  llvm::StringMap<std::unique_ptr<ArchiveTensor>> rawTensors;
};

/// Whether \p path is relative, without `..`, empty parts or NUL bytes: a name
/// from an untrusted file that can't lead out of its folder.
bool isContainedPath(llvm::StringRef path);

} // namespace mlir::qlm

#endif // QLM_ARCHIVE_PARAMETERARCHIVE_H
