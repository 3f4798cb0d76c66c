//===- CpuCores.h - How many cores this process may use ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_CPUCORES_H
#define QLM_RUNTIME_CPUCORES_H

#include "qlm/Runtime/Status.h"

#include <string>

namespace qlm {

/// What limits a process's use of the machine's cores.
struct CoreLimits {
  int machine = 1;  ///< cores that are switched on
  int affinity = 1; ///< cores that the process may run on
  /// Cores' worth of time that control groups allow, rounded to the nearest
  /// whole number, at least 1; 0 without a quota.
  int quota = 0;

  /// Threads that can run at once, at least 1.
  int usable() const;
  /// "a control group's quota allows 2 of 16 cores"; empty where nothing is
  /// limited.
  std::string describe() const;
};

/// The limits of this process.
CoreLimits getCoreLimits();

/// The quota of a process in the control groups that \p groups (the text of
/// /proc/self/cgroup) names, whose files lie under \p root (/sys/fs/cgroup):
/// the least of the group's and its ancestors', of version 2 (cpu.max) and of
/// version 1 (cpu.cfs_quota_us). As CoreLimits::quota.
int readQuota(const std::string &groups, const std::string &root);

/// Threads to use where \p requested are asked for, 0 for as many as can run;
/// \p note says where that is not what was asked for, or less than the machine
/// has. Errors: InvalidArgument for negative numbers.
Result<int> chooseThreads(int requested, const CoreLimits &limits,
                          std::string &note);

} // namespace qlm

#endif // QLM_RUNTIME_CPUCORES_H
