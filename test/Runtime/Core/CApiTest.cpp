//===- CApiTest.cpp - The C interface from C ------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakePackage.h"
#include "gtest/gtest.h"

#include <cstdlib>

using namespace qlm;

// A program of its own, in C, linked with libqlm.so alone.
TEST(CApiTest, DoesWhatTheHeaderSays) {
  test::FakePackage package;
  std::string command = std::string(QLM_C_API_TEST) + " " + package.path();
  EXPECT_EQ(std::system(command.c_str()), 0);
}
