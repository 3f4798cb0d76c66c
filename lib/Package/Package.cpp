//===- Package.cpp - Writes a lowered module as a package -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Package/Package.h"

#include "Evaluate.h"
#include "Manifest.h"
#include "PackageErrors.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Package/CudaBinary.h"
#include "qlm/Package/Format.h"
#include "qlm/Package/ObjectFile.h"
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

static std::string join(StringRef folder, StringRef name) {
  SmallString<256> result(folder);
  path::append(result, name);
  return std::string(result);
}

//===----------------------------------------------------------------------===//
// The folder
//===----------------------------------------------------------------------===//

/// Whether the folder \p target has a manifest of this format, whatever its
/// version.
static bool isPackage(StringRef target) {
  auto buffer =
      llvm::MemoryBuffer::getFile(join(target, format::kManifestFile));
  if (!buffer)
    return false;
  auto manifest = llvm::json::parse((*buffer)->getBuffer());
  if (!manifest) {
    llvm::consumeError(manifest.takeError());
    return false;
  }
  const llvm::json::Object *object = manifest->getAsObject();
  return object &&
         object->getString("format") == StringRef(format::kFormatName);
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

static llvm::Expected<PackagedFile> describeFile(StringRef folder,
                                                 StringRef name) {
  PackagedFile file;
  file.name = name.str();
  std::string filePath = join(folder, name);
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

static llvm::Expected<PackagedFile>
writeWeights(ModuleOp module, StringRef folder, const PackageOptions &options) {
  auto source = module->getAttrOfType<StringAttr>(kSourceAttr);
  ParameterArchive archive(source ? source.getValue() : StringRef("."));
  if (auto statistics = module->getAttrOfType<StringAttr>(kStatisticsAttr))
    archive.setPath(kStatisticsFile, statistics.getValue());
  auto launches = getLaunches(module);
  if (!launches)
    return launches.takeError();
  WeightPlan plan;
  llvm::DenseSet<Value> seen;
  for (LaunchOp launch : *launches)
    for (Value weight : launch.getWeights()) {
      if (!seen.insert(weight).second)
        continue;
      auto key = getWeightKey(weight);
      if (!key)
        return key.takeError();
      if (llvm::Error error = plan.add(weight, *key, archive))
        return std::move(error);
    }

  auto file =
      WeightsFile::create(join(folder, format::kWeightsFile), plan.tensors);
  if (!file)
    return file.takeError();
  PackageProgress progress;
  progress.bytesTotal = plan.getBytes();
  auto report = [&](StringRef key, int64_t bytes) {
    progress.item = key;
    progress.bytesDone = bytes;
    if (options.progress)
      options.progress(progress);
  };
  if (llvm::Error error = evaluateWeights(plan, *file, options.threads, report,
                                          options.cancelled))
    return std::move(error);
  auto checksum = file->computeChecksum();
  if (!checksum)
    return checksum.takeError();
  return PackagedFile{format::kWeightsFile, file->getSize(), *checksum};
}

static llvm::Error writeCpuModule(ModuleOp kernels, StringRef folder,
                                  ManifestInput &input) {
  if (llvm::Error error =
          emitSharedLibrary(kernels, join(folder, format::kCpuModuleFile)))
    return error;
  auto file = describeFile(folder, format::kCpuModuleFile);
  if (!file)
    return file.takeError();
  input.module = std::move(*file);
  return llvm::Error::success();
}

static llvm::Error writeText(const std::string &filePath, StringRef text) {
  std::error_code code;
  llvm::raw_fd_ostream stream(filePath, code);
  if (!code) {
    stream << text;
    stream.close();
    code = stream.error();
    stream.clear_error();
  }
  if (code)
    return makeError("cannot write '" + filePath + "': " + code.message());
  return llvm::Error::success();
}

/// Writes one chip's code as the file \p name.
static llvm::Expected<PackagedChip> writeChip(StringRef folder, StringRef chip,
                                              StringRef name, StringRef code) {
  if (llvm::Error error = writeText(join(folder, name), code))
    return std::move(error);
  auto file = describeFile(folder, name);
  if (!file)
    return file.takeError();
  return PackagedChip{chip.str(), std::move(*file), {}};
}

/// Writes the kernels of one chip: machine code, PTX, or both, as Lower asked.
static llvm::Error writeGpuModule(gpu::GPUModuleOp kernels, StringRef folder,
                                  ManifestInput &input) {
  auto ptx = emitPtx(kernels);
  if (!ptx)
    return ptx.takeError();
  StringRef chip = kernels->getAttrOfType<StringAttr>("qlm.chip").getValue();
  if (kernels->hasAttr("qlm.ptx")) {
    auto file = writeChip(folder, chip, format::kPtxModuleFile, *ptx);
    if (!file)
      return file.takeError();
    input.ptx = std::move(*file);
  }
  if (!kernels->hasAttr("qlm.cubin"))
    return llvm::Error::success();
  auto binary = assemblePtx(*ptx, chip);
  if (!binary)
    return binary.takeError();
  auto file = writeChip(folder, chip, ("module." + chip + ".cubin").str(),
                        binary->cubin);
  if (!file)
    return file.takeError();
  file->kernels = std::move(binary->kernels);
  input.chips.push_back(std::move(*file));
  return llvm::Error::success();
}

static llvm::Error writeCode(ModuleOp module, StringRef folder,
                             ManifestInput &input) {
  if (auto kernels = module.lookupSymbol<ModuleOp>("kernels"))
    return writeCpuModule(kernels, folder, input);
  for (gpu::GPUModuleOp kernels : module.getOps<gpu::GPUModuleOp>())
    if (llvm::Error error = writeGpuModule(kernels, folder, input))
      return error;
  if (!input.isCuda())
    return makeError("the module has no module @kernels: it has not gone "
                     "through Lower");
  return llvm::Error::success();
}

/// Copies what the runtime reads beside the weights, as far as it exists.
static llvm::Expected<std::vector<PackagedFile>>
copyModelFiles(StringRef modelFolder, StringRef folder) {
  std::vector<PackagedFile> files;
  if (modelFolder.empty())
    return files;
  // The chat template is the server's alone.
  for (StringRef name :
       {StringRef(format::kTokenizerFile),
        StringRef(format::kTokenizerConfigFile),
        StringRef(format::kGenerationConfigFile),
        StringRef(format::kConfigFile), StringRef("chat_template.jinja")}) {
    std::string from = join(modelFolder, name);
    if (!fs::exists(from))
      continue;
    if (std::error_code code = fs::copy_file(from, join(folder, name)))
      return makeError("cannot copy '" + from + "': " + code.message());
    auto file = describeFile(folder, name);
    if (!file)
      return file.takeError();
    files.push_back(std::move(*file));
  }
  return files;
}

static llvm::Error writeManifest(StringRef folder,
                                 llvm::json::Object manifest) {
  std::string filePath = join(folder, format::kManifestFile);
  manifest["checksum"] = format::kNoChecksum;
  std::string text =
      llvm::formatv("{0:2}\n", llvm::json::Value(std::move(manifest))).str();
  format::Checksum checksum;
  checksum.update(text.data(), text.size());
  text.replace(text.find(format::kNoChecksum), std::strlen(format::kNoChecksum),
               toHex(checksum.finish()));

  return writeText(filePath, text);
}

static llvm::Expected<PackageSummary>
fillFolder(ModuleOp module, StringRef folder, const PackageOptions &options) {
  // Kernels first: they take little time and tell most mistakes.
  ManifestInput input;
  input.producer = options.producer;
  input.activations = options.activations;
  if (llvm::Error error = writeCode(module, folder, input))
    return std::move(error);
  auto weights = writeWeights(module, folder, options);
  if (!weights)
    return weights.takeError();
  auto files = copyModelFiles(options.modelFolder, folder);
  if (!files)
    return files.takeError();
  input.weights = std::move(*weights);
  input.files = std::move(*files);
  auto manifest = makeManifest(module, input);
  if (!manifest)
    return manifest.takeError();
  PackageSummary summary;
  summary.weightBytes = input.weights.bytes;
  summary.moduleBytes = input.getCodeBytes();
  summary.peakBytes =
      manifest->getObject("plan")->getInteger("peak_bytes").value_or(0);
  if (llvm::Error error = writeManifest(folder, *manifest))
    return std::move(error);
  if (options.judge) {
    auto card = options.judge(folder);
    if (!card)
      return card.takeError();
    (*manifest)["accuracy"] = std::move(*card);
    if (llvm::Error error = writeManifest(folder, std::move(*manifest)))
      return std::move(error);
  }
  return summary;
}

llvm::Expected<PackageSummary>
mlir::qlm::writePackage(ModuleOp module, const PackageOptions &options) {
  StringRef target = StringRef(options.output).rtrim('/');
  if (target.empty())
    return makeError("the package's path must not be empty or '/'");
  if (llvm::Error error = checkTarget(target, options.overwrite))
    return std::move(error);
  std::string folder =
      (target + ".tmp-" + llvm::Twine(llvm::sys::Process::getProcessId()))
          .str();
  if (std::error_code code =
          fs::create_directory(folder, /*IgnoreExisting=*/false, fs::all_all))
    return makeError("cannot write '" + target + "': " + code.message());
  llvm::scope_exit cleanup([&] { (void)fs::remove_directories(folder); });
  auto summary = fillFolder(module, folder, options);
  if (!summary)
    return summary;
  if (llvm::Error error = install(folder, target))
    return std::move(error);
  cleanup.release();
  return summary;
}
