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

/// Reads "F32[256, 768] at 1024"; the data stays empty.
static std::optional<std::pair<ArchiveTensor, uint64_t>>
parseRawKey(llvm::StringRef key) {
  ArchiveTensor tensor;
  uint64_t offset = 0;
  auto [text, place] = key.rsplit(" at ");
  auto [typeName, sizes] = text.split('[');
  auto type = getArchiveType(typeName);
  if (!type || !sizes.consume_back("]") || place.getAsInteger(10, offset))
    return std::nullopt;
  tensor.name = key.str();
  tensor.type = *type;
  while (!sizes.empty()) {
    auto [size, rest] = sizes.split(", ");
    if (size.getAsInteger(10, tensor.shape.emplace_back()) ||
        tensor.shape.back() < 0)
      return std::nullopt;
    sizes = rest;
  }
  return std::pair(std::move(tensor), offset);
}

llvm::Expected<const ArchiveTensor *>
ParameterArchive::findRaw(llvm::StringRef file, llvm::StringRef key) {
  auto fail = [&](const llvm::Twine &what) {
    return llvm::createStringError(folder + ": " + quoteName(file) + " " +
                                   what);
  };
  auto parsed = parseRawKey(key);
  if (!parsed)
    return fail("has no tensor " + quoteName(key));
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<ArchiveTensor> &entry = rawTensors[(file + "\n" + key).str()];
  if (entry)
    return entry.get();
  std::unique_ptr<llvm::MemoryBuffer> &mapped = rawFiles[file];
  if (!mapped) {
    llvm::SmallString<128> path(folder);
    llvm::sys::path::append(path, file);
    if (auto given = rawPaths.find(file); given != rawPaths.end())
      path = given->second;
    auto buffer = llvm::MemoryBuffer::getFile(path, /*IsText=*/false,
                                              /*RequiresNullTerminator=*/false);
    if (!buffer)
      return fail("cannot be read: " + buffer.getError().message());
    mapped = std::move(*buffer);
  }
  auto &[tensor, offset] = *parsed;
  uint64_t bytes = getArchiveTypeBytes(tensor.type);
  uint64_t size = mapped->getBufferSize();
  for (int64_t count : tensor.shape)
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(count), &bytes))
      return fail("is too short for " + quoteName(key));
  if (offset > size || bytes > size - offset)
    return fail("is too short for " + quoteName(key));
  tensor.data = llvm::ArrayRef<uint8_t>(
      reinterpret_cast<const uint8_t *>(mapped->getBufferStart()) + offset,
      bytes);
  entry = std::make_unique<ArchiveTensor>(std::move(tensor));
  return entry.get();
}

llvm::Expected<const ArchiveTensor *>
ParameterArchive::find(llvm::StringRef file, llvm::StringRef key) {
  if (rawPaths.contains(file) ||
      (!file.ends_with(".safetensors") && !paths.contains(file) &&
       isContainedPath(file)))
    return findRaw(file, key);
  llvm::Expected<SafetensorsFile *> opened = open(file);
  if (!opened)
    return opened.takeError();
  if (const ArchiveTensor *tensor = (*opened)->lookup(key))
    return tensor;
  return llvm::createStringError((*opened)->getPath() + ": no tensor " +
                                 quoteName(key));
}

} // namespace mlir::qlm
