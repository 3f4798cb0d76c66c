//===- TargetTest.cpp - Which features a target has -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Cpu/Target.h"

#include "llvm/ADT/STLExtras.h"

#include <gtest/gtest.h>

using mlir::qlm::cpu::Target;

static Target get(llvm::StringRef name) {
  return llvm::cantFail(Target::get(name));
}

static bool has(const Target &target, llvm::StringRef feature) {
  return llvm::is_contained(target.features, feature);
}

TEST(TargetTest, Avx2HasNoAvx512) {
  Target target = get("x86-64-v3");
  EXPECT_EQ(target.lanes(), 8);
  EXPECT_EQ(target.featureString(),
            "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse3,"
            "+sse4.1,+sse4.2,+ssse3");
}

TEST(TargetTest, AlderLakeHasVnniWithoutAvx512) {
  Target target = get("alderlake");
  EXPECT_EQ(target.lanes(), 8);
  EXPECT_TRUE(target.dotsBytes() && target.avxVnni && has(target, "avxvnni"));
  EXPECT_FALSE(target.avx512 || target.avx512Vnni || target.amxInt8);
  EXPECT_FALSE(get("x86-64-v3").dotsBytes() || get("x86-64-v4").dotsBytes());
  EXPECT_FALSE(get("sapphirerapids").avxVnni);
}

TEST(TargetTest, Avx512AloneHasNoVnni) {
  Target target = get("x86-64-v4");
  EXPECT_EQ(target.lanes(), 16);
  EXPECT_TRUE(has(target, "avx512f") && has(target, "fma"));
  EXPECT_FALSE(target.avx512Vnni || target.avx512Vbmi || target.avx512Bf16);
  EXPECT_FALSE(has(target, "avx512vnni"));
  EXPECT_FALSE(target.amxInt8 || has(target, "amx-tile"));
}

TEST(TargetTest, IceLakeHasVnniAlone) {
  Target target = get("icelake-server");
  EXPECT_EQ(target.cpu, "icelake-server");
  EXPECT_TRUE(target.avx512 && target.avx512Vnni && target.avx512Vbmi);
  EXPECT_TRUE(has(target, "avx512vnni") && has(target, "avx512vbmi"));
  EXPECT_FALSE(target.avx512Bf16 || has(target, "avx512bf16"));
  EXPECT_FALSE(target.amxInt8 || target.amxBf16 || has(target, "amx-tile"));
}

TEST(TargetTest, SapphireRapidsHasAmx) {
  Target target = get("sapphirerapids");
  EXPECT_TRUE(target.avx512Vnni && target.avx512Vbmi && target.avx512Bf16);
  EXPECT_TRUE(has(target, "avx512vnni") && has(target, "avx512bf16"));
  EXPECT_TRUE(target.amxInt8 && target.amxBf16);
  EXPECT_TRUE(has(target, "amx-tile") && has(target, "amx-int8") &&
              has(target, "amx-bf16"));
  EXPECT_FALSE(target.tilesInMemory);
  EXPECT_TRUE(llvm::is_sorted(target.features));
}

// Flags and names of the machine's own target tell the same.
TEST(TargetTest, NativeAgreesWithItself) {
  llvm::Expected<Target> target = Target::get("native");
  if (!target)
    GTEST_SKIP() << llvm::toString(target.takeError());
  EXPECT_EQ(has(*target, "avx512f"), target->avx512);
  EXPECT_EQ(has(*target, "avx512vnni"), target->avx512Vnni);
  EXPECT_EQ(has(*target, "avx512vbmi"), target->avx512Vbmi);
  EXPECT_EQ(has(*target, "avxvnni"), target->avxVnni);
  EXPECT_EQ(has(*target, "avx512bf16"), target->avx512Bf16);
  EXPECT_EQ(has(*target, "amx-int8"), target->amxInt8);
  EXPECT_EQ(has(*target, "amx-bf16"), target->amxBf16);
  EXPECT_EQ(has(*target, "amx-tile"), target->amxInt8 || target->amxBf16);
}

TEST(TargetTest, UnknownNameIsRefused) {
  llvm::Expected<Target> target = Target::get("pentium");
  ASSERT_FALSE(static_cast<bool>(target));
  EXPECT_EQ(llvm::toString(target.takeError()),
            "unknown target cpu 'pentium', expected native, x86-64-v3, "
            "alderlake, x86-64-v4, icelake-server or sapphirerapids");
}
