//===- GpuCode.cpp - The package's kernels on this GPU --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuCode.h"

#include <cstdlib>

using namespace qlm;
using namespace qlm::cuda;

/// Shared memory that a block may take without asking for more.
static constexpr int64_t kPlainSharedBytes = 48 << 10;
/// Percent of the first-level cache that every kernel asks for as shared
/// memory. A multiprocessor divides it anew only when it is idle, so a kernel
/// with another share than its neighbour's could not start beside it.
static constexpr int kAllShared = 100;

/// "sm_90a" is 90 with a suffix.
static std::pair<int, bool> parseChip(const std::string &chip) {
  char *end = nullptr;
  long number = std::strtol(chip.c_str() + 3, &end, 10);
  return {static_cast<int>(number), *end != '\0'};
}

bool cuda::runsOn(const std::string &chip, int capability) {
  auto [number, isExact] = parseChip(chip);
  if (isExact)
    return number == capability;
  return number / 10 == capability / 10 && number <= capability;
}

bool cuda::compilesFor(const std::string &chip, int capability) {
  auto [number, isExact] = parseChip(chip);
  return isExact ? number == capability : number <= capability;
}

int cuda::driverFor(int64_t ptxVersion) {
  int major = static_cast<int>(ptxVersion / 10);
  int minor = static_cast<int>(ptxVersion % 10);
  // PTX 7.x came with CUDA 11.x, 8.x with 12.x, 9.x with 13.x; CUDA 12.6 had
  // the PTX of 12.5, so from 8.6 on the numbers are one apart.
  if (major == 8 && minor >= 6)
    ++minor;
  return (major + 4) * 1000 + minor * 10;
}

static std::string capabilityText(int capability) {
  return std::to_string(capability / 10) + "." +
         std::to_string(capability % 10);
}

static Status noCodeError(const Gpu &gpu, const TargetInfo &target) {
  std::string has;
  for (const GpuModule &module : target.chips)
    has += (has.empty() ? "" : ", ") + module.chip;
  if (target.ptx)
    has += (has.empty() ? "" : ", ") + ("PTX of " + target.ptx->chip);
  std::string chip = "sm_" + std::to_string(gpu.getCapability());
  return Status(StatusCode::Unsupported,
                "the package has code for " + has + ", the GPU is an " +
                    gpu.getName() + " of compute capability " +
                    capabilityText(gpu.getCapability()) +
                    "; recompile it with quantc --target cuda:" + chip);
}

Result<GpuCode> GpuCode::load(const Gpu &gpu, const Package &package) {
  const TargetInfo &target = package.getManifest().target;
  GpuCode code;
  const GpuModule *best = nullptr;
  for (const GpuModule &module : target.chips)
    if (runsOn(module.chip, gpu.getCapability()) &&
        (!best || parseChip(module.chip) > parseChip(best->chip)))
      best = &module;
  if (!best && target.ptx &&
      compilesFor(target.ptx->chip, gpu.getCapability())) {
    best = &*target.ptx;
    int needed = driverFor(best->ptxVersion);
    if (gpu.getDriver().getVersion() < needed)
      return Status(StatusCode::Unsupported,
                    "the package's PTX needs a driver of CUDA " +
                        versionText(needed) + " or later, the driver is of " +
                        versionText(gpu.getDriver().getVersion()));
  }
  if (!best)
    return noCodeError(gpu, target);
  QLM_RETURN_IF_ERROR(code.loadModule(gpu, package, *best));
  QLM_RETURN_IF_ERROR(code.findFunctions(gpu, package.getManifest().launches));
  QLM_RETURN_IF_ERROR(code.findFunctions(gpu, package.getManifest().sampling));
  return code;
}

Status GpuCode::loadModule(const Gpu &gpu, const Package &package,
                           const GpuModule &info) {
  // As a string it ends in a zero, which the driver needs of PTX.
  Result<std::string> image = package.readChecked(info.file);
  if (!image.ok())
    return image.status();
  chip = info.chip;
  file = package.getPath() + "/" + info.file.file;
  Module handle = nullptr;
  QLM_CUDA_TRY(
      gpu.getDriver(),
      "loading " + file + " on an " + gpu.getName() +
          " with a driver of CUDA " + versionText(gpu.getDriver().getVersion()),
      cuModuleLoadDataEx, &handle, image->c_str(), 0, nullptr, nullptr);
  module = OwnedModule(gpu, handle);
  return Status();
}

Status GpuCode::findFunctions(const Gpu &gpu,
                              const std::vector<Launch> &launches) {
  const Driver &driver = gpu.getDriver();
  std::unordered_map<std::string, int64_t> sharedBytes;
  for (const Launch &launch : launches)
    for (const LaunchVariant &variant : launch.variants) {
      if (!isFor(variant, chip))
        continue;
      Function &function = functions[variant.kernel];
      if (!function) {
        int error = driver.cuModuleGetFunction(&function, module.get(),
                                               variant.kernel.c_str());
        if (error == kNotFound)
          return Status(StatusCode::Corrupt, file + ": no kernel '" +
                                                 variant.kernel + "', which '" +
                                                 launch.label + "' runs");
        QLM_RETURN_IF_ERROR(driver.check(error, "cuModuleGetFunction",
                                         "finding " + variant.kernel));
        QLM_CUDA_TRY(driver, "asking for shared memory for " + variant.kernel,
                     cuFuncSetAttribute, function, kSharedCarveout, kAllShared);
      }
      if (variant.cluster > kPortableCluster)
        QLM_CUDA_TRY(driver, "allowing large clusters of " + variant.kernel,
                     cuFuncSetAttribute, function, kLargeClusters, 1);
      if (variant.sharedBytes > gpu.getMaxSharedBytes())
        return Status(StatusCode::Unsupported,
                      "kernel '" + variant.kernel + "' takes " +
                          std::to_string(variant.sharedBytes) +
                          " bytes of shared memory, a block of the GPU has " +
                          std::to_string(gpu.getMaxSharedBytes()));
      int64_t &most = sharedBytes[variant.kernel];
      if (variant.sharedBytes <= std::max(most, kPlainSharedBytes))
        continue;
      most = variant.sharedBytes;
      QLM_CUDA_TRY(driver, "giving shared memory to " + variant.kernel,
                   cuFuncSetAttribute, function, kMaxDynamicSharedBytes,
                   static_cast<int>(variant.sharedBytes));
    }
  return Status();
}
