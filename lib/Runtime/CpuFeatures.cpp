//===- CpuFeatures.cpp - What this processor can do -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/CpuFeatures.h"

#include <algorithm>
#include <cerrno>
#include <cpuid.h>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sys/syscall.h>
#include <unistd.h>

using namespace qlm;

namespace {
enum Register { Eax, Ebx, Ecx, Edx };
/// Registers that the system must save for a feature to be usable.
enum class Needs { Nothing, Ymm, Zmm, Tiles };

struct FeatureBit {
  const char *name; ///< LLVM's
  unsigned leaf, subleaf;
  Register reg;
  int bit;
  Needs needs;
};

/// Where CPUID tells of each feature (Intel's manual, volume 2A, CPUID; AMD's
/// manual, volume 3, appendix E, for leaf 0x80000001).
constexpr FeatureBit featureBits[] = {
    {"sse3", 1, 0, Ecx, 0, Needs::Nothing},
    {"pclmul", 1, 0, Ecx, 1, Needs::Nothing},
    {"ssse3", 1, 0, Ecx, 9, Needs::Nothing},
    {"fma", 1, 0, Ecx, 12, Needs::Ymm},
    {"cx16", 1, 0, Ecx, 13, Needs::Nothing},
    {"sse4.1", 1, 0, Ecx, 19, Needs::Nothing},
    {"sse4.2", 1, 0, Ecx, 20, Needs::Nothing},
    {"crc32", 1, 0, Ecx, 20, Needs::Nothing},
    {"movbe", 1, 0, Ecx, 22, Needs::Nothing},
    {"popcnt", 1, 0, Ecx, 23, Needs::Nothing},
    {"aes", 1, 0, Ecx, 25, Needs::Nothing},
    {"xsave", 1, 0, Ecx, 26, Needs::Nothing},
    {"avx", 1, 0, Ecx, 28, Needs::Ymm},
    {"f16c", 1, 0, Ecx, 29, Needs::Ymm},
    {"rdrnd", 1, 0, Ecx, 30, Needs::Nothing},
    {"cx8", 1, 0, Edx, 8, Needs::Nothing},
    {"cmov", 1, 0, Edx, 15, Needs::Nothing},
    {"mmx", 1, 0, Edx, 23, Needs::Nothing},
    {"fxsr", 1, 0, Edx, 24, Needs::Nothing},
    {"sse", 1, 0, Edx, 25, Needs::Nothing},
    {"sse2", 1, 0, Edx, 26, Needs::Nothing},
    {"fsgsbase", 7, 0, Ebx, 0, Needs::Nothing},
    {"bmi", 7, 0, Ebx, 3, Needs::Nothing},
    {"avx2", 7, 0, Ebx, 5, Needs::Ymm},
    {"bmi2", 7, 0, Ebx, 8, Needs::Nothing},
    {"invpcid", 7, 0, Ebx, 10, Needs::Nothing},
    {"avx512f", 7, 0, Ebx, 16, Needs::Zmm},
    {"avx512dq", 7, 0, Ebx, 17, Needs::Zmm},
    {"rdseed", 7, 0, Ebx, 18, Needs::Nothing},
    {"adx", 7, 0, Ebx, 19, Needs::Nothing},
    {"avx512ifma", 7, 0, Ebx, 21, Needs::Zmm},
    {"clflushopt", 7, 0, Ebx, 23, Needs::Nothing},
    {"clwb", 7, 0, Ebx, 24, Needs::Nothing},
    {"avx512cd", 7, 0, Ebx, 28, Needs::Zmm},
    {"sha", 7, 0, Ebx, 29, Needs::Nothing},
    {"avx512bw", 7, 0, Ebx, 30, Needs::Zmm},
    {"avx512vl", 7, 0, Ebx, 31, Needs::Zmm},
    {"avx512vbmi", 7, 0, Ecx, 1, Needs::Zmm},
    {"pku", 7, 0, Ecx, 3, Needs::Nothing},
    {"avx512vbmi2", 7, 0, Ecx, 6, Needs::Zmm},
    {"gfni", 7, 0, Ecx, 8, Needs::Nothing},
    {"vaes", 7, 0, Ecx, 9, Needs::Ymm},
    {"vpclmulqdq", 7, 0, Ecx, 10, Needs::Ymm},
    {"avx512vnni", 7, 0, Ecx, 11, Needs::Zmm},
    {"avx512bitalg", 7, 0, Ecx, 12, Needs::Zmm},
    {"avx512vpopcntdq", 7, 0, Ecx, 14, Needs::Zmm},
    {"rdpid", 7, 0, Ecx, 22, Needs::Nothing},
    {"movdiri", 7, 0, Ecx, 27, Needs::Nothing},
    {"movdir64b", 7, 0, Ecx, 28, Needs::Nothing},
    {"avx512vp2intersect", 7, 0, Edx, 8, Needs::Zmm},
    {"amx-bf16", 7, 0, Edx, 22, Needs::Tiles},
    {"avx512fp16", 7, 0, Edx, 23, Needs::Zmm},
    {"amx-tile", 7, 0, Edx, 24, Needs::Tiles},
    {"amx-int8", 7, 0, Edx, 25, Needs::Tiles},
    {"avxvnni", 7, 1, Eax, 4, Needs::Ymm},
    {"avx512bf16", 7, 1, Eax, 5, Needs::Zmm},
    {"avxifma", 7, 1, Eax, 23, Needs::Ymm},
    {"avxvnniint8", 7, 1, Edx, 4, Needs::Ymm},
    {"avxneconvert", 7, 1, Edx, 5, Needs::Ymm},
    {"xsaveopt", 0xd, 1, Eax, 0, Needs::Nothing},
    {"xsavec", 0xd, 1, Eax, 1, Needs::Nothing},
    {"xsaves", 0xd, 1, Eax, 3, Needs::Nothing},
    {"sahf", 0x80000001u, 0, Ecx, 0, Needs::Nothing},
    {"lzcnt", 0x80000001u, 0, Ecx, 5, Needs::Nothing},
    {"sse4a", 0x80000001u, 0, Ecx, 6, Needs::Nothing},
    {"prfchw", 0x80000001u, 0, Ecx, 8, Needs::Nothing},
    {"mwaitx", 0x80000001u, 0, Ecx, 29, Needs::Nothing},
    {"64bit", 0x80000001u, 0, Edx, 29, Needs::Nothing},
    {"clzero", 0x80000008u, 0, Ebx, 0, Needs::Nothing},
    {"rdpru", 0x80000008u, 0, Ebx, 4, Needs::Nothing},
    {"wbnoinvd", 0x80000008u, 0, Ebx, 9, Needs::Nothing},
};
} // namespace

/// Which vector registers the system saves (XCR0: bits 1 and 2 for YMM, 5 to 7
/// for the masks and ZMM, 17 and 18 for the tiles of AMX and their shapes).
static uint64_t savedRegisters() {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned osxsave = 1u << 27;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & osxsave))
    return 0;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

static bool isPresent(const FeatureBit &feature, uint64_t saved) {
  constexpr uint64_t ymm = 0x6, zmm = 0xe6, tiles = 0x60000;
  uint64_t needed = feature.needs == Needs::Tiles ? tiles
                    : feature.needs == Needs::Zmm ? zmm
                    : feature.needs == Needs::Ymm ? ymm
                                                  : 0;
  unsigned registers[4];
  return (saved & needed) == needed &&
         __get_cpuid_count(feature.leaf, feature.subleaf, &registers[Eax],
                           &registers[Ebx], &registers[Ecx], &registers[Edx]) &&
         (registers[feature.reg] >> feature.bit & 1);
}

std::vector<std::string> qlm::machineFeatures() {
  std::vector<std::string> features;
  uint64_t saved = savedRegisters();
  for (const FeatureBit &feature : featureBits)
    if (isPresent(feature, saved))
      features.emplace_back(feature.name);
  std::sort(features.begin(), features.end());
  return features;
}

static std::string join(const std::vector<std::string> &words) {
  std::string text;
  for (const std::string &word : words)
    text += (text.empty() ? "" : ",") + word;
  return text;
}

Status qlm::checkFeatures(const std::vector<std::string> &needed,
                          const std::vector<std::string> &present) {
  std::vector<std::string> missing;
  for (const std::string &feature : needed)
    if (std::find(present.begin(), present.end(), feature) == present.end())
      missing.push_back(feature);
  if (missing.empty())
    return Status();
  return Status(StatusCode::Unsupported,
                "the package needs processor features " + join(needed) +
                    ", this machine has " + join(present) + " and lacks " +
                    join(missing) +
                    "; recompile it with quantc --target-cpu=native here or "
                    "with an older --target-cpu");
}

Status qlm::requestTiles() {
  constexpr long requestPermission = 0x1023, tileData = 18;
  if (syscall(SYS_arch_prctl, requestPermission, tileData) == 0)
    return Status();
  return Status(StatusCode::Unsupported,
                std::string("the package needs AMX, and the system refuses "
                            "this process its registers: ") +
                    std::strerror(errno) +
                    "; recompile it with quantc --target-cpu=x86-64-v4");
}

Status qlm::prepareFeatures(const std::vector<std::string> &needed) {
  QLM_RETURN_IF_ERROR(checkFeatures(needed, machineFeatures()));
  if (std::find(needed.begin(), needed.end(), "amx-tile") == needed.end())
    return Status();
  return requestTiles();
}
