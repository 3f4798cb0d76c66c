//===- PackageFolder.cpp - A package's folder and its common files --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackageFolder.h"

#include "PackageErrors.h"
#include "WeightsFile.h"
#include "qlm/Package/GraphFormat.h"
#include "qlm/Package/Package.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"

#include <cstring>

using namespace mlir;
using namespace mlir::qlm;
namespace format = ::qlm::format;
namespace fs = llvm::sys::fs;
namespace path = llvm::sys::path;

std::string mlir::qlm::joinPath(StringRef folder, StringRef name) {
  SmallString<256> result(folder);
  path::append(result, name);
  return std::string(result);
}

//===----------------------------------------------------------------------===//
// The folder
//===----------------------------------------------------------------------===//

/// Whether the folder \p target has a manifest of one of our formats, whatever
/// its version.
static bool isPackage(StringRef target) {
  auto buffer =
      llvm::MemoryBuffer::getFile(joinPath(target, format::kManifestFile));
  if (!buffer)
    return false;
  auto manifest = llvm::json::parse((*buffer)->getBuffer());
  if (!manifest) {
    llvm::consumeError(manifest.takeError());
    return false;
  }
  const llvm::json::Object *object = manifest->getAsObject();
  if (!object)
    return false;
  auto name = object->getString("format");
  return name == StringRef(format::kFormatName) ||
         name == StringRef(format::kGraphFormatName);
}

/// Fails unless \p target may be written: nothing, an empty folder, or a
/// package that may be replaced.
static llvm::Error checkTarget(StringRef target, bool overwrite) {
  if (!fs::exists(target) && !fs::is_symlink_file(target))
    return llvm::Error::success();
  if (!fs::is_directory(target))
    return makeError("'" + target + "' exists and is not a package");
  std::error_code code;
  if (fs::directory_iterator(target, code) == fs::directory_iterator() && !code)
    return llvm::Error::success();
  if (!isPackage(target))
    return makeError("'" + target + "' exists and is not a package");
  if (!overwrite)
    return makeError("package '" + target + "' exists");
  return llvm::Error::success();
}

/// Puts the finished folder \p made in the place of \p target. An older one is
/// moved aside first and comes back if the second rename fails.
static llvm::Error install(StringRef made, StringRef target) {
  std::string aside =
      (target + ".old-" + llvm::Twine(llvm::sys::Process::getProcessId()))
          .str();
  bool replaces = fs::exists(target);
  if (replaces)
    if (std::error_code code = fs::rename(target, aside))
      return makeError("cannot replace '" + target + "': " + code.message());
  if (std::error_code code = fs::rename(made, target)) {
    if (replaces)
      (void)fs::rename(aside, target);
    return makeError("cannot write '" + target + "': " + code.message());
  }
  if (replaces)
    (void)fs::remove_directories(aside);
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// The files
//===----------------------------------------------------------------------===//

llvm::Expected<PackagedFile> mlir::qlm::describeFile(StringRef folder,
                                                     StringRef name) {
  PackagedFile file;
  file.name = name.str();
  std::string filePath = joinPath(folder, name);
  uint64_t bytes = 0;
  if (std::error_code code = fs::file_size(filePath, bytes))
    return makeError("cannot read '" + filePath + "': " + code.message());
  file.bytes = bytes;
  auto checksum = computeFileChecksum(filePath);
  if (!checksum)
    return checksum.takeError();
  file.checksum = *checksum;
  return file;
}

llvm::Error mlir::qlm::writeFile(StringRef filePath, StringRef bytes) {
  std::error_code code;
  llvm::raw_fd_ostream stream(filePath, code);
  if (!code) {
    stream << bytes;
    stream.close();
    code = stream.error();
    stream.clear_error();
  }
  if (code)
    return makeError("cannot write '" + filePath + "': " + code.message());
  return llvm::Error::success();
}

llvm::Error mlir::qlm::writeManifest(StringRef folder,
                                     llvm::json::Object manifest) {
  std::string filePath = joinPath(folder, format::kManifestFile);
  manifest["checksum"] = format::kNoChecksum;
  std::string text =
      llvm::formatv("{0:2}\n", llvm::json::Value(std::move(manifest))).str();
  format::Checksum checksum;
  checksum.update(text.data(), text.size());
  text.replace(text.find(format::kNoChecksum), std::strlen(format::kNoChecksum),
               toHex(checksum.finish()));

  return writeFile(filePath, text);
}

llvm::Error
mlir::qlm::writePackageFolder(StringRef output, bool overwrite,
                              llvm::function_ref<llvm::Error(StringRef)> fill) {
  StringRef target = output.rtrim('/');
  if (target.empty())
    return makeError("the package's path must not be empty or '/'");
  if (llvm::Error error = checkTarget(target, overwrite))
    return error;
  std::string folder =
      (target + ".tmp-" + llvm::Twine(llvm::sys::Process::getProcessId()))
          .str();
  if (std::error_code code =
          fs::create_directory(folder, /*IgnoreExisting=*/false, fs::all_all))
    return makeError("cannot write '" + target + "': " + code.message());
  llvm::scope_exit cleanup([&] { (void)fs::remove_directories(folder); });
  if (llvm::Error error = fill(folder))
    return error;
  if (llvm::Error error = install(folder, target))
    return error;
  cleanup.release();
  return llvm::Error::success();
}
