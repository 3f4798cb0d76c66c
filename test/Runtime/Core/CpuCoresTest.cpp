//===- CpuCoresTest.cpp - Limits of cores are found and said --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/CpuCores.h"

#include "gtest/gtest.h"

#include <filesystem>
#include <fstream>
#include <sched.h>
#include <thread>

using namespace qlm;
namespace fs = std::filesystem;

namespace {
/// A folder with the files of control groups.
class CgroupTest : public testing::Test {
protected:
  CgroupTest() {
    root = testing::TempDir() + "cgroup-" +
           testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root);
    fs::create_directories(root);
  }
  ~CgroupTest() override { fs::remove_all(root); }

  void write(const std::string &file, const std::string &text) {
    fs::create_directories(fs::path(root + file).parent_path());
    std::ofstream(root + file) << text;
  }

  std::string root;
};
} // namespace

TEST_F(CgroupTest, NoFilesNoQuota) {
  EXPECT_EQ(readQuota("0::/", root), 0);
  EXPECT_EQ(readQuota("", root), 0);
  EXPECT_EQ(readQuota("no colons\n1:x\n", root), 0);
}

TEST_F(CgroupTest, Version2) {
  write("/cpu.max", "max 100000\n");
  EXPECT_EQ(readQuota("0::/\n", root), 0);
  write("/cpu.max", "300000 100000\n");
  EXPECT_EQ(readQuota("0::/\n", root), 3);
}

TEST_F(CgroupTest, TheLeastOfAGroupAndItsAncestors) {
  write("/a/cpu.max", "400000 100000\n");
  write("/a/b/cpu.max", "max 100000\n");
  write("/a/b/c/cpu.max", "700000 100000\n");
  write("/other/cpu.max", "100000 100000\n");
  EXPECT_EQ(readQuota("0::/a/b/c\n", root), 4);
  write("/a/b/c/cpu.max", "200000 100000\n");
  EXPECT_EQ(readQuota("0::/a/b/c\n", root), 2);
}

TEST_F(CgroupTest, Version1) {
  write("/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "250000\n");
  write("/cpu,cpuacct/docker/x/cpu.cfs_period_us", "50000\n");
  std::string groups = "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n";
  EXPECT_EQ(readQuota(groups, root), 5);
  write("/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(readQuota(groups, root), 0);
  // A container sees its own group at the root.
  write("/cpu/cpu.cfs_quota_us", "200000\n");
  write("/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(readQuota(groups, root), 2);
}

TEST_F(CgroupTest, SharesAreRoundedAndAtLeastOne) {
  write("/cpu.max", "10000 100000\n");
  EXPECT_EQ(readQuota("0::/\n", root), 1);
  write("/cpu.max", "260000 100000\n");
  EXPECT_EQ(readQuota("0::/\n", root), 3);
  write("/cpu.max", "nonsense\n");
  EXPECT_EQ(readQuota("0::/\n", root), 0);
}

static int threadsFor(int requested, const CoreLimits &limits,
                      const std::string &note) {
  std::string said;
  Result<int> threads = chooseThreads(requested, limits, said);
  EXPECT_EQ(said, note);
  return threads.ok() ? *threads : -1;
}

TEST(ChooseThreadsTest, HonoursEachLimitAndSaysIt) {
  EXPECT_EQ(threadsFor(0, {16, 16, 0}, ""), 16);
  EXPECT_EQ(threadsFor(3, {16, 16, 0}, ""), 3);
  EXPECT_EQ(threadsFor(17, {16, 16, 0},
                       "using 16 threads, not 17: the machine has 16 cores"),
            16);
  EXPECT_EQ(threadsFor(0, {16, 2, 0},
                       "using 2 threads: this process may run on 2 of 16 "
                       "cores"),
            2);
  EXPECT_EQ(threadsFor(0, {16, 8, 4},
                       "using 4 threads: a control group's quota allows 4 of "
                       "16 cores"),
            4);
  EXPECT_EQ(threadsFor(5, {16, 8, 4},
                       "using 4 threads, not 5: a control group's quota "
                       "allows 4 of 16 cores"),
            4);
  // A wider quota limits nothing; what was asked for needs no note.
  EXPECT_EQ(threadsFor(2, {16, 2, 64}, ""), 2);
  EXPECT_EQ(threadsFor(2, {16, 16, 2}, ""), 2);
}

TEST(ChooseThreadsTest, RefusesNegativeNumbers) {
  std::string note;
  Result<int> threads = chooseThreads(-1, {4, 4, 0}, note);
  EXPECT_EQ(threads.status().getCode(), StatusCode::InvalidArgument);
  EXPECT_EQ(threads.status().message(), "threads must not be negative, got -1");
}

// The limits of this process follow its affinity.
TEST(CoreLimitsTest, FollowTheAffinity) {
  CoreLimits before = getCoreLimits();
  EXPECT_GE(before.machine, 1);
  EXPECT_GE(before.usable(), 1);
  std::thread([&] {
    cpu_set_t all, one;
    CPU_ZERO(&all);
    ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
    int core = 0;
    while (!CPU_ISSET(core, &all))
      ++core;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    EXPECT_EQ(getCoreLimits().affinity, 1);
    EXPECT_EQ(getCoreLimits().usable(), 1);
  }).join();
}
