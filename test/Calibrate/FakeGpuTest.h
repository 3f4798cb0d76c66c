//===- FakeGpuTest.h - A test on the fake driver ----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_CALIBRATE_FAKEGPUTEST_H
#define QLM_TEST_CALIBRATE_FAKEGPUTEST_H

#include "FakeCuda.h"

#include "gtest/gtest.h"

namespace qlm::test {

/// Each test leaves the driver without objects and without violations.
class FakeGpuTest : public testing::Test {
protected:
  void SetUp() override { fakeCudaReset(); }
  void TearDown() override {
    EXPECT_STREQ(fakeCudaViolations(), "");
    EXPECT_EQ(fakeCudaLiveObjects(), 0);
    fakeCudaReset();
  }
};

} // namespace qlm::test

#endif // QLM_TEST_CALIBRATE_FAKEGPUTEST_H
