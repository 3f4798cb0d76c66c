//===- WeightFiles.cpp - Which file holds which tensor --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "WeightFiles.h"
#include "qlm/Archive/Json.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

namespace mlir::qlm {

static constexpr llvm::StringLiteral kSingleName = "model.safetensors";
static constexpr llvm::StringLiteral kIndexName =
    "model.safetensors.index.json";
static constexpr size_t kMaxIndexBytes = 64 << 20;
static constexpr size_t kMaxFiles = 10000;

static std::string join(llvm::StringRef folder, llvm::StringRef name) {
  llvm::SmallString<128> path(folder);
  llvm::sys::path::append(path, name);
  return path.str().str();
}

llvm::Error WeightFiles::openSingle(llvm::StringRef folder) {
  listing = join(folder, kSingleName);
  llvm::Expected<SafetensorsFile *> file = archive->open(kSingleName);
  if (!file)
    return file.takeError();
  for (const ArchiveTensor &tensor : (*file)->getTensors())
    entries[tensor.name] = {kSingleName.str(), &tensor};
  return llvm::Error::success();
}

llvm::Error WeightFiles::openIndex(llvm::StringRef folder) {
  listing = join(folder, kIndexName);
  JsonLimits limits;
  limits.bytes = kMaxIndexBytes;
  llvm::Expected<llvm::json::Value> index = readBoundedJson(listing, limits);
  if (!index)
    return index.takeError();
  const llvm::json::Object *object = index->getAsObject();
  const llvm::json::Object *map =
      object ? object->getObject("weight_map") : nullptr;
  if (!map)
    return llvm::createStringError(listing +
                                   ": 'weight_map' must be an object");
  size_t files = 0;
  llvm::StringMap<SafetensorsFile *> opened;
  for (const auto &[key, value] : *map) {
    std::optional<llvm::StringRef> name = value.getAsString();
    if (!name || name->contains('/') || !isContainedPath(*name))
      return llvm::createStringError(
          listing + ": tensor " + quoteName(key) +
          ": the file must be a name inside of the folder" +
          (name ? ", got " + quoteName(*name) : std::string()));
    SafetensorsFile *&file = opened[*name];
    if (!file) {
      if (++files > kMaxFiles)
        return llvm::createStringError(listing + ": more than " +
                                       llvm::Twine(kMaxFiles) + " files");
      llvm::Expected<SafetensorsFile *> result = archive->open(*name);
      if (!result)
        return result.takeError();
      file = *result;
    }
    const ArchiveTensor *tensor = file->lookup(key);
    if (!tensor)
      return llvm::createStringError(file->getPath() + ": no tensor " +
                                     quoteName(key) + ", which " + kIndexName +
                                     " puts there");
    entries[tensor->name] = {name->str(), tensor};
  }
  return llvm::Error::success();
}

llvm::Error WeightFiles::open(llvm::StringRef folder) {
  archive = std::make_unique<ParameterArchive>(folder);
  if (llvm::sys::fs::exists(join(folder, kSingleName)))
    return openSingle(folder);
  if (llvm::sys::fs::exists(join(folder, kIndexName)))
    return openIndex(folder);
  return llvm::createStringError(folder + ": neither " + kSingleName + " nor " +
                                 kIndexName +
                                 " is there; other formats are not read");
}

const WeightFiles::Entry *WeightFiles::lookup(llvm::StringRef name) const {
  auto found = entries.find(name);
  return found == entries.end() ? nullptr : &found->second;
}

std::vector<llvm::StringRef> WeightFiles::getNames() const {
  std::vector<llvm::StringRef> names;
  for (const auto &entry : entries)
    names.push_back(entry.getKey());
  llvm::sort(names);
  return names;
}

} // namespace mlir::qlm
