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

Status qlm::compareChecksum(uint64_t checksum, const std::string &expected,
                            const std::string &file) {
  std::string actual = toHex(checksum);
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
  return compareChecksum(checksum.finish(), expected, file);
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

/// Memory that the system could give without swapping; 0 where it doesn't
/// tell.
static uint64_t availableMemory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("MemAvailable:", 0) == 0)
      return std::strtoull(line.c_str() + 13, nullptr, 10) * 1024;
  return 0;
}

/// Copying less takes no longer than anybody would notice.
static constexpr size_t leastLateBytes = size_t{256} << 20;

/// Chooses where the weights lie, and reads or maps them. On return
/// `verifyLater` says whether the checksum is still to be compared.
Status Package::loadWeights(const Options &options) {
  std::string file = path + "/" + manifest.weights.file;
  struct stat info;
  if (stat(file.c_str(), &info) == 0 && S_ISREG(info.st_mode))
    QLM_RETURN_IF_ERROR(checkSize(static_cast<size_t>(info.st_size),
                                  manifest.weights.bytes, file));
  size_t bytes = static_cast<size_t>(manifest.weights.bytes);
  bool isAutomatic = options.weightsMemory == WeightsMemory::Automatic;
  weightsCopied = options.weightsMemory == WeightsMemory::HugePages;
  copyDue = options.weightsMemory == WeightsMemory::Late;
  if (isAutomatic && MappedMemory::hasHugePages(bytes)) {
    // The step's memory is needed too.
    uint64_t needed = static_cast<uint64_t>(manifest.plan.peakBytes);
    weightsCopied = availableMemory() >= needed;
    if (!weightsCopied)
      notes = "the weights stay in the page cache, without huge pages: " +
              std::to_string(needed >> 20) +
              " MiB are needed to copy them "
              "and run, " +
              std::to_string(availableMemory() >> 20) + " MiB are available";
  }
  if (isAutomatic && weightsCopied)
    copyDue = bytes >= leastLateBytes;
  if (copyDue)
    weightsCopied = options.copyWhileLoading;
  if (manifest.target.isCuda())
    weightsCopied = copyDue = false;
  if (weightsCopied)
    copyDue = false;
  verifyLater = options.verifyWeights;
  QLM_RETURN_IF_ERROR(weightsCopied ? readWeights(options)
                                    : mapWeights(options));
  return checkWeightsTable();
}

Status Package::mapWeights(const Options &options) {
  std::string file = path + "/" + manifest.weights.file;
  Result<MappedMemory> memory = MappedMemory::mapFile(file);
  if (!memory.ok())
    return memory.status();
  weights = memory.take();
  if (!options.verifyWeights || copyDue || manifest.target.isCuda())
    weights.adviseWillNeed();
  return checkSize(weights.size(), manifest.weights.bytes, file);
}

Result<MappedMemory>
Package::readWeightsFile(int threads, uint64_t *checksum,
                         const std::atomic<bool> *isCancelled) const {
  std::string file = path + "/" + manifest.weights.file;
  Result<MappedMemory> memory =
      MappedMemory::readFile(file, threads, checksum, isCancelled);
  if (memory.ok())
    QLM_RETURN_IF_ERROR(
        checkSize(memory->size(), manifest.weights.bytes, file));
  return memory;
}

Status Package::readWeights(const Options &options) {
  uint64_t checksum = 0;
  Result<MappedMemory> memory = readWeightsFile(
      options.threads, options.verifyWeights ? &checksum : nullptr);
  if (!memory.ok())
    return memory.status();
  weights = memory.take();
  verifyLater = false;
  if (!options.verifyWeights)
    return Status();
  // A damaged header has a message that says more.
  QLM_RETURN_IF_ERROR(checkWeightsTable());
  return compareChecksum(checksum, manifest.weights.checksum,
                         path + "/" + manifest.weights.file);
}

Result<MappedMemory>
Package::copyWeights(const std::atomic<bool> &isCancelled) const {
  uint64_t checksum = 0;
  Result<MappedMemory> memory =
      readWeightsFile(/*threads=*/1, &checksum, &isCancelled);
  if (memory.ok())
    QLM_RETURN_IF_ERROR(compareChecksum(checksum, manifest.weights.checksum,
                                        path + "/" + manifest.weights.file));
  return memory;
}

Status Package::checkWeightsTable() {
  std::string file = path + "/" + manifest.weights.file;
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
  if (package->manifest.target.isCuda()) {
    QLM_RETURN_IF_ERROR(package->loadWeights(options));
    QLM_RETURN_IF_ERROR(verifyFiles(path, package->manifest.files));
    return package;
  }

  // The weights are read by other threads while this one opens the module.
  Status weightsStatus;
  std::thread loader([&] {
    weightsStatus = package->loadWeights(options);
    if (!weightsStatus.ok() || !package->verifyLater)
      return;
    const FileInfo &info = package->manifest.weights;
    weightsStatus = verify(package->weights.data(), package->weights.size(),
                           info.checksum, path + "/" + info.file);
    package->verifyLater = false;
  });
  Status status = verifyFiles(path, package->manifest.files);
  if (status.ok())
    status = package->openModule();
  loader.join();
  QLM_RETURN_IF_ERROR(weightsStatus);
  QLM_RETURN_IF_ERROR(status);
  return package;
}
