//===- Target.cpp - The processor that kernels are emitted for ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Cpu/Target.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/TargetParser/Host.h"

using namespace mlir::qlm::cpu;

namespace {
/// Every kernel needs these: x86-64-v3 without what no kernel uses.
constexpr llvm::StringLiteral kBaseFeatures[] = {
    "avx",   "avx2",   "bmi",  "bmi2",   "f16c",   "fma",  "lzcnt",
    "movbe", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"};
/// 512-bit vectors are used only where all of these are there.
constexpr llvm::StringLiteral kAvx512Features[] = {
    "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"};

/// Matrix registers, used only beside 512-bit vectors.
constexpr llvm::StringLiteral kTileFeature = "amx-tile";

struct Extension {
  llvm::StringLiteral feature;
  bool Target::*flag;
};
/// Used one by one, on top of the 512-bit set.
constexpr Extension kExtensions[] = {{"avx512vnni", &Target::avx512Vnni},
                                     {"avx512vbmi", &Target::avx512Vbmi},
                                     {"avx512bf16", &Target::avx512Bf16}};
/// vpdpbusd without AVX512; where that is, its own is used.
constexpr Extension kNarrowExtension = {"avxvnni", &Target::avxVnni};
constexpr Extension kTileExtensions[] = {{"amx-int8", &Target::amxInt8},
                                         {"amx-bf16", &Target::amxBf16}};
} // namespace

/// Builds the target \p cpu that uses every known feature for which \p has
/// answers yes.
static Target fromFeatures(llvm::StringRef cpu,
                           llvm::function_ref<bool(llvm::StringRef)> has) {
  Target target;
  target.cpu = cpu.str();
  for (llvm::StringRef feature : kBaseFeatures)
    target.features.push_back(feature.str());
  if (llvm::all_of(kAvx512Features, has)) {
    target.avx512 = true;
    for (llvm::StringRef feature : kAvx512Features)
      target.features.push_back(feature.str());
    for (const Extension &extension : kExtensions) {
      if (!has(extension.feature))
        continue;
      target.*extension.flag = true;
      target.features.push_back(extension.feature.str());
    }
    for (const Extension &extension : kTileExtensions) {
      if (!has(kTileFeature) || !has(extension.feature))
        continue;
      target.*extension.flag = true;
      target.features.push_back(extension.feature.str());
    }
    if (target.amxInt8 || target.amxBf16)
      target.features.push_back(kTileFeature.str());
  } else if (has(kNarrowExtension.feature)) {
    target.*kNarrowExtension.flag = true;
    target.features.push_back(kNarrowExtension.feature.str());
  }
  llvm::sort(target.features);
  return target;
}

static llvm::Expected<Target> getNative() {
  llvm::StringMap<bool> host = llvm::sys::getHostCPUFeatures();
  auto has = [&](llvm::StringRef feature) { return host.lookup(feature); };
  for (llvm::StringRef feature : kBaseFeatures)
    if (!has(feature))
      return llvm::createStringError(
          "this machine lacks %s, which every kernel needs (x86-64-v3)",
          feature.str().c_str());
  return fromFeatures(llvm::sys::getHostCPUName(), has);
}

std::string Target::featureString() const {
  std::string text;
  for (const std::string &feature : features)
    text += (text.empty() ? "+" : ",+") + feature;
  return text;
}

llvm::Expected<Target> Target::get(llvm::StringRef name) {
  if (name == "native")
    return getNative();
  if (name == "x86-64-v3")
    return fromFeatures(name, [](llvm::StringRef) { return false; });
  if (name == "alderlake")
    return fromFeatures(name, [](llvm::StringRef feature) {
      return feature == kNarrowExtension.feature;
    });
  if (name == "x86-64-v4")
    return fromFeatures(name, [](llvm::StringRef feature) {
      return llvm::is_contained(kAvx512Features, feature);
    });
  if (name == "icelake-server")
    return fromFeatures(name, [](llvm::StringRef feature) {
      return llvm::is_contained(kAvx512Features, feature) ||
             feature == "avx512vnni" || feature == "avx512vbmi";
    });
  if (name == "sapphirerapids")
    return fromFeatures(name, [](llvm::StringRef) { return true; });
  return llvm::createStringError(
      "unknown target cpu '%s', expected native, x86-64-v3, alderlake, "
      "x86-64-v4, icelake-server or sapphirerapids",
      name.str().c_str());
}
