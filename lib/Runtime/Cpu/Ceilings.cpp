//===- Ceilings.cpp - What this machine can do at most --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Ceilings.h"

#include "qlm/Runtime/Package.h"
#include "qlm/Runtime/ThreadPool.h"
#include "qlm/Runtime/TileQueue.h"

#include <algorithm>
#include <chrono>
#include <immintrin.h>

using namespace qlm;
using Clock = std::chrono::steady_clock;

#define QLM_AVX2 __attribute__((target("avx2,fma")))
#define QLM_AVX512 __attribute__((target("avx512f,avx512bw")))
#define QLM_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define QLM_AMX __attribute__((target("amx-tile,amx-int8,amx-bf16")))

/// Keeps a vector that nothing reads from being optimized away. No function:
/// it would need the target of its caller.
#define QLM_KEEP(value) __asm__ volatile("" : "+v"(value))

static double secondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

/// Bytes that a thread reads in one round of its loop, and how far ahead it
/// asks for more.
static constexpr size_t roundBytes = 256, aheadBytes = 2048;
static constexpr size_t lineBytes = 64;

static void prefetchRound(const char *from) {
  for (size_t i = 0; i < roundBytes; i += lineBytes)
    __builtin_prefetch(from + aheadBytes + i, 0, 3);
}

QLM_AVX512 static void read512(const char *from, const char *to) {
  __m512i sums[4] = {};
  for (; from + roundBytes <= to; from += roundBytes) {
    prefetchRound(from);
    for (size_t i = 0; i < 4; ++i)
      sums[i] = _mm512_xor_si512(sums[i], _mm512_loadu_si512(from + 64 * i));
  }
  for (__m512i &sum : sums)
    QLM_KEEP(sum);
}

QLM_AVX2 static void read256(const char *from, const char *to) {
  __m256i sums[8] = {};
  for (; from + roundBytes <= to; from += roundBytes) {
    prefetchRound(from);
    for (size_t i = 0; i < 8; ++i)
      sums[i] = _mm256_xor_si256(
          sums[i],
          _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + 32 * i)));
  }
  for (__m256i &sum : sums)
    QLM_KEEP(sum);
}

/// The best of several passes over \p memory, of which each thread reads a
/// contiguous part.
static double measureReading(const MappedMemory &memory, bool has512,
                             ThreadPool &pool, double seconds) {
  double best = 0;
  Clock::time_point begin = Clock::now();
  // The first pass brings the pages in.
  for (int pass = 0; pass < 3 || secondsSince(begin) < seconds; ++pass) {
    Clock::time_point passBegin = Clock::now();
    pool.run([&](int index) {
      auto [lo, hi] =
          tileRange(static_cast<int64_t>(memory.size()), index, pool.size());
      (has512 ? read512 : read256)(memory.data() + lo, memory.data() + hi);
    });
    if (pass)
      best = std::max(best, static_cast<double>(memory.size()) /
                                secondsSince(passBegin) * 1e-9);
  }
  return best;
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

/// Rounds of a loop between two looks at the clock.
static constexpr int rounds = 2048;
/// Sums that hide an instruction's latency on two units.
static constexpr int sumCount = 12;

// Each computes `rounds` rounds and gives the operations of them.

QLM_AVX2 static double multiplyF32By256() {
  __m256 sums[sumCount] = {}, factor = _mm256_set1_ps(1e-9f);
  for (int i = 0; i < rounds; ++i)
    for (__m256 &sum : sums) {
      sum = _mm256_fmadd_ps(sum, factor, factor);
      QLM_KEEP(sum);
    }
  return 2.0 * 8 * sumCount * rounds;
}

QLM_AVX512 static double multiplyF32By512() {
  __m512 sums[sumCount] = {}, factor = _mm512_set1_ps(1e-9f);
  for (int i = 0; i < rounds; ++i)
    for (__m512 &sum : sums) {
      sum = _mm512_fmadd_ps(sum, factor, factor);
      QLM_KEEP(sum);
    }
  return 2.0 * 16 * sumCount * rounds;
}

/// Products of 16 bits: what kernels without VNNI make of bytes.
QLM_AVX2 static double multiplyPairsBy256() {
  __m256i sums[sumCount] = {}, factor = _mm256_set1_epi16(1);
  for (int i = 0; i < rounds; ++i)
    for (__m256i &sum : sums) {
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(factor, factor));
      QLM_KEEP(sum);
      QLM_KEEP(factor);
    }
  return 2.0 * 16 * sumCount * rounds;
}

QLM_AVX512 static double multiplyPairsBy512() {
  __m512i sums[sumCount] = {}, factor = _mm512_set1_epi16(1);
  for (int i = 0; i < rounds; ++i)
    for (__m512i &sum : sums) {
      sum = _mm512_add_epi32(sum, _mm512_madd_epi16(factor, factor));
      QLM_KEEP(sum);
      QLM_KEEP(factor);
    }
  return 2.0 * 32 * sumCount * rounds;
}

QLM_VNNI static double multiplyBytes() {
  __m512i sums[sumCount] = {}, factor = _mm512_set1_epi8(1);
  for (int i = 0; i < rounds; ++i)
    for (__m512i &sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, factor, factor);
      QLM_KEEP(sum);
    }
  return 2.0 * 64 * sumCount * rounds;
}

namespace {
/// The operand of ldtilecfg (Intel's manual, volume 1, 18.3): eight tiles of 16
/// rows of 64 bytes.
struct alignas(64) TileShapes {
  uint8_t palette = 1, startRow = 0, reserved[14] = {};
  uint16_t rowBytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
} // namespace

QLM_AMX static void configureTiles() {
  TileShapes shapes;
  __asm__ volatile("" : : "r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

QLM_AMX static double multiplyInt8Tiles() {
  configureTiles();
  for (int i = 0; i < rounds; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return 2.0 * 4 * 16 * 16 * 64 * rounds;
}

QLM_AMX static double multiplyBf16Tiles() {
  configureTiles();
  for (int i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 2.0 * 4 * 16 * 16 * 32 * rounds;
}

namespace {
struct Unit {
  const char *name;
  double (*multiply)();
};
} // namespace

/// The fastest unit that code for \p target may use for linears of \p model.
static Unit chooseUnit(const Manifest &manifest) {
  const std::vector<std::string> &features = manifest.target.features;
  auto has = [&](const char *name) {
    return std::find(features.begin(), features.end(), name) != features.end();
  };
  if (manifest.quantization.activations == "int8-dynamic")
    return has("amx-int8")     ? Unit{"AMX int8", multiplyInt8Tiles}
           : has("avx512vnni") ? Unit{"VNNI int8", multiplyBytes}
           : has("avx512bw")   ? Unit{"AVX512 int16", multiplyPairsBy512}
                               : Unit{"AVX2 int16", multiplyPairsBy256};
  if (manifest.quantization.weights == "bf16" && has("amx-bf16"))
    return {"AMX bf16", multiplyBf16Tiles};
  return has("avx512f") ? Unit{"AVX512 f32", multiplyF32By512}
                        : Unit{"AVX2 f32", multiplyF32By256};
}

static double measureArithmetic(const Unit &unit, ThreadPool &pool,
                                double seconds) {
  std::vector<double> speeds(static_cast<size_t>(pool.size()));
  pool.run([&](int index) {
    double operations = 0;
    Clock::time_point begin = Clock::now();
    do
      operations += unit.multiply();
    while (secondsSince(begin) < seconds);
    speeds[static_cast<size_t>(index)] = operations / secondsSince(begin);
  });
  double sum = 0;
  for (double speed : speeds)
    sum += speed;
  return sum * 1e-12;
}

Ceilings qlm::measureCeilings(const Package &package,
                              const MappedMemory &weights, int threads,
                              double seconds) {
  ThreadPool pool(threads);
  Unit unit = chooseUnit(package.getManifest());
  Ceilings ceilings;
  ceilings.unit = unit.name;
  ceilings.readGbps = measureReading(
      weights, __builtin_cpu_supports("avx512f") != 0, pool, seconds / 2);
  ceilings.arithmeticTops = measureArithmetic(unit, pool, seconds / 2);
  return ceilings;
}
