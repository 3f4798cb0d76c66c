//===- FastCores.cpp - Which cores are fast at the moment -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// On a machine that others share, the cores of a guest differ in speed, by up
// to four times, and change from minute to minute. Multiplies on one core after
// the other, by AMX with operands from the second level of cache, as linears of
// many rows do, or by fused multiply-adds of vectors alone, and prints the
// fastest ones. The second level tells more than the first: a guest on the same
// core may leave the matrix unit alone and still empty the cache.
//
//   $ qlm-fast-cores 2
//   7,15
//   $ qlm-fast-cores 2 all         and every core's speed, on standard error
//
//===----------------------------------------------------------------------===//

#include <algorithm>
#include <chrono>
#include <cpuid.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <immintrin.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {
/// A trial is a few milliseconds, longer than most interruptions; the worst of
/// some counts, since work that lasts meets the worst too.
constexpr int kTrials = 6, kRounds = 16384, kProductsARound = 4;
constexpr double kOperationsOfTile = 2.0 * 16 * 16 * 64;
constexpr double kOperationsOfVector = 2.0 * 8;

/// The operand of `ldtilecfg`: eight registers of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, startRow = 0, reserved[14] = {};
  uint16_t rowBytes[16] = {};
  uint8_t rows[16] = {};
  TileConfig() {
    std::fill_n(rowBytes, 8, uint16_t(64));
    std::fill_n(rows, 8, uint8_t(16));
  }
};

/// Whether the processor has AMX for int8 and the system lets us use it.
bool hasTiles() {
  constexpr unsigned kTileBit = 1u << 24, kInt8Bit = 1u << 25;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kTileBit) ||
      !(d & kInt8Bit))
    return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

/// 32 rows at a time of 512, by 32 features, all of 2048 columns: what a linear
/// has in the second level.
__attribute__((target("amx-tile,amx-int8"))) void multiplyTiles() {
  constexpr int kTile = 1024, kSteps = 32, kPatches = 16;
  alignas(4096) static char rows[kPatches * kSteps * 2 * kTile];
  alignas(4096) static char features[kSteps * 2 * kTile];
  // Untouched memory is one page of zeros.
  if (!rows[0]) {
    std::fill(std::begin(rows), std::end(rows), char(1));
    std::fill(std::begin(features), std::end(features), char(1));
  }
  static const TileConfig config;
  _tile_loadconfig(&config);
  for (int i = 0; i < kRounds; ++i) {
    int step = i % kSteps;
    const char *a = rows + i / kSteps % kPatches * (kSteps * 2 * kTile);
    const char *b = features;
    _tile_loadd(4, a + step * kTile, 64);
    _tile_loadd(5, a + (kSteps + step) * kTile, 64);
    _tile_loadd(6, b + step * kTile, 64);
    _tile_loadd(7, b + (kSteps + step) * kTile, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
}

__attribute__((target("avx2,fma"))) void multiplyVectors() {
  constexpr int kSums = 12;
  constexpr int kRepeats = 16 * kProductsARound / kSums + 1;
  __m256 sums[kSums] = {}, factor = _mm256_set1_ps(0.5f);
  for (int i = 0; i < kRounds * kRepeats; ++i)
    for (__m256 &sum : sums)
      sum = _mm256_fmadd_ps(sum, factor, factor);
  [[maybe_unused]] static volatile float sink;
  for (__m256 sum : sums)
    sink = _mm256_cvtss_f32(sum);
}

/// Operations a second of the slowest trial, in units of 10^12.
double measure(bool tiles) {
  double slowest = 0;
  // The first one fills the caches.
  for (int trial = -1; trial < kTrials; ++trial) {
    auto begin = std::chrono::steady_clock::now();
    tiles ? multiplyTiles() : multiplyVectors();
    std::chrono::duration<double> passed =
        std::chrono::steady_clock::now() - begin;
    if (trial >= 0)
      slowest = std::max(slowest, passed.count());
  }
  double operations = tiles ? kRounds * kProductsARound * kOperationsOfTile
                            : kRounds * (16 * kProductsARound / 12 + 1) * 12 *
                                  kOperationsOfVector;
  return operations / slowest / 1e12;
}
} // namespace

int main(int argc, char **argv) {
  size_t wanted = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1;
  cpu_set_t allowed;
  if (wanted == 0 || sched_getaffinity(0, sizeof(allowed), &allowed)) {
    std::fprintf(stderr, "usage: qlm-fast-cores COUNT [all]\n");
    return 2;
  }
  bool tiles = hasTiles();
  std::vector<std::pair<double, int>> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed))
      continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    if (sched_setaffinity(0, sizeof(one), &one) == 0)
      cores.push_back({measure(tiles), core});
  }
  std::sort(cores.rbegin(), cores.rend());
  for (size_t i = 0; i < std::min(wanted, cores.size()); ++i)
    std::printf("%s%d", i ? "," : "", cores[i].second);
  std::printf("\n");
  for (auto [speed, core] : cores)
    if (argc > 2)
      std::fprintf(stderr, "%d:%.3g ", core, speed);
  if (argc > 2)
    std::fprintf(stderr, "%s TOP/s\n", tiles ? "AMX int8" : "AVX2 f32");
  return 0;
}
