//===- GpuCodeTest.cpp - Which code runs on which GPU ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuCode.h"

#include "gtest/gtest.h"

using namespace qlm::cuda;

// CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility".
TEST(GpuCodeTest, MachineCodeRunsOnItsMajorVersion) {
  EXPECT_TRUE(runsOn("sm_80", 80));
  EXPECT_TRUE(runsOn("sm_80", 86));
  EXPECT_TRUE(runsOn("sm_80", 89));
  EXPECT_FALSE(runsOn("sm_89", 86));
  EXPECT_FALSE(runsOn("sm_80", 90));
  EXPECT_FALSE(runsOn("sm_90", 89));
  EXPECT_TRUE(runsOn("sm_90a", 90));
  EXPECT_FALSE(runsOn("sm_100a", 103));
  EXPECT_TRUE(runsOn("sm_100", 103));
}

TEST(GpuCodeTest, PtxCompilesForNewerGpus) {
  EXPECT_TRUE(compilesFor("sm_80", 80));
  EXPECT_TRUE(compilesFor("sm_80", 120));
  EXPECT_FALSE(compilesFor("sm_90", 89));
  EXPECT_TRUE(compilesFor("sm_90a", 90));
  EXPECT_FALSE(compilesFor("sm_90a", 100));
}

// PTX ISA, "Release Notes": the table of CUDA releases and PTX versions.
TEST(GpuCodeTest, PtxNeedsTheDriverThatCameWithIt) {
  EXPECT_EQ(driverFor(70), 11000);
  EXPECT_EQ(driverFor(78), 11080);
  EXPECT_EQ(driverFor(80), 12000);
  EXPECT_EQ(driverFor(83), 12030);
  EXPECT_EQ(driverFor(85), 12050);
  EXPECT_EQ(driverFor(87), 12080);
  EXPECT_EQ(driverFor(90), 13000);
  EXPECT_EQ(versionText(12030), "12.3");
}
