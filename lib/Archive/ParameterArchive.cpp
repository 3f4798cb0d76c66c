//===- ParameterArchive.cpp - Weights of a model's folder -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/ParameterArchive.h"
#include "qlm/Archive/Json.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/Path.h"

namespace mlir::qlm {

bool isContainedPath(llvm::StringRef path) {
  if (path.empty() || path.contains('\0') || path.contains('\\'))
    return false;
  do {
    auto [part, rest] = path.split('/');
    // An empty part is a leading, doubled or trailing slash.
    if (part.empty() || part == "..")
      return false;
    if (rest.empty() && path.ends_with('/'))
      return false;
    path = rest;
  } while (!path.empty());
  return true;
}

llvm::Expected<SafetensorsFile *> ParameterArchive::open(llvm::StringRef file) {
  if (!isContainedPath(file))
    return llvm::createStringError(folder + ": file name " + quoteName(file) +
                                   " must be relative and stay in the folder");
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<SafetensorsFile> &entry = files[file];
  if (entry)
    return entry.get();
  llvm::SmallString<128> path(folder);
  if (auto given = paths.find(file); given != paths.end())
    path = given->second;
  else
    llvm::sys::path::append(path, file);
  auto opened = SafetensorsFile::open(path);
  if (!opened)
    return opened.takeError();
  entry = std::move(*opened);
  return entry.get();
}

llvm::Expected<const ArchiveTensor *>
ParameterArchive::find(llvm::StringRef file, llvm::StringRef key) {
  llvm::Expected<SafetensorsFile *> opened = open(file);
  if (!opened)
    return opened.takeError();
  if (const ArchiveTensor *tensor = (*opened)->lookup(key))
    return tensor;
  return llvm::createStringError((*opened)->getPath() + ": no tensor " +
                                 quoteName(key));
}

} // namespace mlir::qlm
