//===- CeilingsTest.cpp - The machine's limits are measured ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Ceilings.h"

#include "FakePackage.h"
#include "qlm/Runtime/CpuFeatures.h"
#include "qlm/Runtime/Package.h"
#include "gtest/gtest.h"

#include <algorithm>

using namespace qlm;
using test::FakePackage;
using test::Json;

/// The ceilings of a package with these features, as far as this machine has
/// them, and activations.
static Ceilings measure(std::vector<std::string> features,
                        const char *activations, const char *weights) {
  FakePackage package({}, [&](Json &manifest) {
    manifest["target"]["features"] = features;
    manifest["quantization"]["activations"] = activations;
    manifest["quantization"]["weights"] = weights;
  });
  Result<std::unique_ptr<Package>> loaded = Package::load(package.path(), {});
  EXPECT_TRUE(loaded.ok()) << loaded.status().message();
  return loaded.ok()
             ? measureCeilings(**loaded, (*loaded)->weightsMemory(), 2, 0.002)
             : Ceilings();
}

TEST(CeilingsTest, MeasuresTheUnitThatTheCodeUses) {
  std::vector<std::string> machine = machineFeatures();
  auto has = [&](const char *name) {
    return std::count(machine.begin(), machine.end(), name) != 0;
  };
  if (!has("avx2") || !has("fma"))
    GTEST_SKIP() << "this machine runs no package";
  auto check = [](const Ceilings &ceilings, const char *unit) {
    EXPECT_EQ(ceilings.unit, unit);
    EXPECT_GT(ceilings.arithmeticTops, 0);
    EXPECT_GT(ceilings.readGbps, 0);
  };
  check(measure({"avx2", "fma"}, "none", "f32"), "AVX2 f32");
  check(measure({"avx2", "fma"}, "int8-dynamic", "int4-g32"), "AVX2 int16");
  if (has("avx512f") && has("avx512bw")) {
    check(measure({"avx512f", "avx512bw"}, "none", "bf16"), "AVX512 f32");
    check(measure({"avx512f", "avx512bw"}, "int8-dynamic", "int8"),
          "AVX512 int16");
  }
  if (has("avx512vnni"))
    check(measure({"avx512bw", "avx512vnni"}, "int8-dynamic", "int8"),
          "VNNI int8");
  if (has("amx-int8") && has("amx-bf16")) {
    check(measure({"amx-int8", "amx-tile"}, "int8-dynamic", "int8"),
          "AMX int8");
    check(measure({"amx-bf16", "amx-tile"}, "none", "bf16"), "AMX bf16");
  }
}
