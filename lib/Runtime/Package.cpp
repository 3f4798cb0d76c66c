//===- Package.cpp - A loaded package -------------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Package.h"

#include "qlm/Runtime/CpuFeatures.h"

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <sstream>
#include <sys/stat.h>
#include <thread>

using namespace qlm;

static std::string toHex(uint64_t checksum) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, checksum);
  return text;
}

Status qlm::compareChecksum(const format::Checksum &checksum,
                            const std::string &expected,
                            const std::string &file) {
  std::string actual = toHex(checksum.finish());
  if (actual == expected)
    return Status();
  return Status(StatusCode::Corrupt, file + ": checksum is " + actual +
                                         ", the manifest says " + expected +
                                         "; the file is damaged");
}

/// Compares the bytes of a file with the checksum that the manifest gives.
static Status verify(const void *data, size_t size, const std::string &expected,
                     const std::string &file) {
  format::Checksum checksum;
  checksum.update(data, size);
  return compareChecksum(checksum, expected, file);
}

static Status checkSize(size_t size, int64_t expected,
                        const std::string &file) {
  if (size == static_cast<uint64_t>(expected))
    return Status();
  return Status(StatusCode::Corrupt,
                file + ": file has " + std::to_string(size) +
                    " bytes, the manifest says " + std::to_string(expected));
}

Result<std::string> qlm::readFile(const std::string &path) {
  Result<MappedMemory> memory = MappedMemory::mapFile(path);
  if (!memory.ok())
    return memory.status();
  return std::string(memory->data(), memory->size());
}

/// Compares a manifest's text with the checksum that it holds of itself.
static Status verifyManifest(std::string text, const std::string &expected,
                             const std::string &file) {
  size_t digits = std::strlen(format::kNoChecksum);
  size_t at = text.find('"' + expected + '"');
  if (expected.size() != digits || at == std::string::npos)
    return Status(StatusCode::Corrupt,
                  file + ": checksum must be " + std::to_string(digits) +
                      " hex digits, is '" + expected + "'");
  text.replace(at + 1, digits, format::kNoChecksum);
  return verify(text.data(), text.size(), expected, file);
}

Result<Manifest> qlm::readManifest(const std::string &path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0)
    return Status(errno == ENOENT ? StatusCode::NotFound : StatusCode::Io,
                  path + ": " + std::strerror(errno));
  std::string file = path + "/" + format::kManifestFile;
  if (!S_ISDIR(info.st_mode) || stat(file.c_str(), &info) != 0)
    return Status(StatusCode::NotFound,
                  path + ": not a package: no " + format::kManifestFile);
  Result<std::string> text = readFile(file);
  if (!text.ok())
    return text.status();
  Result<Manifest> manifest = parseManifest(*text, file);
  // Last: what contradicts itself has a message that says more.
  if (manifest.ok())
    QLM_RETURN_IF_ERROR(verifyManifest(text.take(), manifest->checksum, file));
  return manifest;
}

Package::~Package() {
  if (module)
    dlclose(module);
}

const void *Package::tensorData(const std::string &key) const {
  return weights.data() + tensors.at(key).offset;
}

/// The weights of \p launches must be among \p tensors, those of \p file, and
/// aligned.
static Status checkWeights(const std::vector<Launch> &launches,
                           const TensorTable &tensors,
                           const std::string &file) {
  for (const Launch &launch : launches)
    for (const LaunchArgument &argument : launch.arguments) {
      if (argument.kind != LaunchArgumentKind::Weight)
        continue;
      auto found = tensors.find(argument.key);
      if (found == tensors.end())
        return Status(StatusCode::Corrupt, file + ": no tensor '" +
                                               argument.key + "', which '" +
                                               launch.label + "' reads");
      if (found->second.offset % format::kAlignment)
        return Status(
            StatusCode::Corrupt,
            file + ": tensor '" + argument.key + "' must be aligned to " +
                std::to_string(format::kAlignment) + " bytes, lies at " +
                std::to_string(found->second.offset));
    }
  return Status();
}

Status Package::mapWeights() {
  std::string file = path + "/" + manifest.weights.file;
  Result<MappedMemory> memory = MappedMemory::mapFile(file);
  if (!memory.ok())
    return memory.status();
  weights = memory.take();
  QLM_RETURN_IF_ERROR(checkSize(weights.size(), manifest.weights.bytes, file));
  Result<TensorTable> table =
      parseTensorTable(weights.data(), weights.size(), file);
  if (!table.ok())
    return table.status();
  tensors = table.take();

  QLM_RETURN_IF_ERROR(checkWeights(manifest.launches, tensors, file));
  return checkWeights(manifest.sampling, tensors, file);
}

Result<std::string> Package::readChecked(const FileInfo &info) const {
  std::string file = path + "/" + info.file;
  Result<std::string> content = readFile(file);
  if (!content.ok())
    return content;
  QLM_RETURN_IF_ERROR(checkSize(content->size(), info.bytes, file));
  QLM_RETURN_IF_ERROR(
      verify(content->data(), content->size(), info.checksum, file));
  return content;
}

Status Package::openModule() {
  std::string file = path + "/" + manifest.target.module;
  {
    Result<MappedMemory> code = MappedMemory::mapFile(file);
    if (!code.ok())
      return code.status();
    QLM_RETURN_IF_ERROR(
        checkSize(code->size(), manifest.target.moduleBytes, file));
    // Code is checked always: a damaged kernel is worse than a damaged weight.
    QLM_RETURN_IF_ERROR(verify(code->data(), code->size(),
                               manifest.target.moduleChecksum, file));
  }
  // A name without a slash would be searched in the system's folders.
  std::string name = file[0] == '/' ? file : "./" + file;
  module = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!module)
    return Status(StatusCode::Corrupt,
                  std::string("cannot load the module: ") + dlerror());
  for (const Launch &launch : manifest.launches) {
    void *address = dlsym(module, launch.kernel.c_str());
    if (!address)
      return Status(StatusCode::Corrupt, file + ": no kernel '" +
                                             launch.kernel + "', which '" +
                                             launch.label + "' runs");
    kernels.push_back(reinterpret_cast<format::KernelFunction>(address));
  }
  return Status();
}

/// Checks the small files that the manifest lists.
static Status verifyFiles(const std::string &path,
                          const std::vector<FileInfo> &files) {
  for (const FileInfo &info : files) {
    std::string file = path + "/" + info.file;
    Result<MappedMemory> memory = MappedMemory::mapFile(file);
    if (!memory.ok())
      return memory.status();
    QLM_RETURN_IF_ERROR(
        verify(memory->data(), memory->size(), info.checksum, file));
  }
  return Status();
}

Result<std::unique_ptr<Package>> Package::load(const std::string &path,
                                               const Options &options) {
  Result<Manifest> manifest = readManifest(path);
  if (!manifest.ok())
    return manifest.status();
  std::unique_ptr<Package> package(new Package());
  package->path = path;
  package->manifest = manifest.take();
  QLM_RETURN_IF_ERROR(prepareFeatures(package->manifest.target.features));
  QLM_RETURN_IF_ERROR(package->mapWeights());
  if (package->manifest.target.isCuda()) {
    package->verifyLater = options.verifyWeights;
    package->weights.adviseWillNeed();
    QLM_RETURN_IF_ERROR(verifyFiles(path, package->manifest.files));
    return package;
  }

  // The weights are read by a second thread while this one opens the module.
  Status weightsStatus;
  std::thread verifier;
  if (options.verifyWeights)
    verifier = std::thread([&] {
      const FileInfo &info = package->manifest.weights;
      weightsStatus = verify(package->weights.data(), package->weights.size(),
                             info.checksum, path + "/" + info.file);
    });
  else
    package->weights.adviseWillNeed();
  Status status = verifyFiles(path, package->manifest.files);
  if (status.ok())
    status = package->openModule();
  if (verifier.joinable())
    verifier.join();
  QLM_RETURN_IF_ERROR(weightsStatus);
  QLM_RETURN_IF_ERROR(status);
  return package;
}
