//===- WeightFiles.h - Which file holds which tensor ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_WEIGHTFILES_H
#define QLM_LIB_IMPORT_WEIGHTFILES_H

#include "qlm/Archive/ParameterArchive.h"

#include "llvm/ADT/StringMap.h"

#include <string>
#include <vector>

namespace mlir::qlm {

/// The tensors of a folder with one `model.safetensors`, or with the files that
/// `model.safetensors.index.json` names.
class WeightFiles {
public:
  struct Entry {
    /// Relative to the folder.
    std::string file;
    const ArchiveTensor *tensor = nullptr;
  };

  /// Opens every file and reads its header. Where both forms are there, the one
  /// file wins, as in transformers.
  llvm::Error open(llvm::StringRef folder);

  /// The tensor \p name, or null.
  const Entry *lookup(llvm::StringRef name) const;
  /// Names of all tensors, sorted.
  std::vector<llvm::StringRef> getNames() const;
  /// The file that says which tensors there are, for messages.
  llvm::StringRef getListing() const { return listing; }

private:
  llvm::Error openSingle(llvm::StringRef folder);
  llvm::Error openIndex(llvm::StringRef folder);

  std::unique_ptr<ParameterArchive> archive;
  std::string listing;
  llvm::StringMap<Entry> entries;
};

} // namespace mlir::qlm

#endif // QLM_LIB_IMPORT_WEIGHTFILES_H
