//===- Inspect.cpp - Shows a package's plan, sizes and kernels ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "InspectPage.h"

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

using namespace qlm;
using namespace qlm::tool;
using Json = nlohmann::ordered_json;

namespace {
/// The launches that share a kernel; on a GPU, those of which it is a variant.
struct KernelUse {
  std::string kernel;
  std::string chip; ///< empty on a processor
  int64_t launches = 0;
  int64_t bytes = 0;
  /// Of a GPU, where the package says it.
  const KernelResources *resources = nullptr;
};
} // namespace

/// What the code for \p chip says of \p kernel, or null.
static const KernelResources *findResources(const TargetInfo &target,
                                            const std::string &chip,
                                            const std::string &kernel) {
  for (const GpuModule &module : target.chips)
    if (module.chip == chip)
      for (const KernelResources &resources : module.kernels)
        if (resources.kernel == kernel)
          return &resources;
  return nullptr;
}

static std::vector<KernelUse> countKernels(const Manifest &manifest) {
  std::vector<KernelUse> uses;
  std::map<std::pair<std::string, std::string>, size_t> places;
  auto count = [&](const std::string &kernel, const std::string &chip,
                   int64_t bytes) {
    auto [place, isNew] = places.try_emplace({chip, kernel}, uses.size());
    if (isNew)
      uses.push_back(
          {kernel, chip, 0, 0, findResources(manifest.target, chip, kernel)});
    ++uses[place->second].launches;
    uses[place->second].bytes += bytes;
  };
  for (const std::vector<Launch> *list :
       {&manifest.launches, &manifest.sampling})
    for (const Launch &launch : *list) {
      if (launch.variants.empty())
        count(launch.kernel, "", launch.bytes);
      for (const LaunchVariant &variant : launch.variants)
        count(variant.kernel, variant.chip, launch.bytes);
    }
  // Chip by chip, each in the order of the launches.
  std::set<std::string> chips;
  for (const KernelUse &use : uses)
    chips.insert(use.chip);
  std::vector<KernelUse> sorted;
  for (const std::string &chip : chips)
    for (const KernelUse &use : uses)
      if (use.chip == chip)
        sorted.push_back(use);
  return sorted;
}

static double megabytes(int64_t bytes) {
  return static_cast<double>(bytes) * 1e-6;
}

static void printKernels(const Manifest &manifest) {
  auto number = [](int64_t value) { return static_cast<long long>(value); };
  bool isCuda = manifest.target.isCuda();
  std::printf("%-56s %8s %10s", "kernel", "launches", "weight MB");
  if (isCuda)
    std::printf(" %9s %7s %8s", "registers", "spilled", "shared B");
  std::printf("\n");
  std::string chip;
  for (const KernelUse &use : countKernels(manifest)) {
    if (use.chip != chip)
      std::printf("%s\n", use.chip.c_str());
    chip = use.chip;
    std::printf("%-56s %8lld %10.1f", use.kernel.c_str(), number(use.launches),
                megabytes(use.bytes));
    if (use.resources)
      std::printf(" %9lld %7lld %8lld", number(use.resources->registers),
                  number(use.resources->spillBytes),
                  number(use.resources->sharedBytes));
    std::printf("\n");
  }
}

static void printText(const Manifest &manifest) {
  const ModelInfo &model = manifest.model;
  const MemoryPlan &plan = manifest.plan;
  auto number = [](int64_t value) { return static_cast<long long>(value); };
  std::printf("model        %s (%s), %.1f million parameters\n",
              model.name.c_str(), model.architecture.c_str(),
              megabytes(model.parameters));
  std::printf("             %lld layers, hidden %lld, heads %lld/%lld of %lld, "
              "vocabulary %lld\n",
              number(model.layers), number(model.hiddenSize),
              number(model.heads), number(model.kvHeads), number(model.headDim),
              number(model.vocabularySize));
  std::printf("weights      %s (%s), activations %s, %.1f MB\n",
              manifest.quantization.weights.c_str(),
              manifest.quantization.method.c_str(),
              manifest.quantization.activations.c_str(),
              megabytes(manifest.weights.bytes));
  std::printf("target       %s\n", describeTarget(manifest.target).c_str());
  std::printf("limits       batch %lld, context %lld, step %lld tokens\n",
              number(plan.maxBatch), number(plan.maxContext),
              number(plan.maxStepTokens));
  std::printf("cache        %s, %lld pages of %lld tokens, %.1f MB\n",
              plan.kv.type.c_str(), number(plan.kv.pages),
              number(plan.kv.pageTokens), megabytes(plan.kv.poolBytes));
  std::printf("memory       arena %.1f MB, logits %.1f MB, peak %.1f MB\n",
              megabytes(plan.arenaBytes), megabytes(plan.logitsBytes),
              megabytes(plan.peakBytes));
  std::printf("made by      %s\n\n", manifest.producer.c_str());
  printKernels(manifest);
}

/// The manifest as it is, and what is counted from it.
static int printManifest(const std::string &package, const Manifest &manifest) {
  Result<std::string> text = readFile(package + "/" + format::kManifestFile);
  if (!text.ok())
    return badInput(text.status().message());
  Json output = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  output["kernels"] = Json::array();
  for (const KernelUse &use : countKernels(manifest)) {
    Json kernel = {{"kernel", use.kernel},
                   {"launches", use.launches},
                   {"bytes", use.bytes}};
    if (!use.chip.empty())
      kernel["chip"] = use.chip;
    if (use.resources) {
      kernel["registers"] = use.resources->registers;
      kernel["spill_bytes"] = use.resources->spillBytes;
      kernel["shared_bytes"] = use.resources->sharedBytes;
    }
    output["kernels"].push_back(std::move(kernel));
  }
  printJson(output);
  return exitSuccess;
}

int qlm::tool::runInspect(int argc, char **argv) {
  bool json = false;
  std::string package, html;
  Arguments arguments("inspect", "PKG",
                      "Shows a package's plan, sizes and kernels; runs "
                      "nothing of it.");
  arguments.flag("--json", json, "print one JSON object");
  arguments.text("--html", html, "write a web page to this file");
  int exitCode;
  if (!arguments.parse(argc, argv, package, exitCode))
    return exitCode;
  Result<Manifest> manifest = readManifest(package);
  if (!manifest.ok())
    return badInput(manifest.status().message());
  if (!html.empty())
    if (Status status = writeInspectPage(*manifest, html); !status.ok())
      return badInput(status.message());
  if (json)
    return printManifest(package, *manifest);
  printText(*manifest);
  return exitSuccess;
}
