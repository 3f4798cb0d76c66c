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
#include "PackageFolder.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "qlm/Archive/PackedCodes.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Package/CudaBinary.h"
#include "qlm/Package/Format.h"
#include "qlm/Package/ObjectFile.h"
#include "llvm/Support/FileSystem.h"

using namespace mlir;
using namespace mlir::qlm;
namespace format = ::qlm::format;
namespace fs = llvm::sys::fs;

//===----------------------------------------------------------------------===//
// The files
//===----------------------------------------------------------------------===//

static llvm::Expected<PackagedFile>
writeWeights(ModuleOp module, StringRef folder, const PackageOptions &options) {
  auto source = module->getAttrOfType<StringAttr>(kSourceAttr);
  ParameterArchive archive(source ? source.getValue() : StringRef("."));
  if (auto statistics = module->getAttrOfType<StringAttr>(kStatisticsAttr))
    archive.setPath(kStatisticsFile, statistics.getValue());
  if (auto packed = module->getAttrOfType<StringAttr>(kPackedAttr))
    archive.setRawPath(kPackedFile, packed.getValue());
  auto launches = getLaunches(module);
  if (!launches)
    return launches.takeError();
  ReaderContext context(archive);
  context.allowNonfinite = options.allowNonfinite;
  context.cholesky = options.cholesky;
  WeightPlan plan;
  llvm::DenseSet<Value> seen;
  for (LaunchOp launch : *launches)
    for (Value weight : launch.getWeights()) {
      if (!seen.insert(weight).second)
        continue;
      auto key = getWeightKey(weight);
      if (!key)
        return key.takeError();
      if (llvm::Error error = plan.add(weight, *key, context))
        return std::move(error);
    }

  auto file =
      WeightsFile::create(joinPath(folder, format::kWeightsFile), plan.tensors);
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
  if (options.note) {
    for (const auto &[name, found] : context.nonfinite)
      options.note("weight '" + name + "' is not finite, got " + found +
                   "; such values count as 0");
    for (const std::unique_ptr<ParameterProgram> &program : plan.programs)
      if (std::string note = program->getNote(); !note.empty())
        options.note(note);
  }
  auto checksum = file->computeChecksum();
  if (!checksum)
    return checksum.takeError();
  return PackagedFile{format::kWeightsFile, file->getSize(), *checksum};
}

static llvm::Error writeCpuModule(ModuleOp kernels, StringRef folder,
                                  ManifestInput &input) {
  if (llvm::Error error =
          emitSharedLibrary(kernels, joinPath(folder, format::kCpuModuleFile)))
    return error;
  auto file = describeFile(folder, format::kCpuModuleFile);
  if (!file)
    return file.takeError();
  input.module = std::move(*file);
  return llvm::Error::success();
}

/// Writes one chip's code as the file \p name.
static llvm::Expected<PackagedChip> writeChip(StringRef folder, StringRef chip,
                                              StringRef name, StringRef code) {
  if (llvm::Error error = writeFile(joinPath(folder, name), code))
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
    std::string from = joinPath(modelFolder, name);
    if (!fs::exists(from))
      continue;
    if (std::error_code code = fs::copy_file(from, joinPath(folder, name)))
      return makeError("cannot copy '" + from + "': " + code.message());
    auto file = describeFile(folder, name);
    if (!file)
      return file.takeError();
    files.push_back(std::move(*file));
  }
  return files;
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
  PackageSummary summary;
  llvm::Error error = writePackageFolder(
      options.output, options.overwrite, [&](StringRef folder) -> llvm::Error {
        auto filled = fillFolder(module, folder, options);
        if (!filled)
          return filled.takeError();
        summary = *filled;
        return llvm::Error::success();
      });
  if (error)
    return std::move(error);
  return summary;
}
