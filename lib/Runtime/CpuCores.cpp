//===- CpuCores.cpp - How many cores this process may use -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/CpuCores.h"

#include <algorithm>
#include <fstream>
#include <sched.h>
#include <sstream>
#include <unistd.h>

using namespace qlm;

int CoreLimits::usable() const {
  return std::max(1, quota ? std::min(affinity, quota) : affinity);
}

std::string CoreLimits::describe() const {
  if (usable() >= machine)
    return "";
  std::string of = " of " + std::to_string(machine) + " cores";
  if (quota && quota < affinity)
    return "a control group's quota allows " + std::to_string(quota) + of;
  return "this process may run on " + std::to_string(affinity) + of;
}

/// Quota over period of one group's folder, 0 without a quota.
static double readShare(const std::string &folder) {
  double quota = 0, period = 0;
  // cpu.max begins with "max" where there is no quota.
  if (std::ifstream file(folder + "/cpu.max"); file >> quota >> period) {
  } else if (std::ifstream quotaFile(folder + "/cpu.cfs_quota_us"),
             periodFile(folder + "/cpu.cfs_period_us");
             !(quotaFile >> quota && periodFile >> period)) {
    return 0;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

/// Lowers \p least to the shares of the group at \p path under \p root and of
/// its ancestors.
static void lowerToGroup(const std::string &root, std::string path,
                         double &least) {
  for (;;) {
    double share = readShare(root + path);
    if (share > 0 && (least == 0 || share < least))
      least = share;
    size_t slash = path.find_last_of('/');
    if (slash == std::string::npos)
      return;
    path.resize(slash);
  }
}

int qlm::readQuota(const std::string &groups, const std::string &root) {
  double least = 0;
  // Inside a container the group's own files stand at the root, whatever its
  // name outside is.
  for (const char *folder : {"", "/cpu", "/cpu,cpuacct"})
    lowerToGroup(root + folder, "", least);
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {
    // hierarchy:controllers:path
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos)
      continue;
    std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (controllers.empty())
      lowerToGroup(root, path, least);
    else if (("," + controllers + ",").find(",cpu,") != std::string::npos)
      for (const std::string &folder : {std::string("cpu"), controllers})
        lowerToGroup(root + "/" + folder, path, least);
  }
  return least > 0 ? std::max(1, static_cast<int>(least + 0.5)) : 0;
}

CoreLimits qlm::getCoreLimits() {
  CoreLimits limits;
  limits.machine =
      static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  limits.affinity = limits.machine;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0)
    limits.affinity = std::max(1, CPU_COUNT(&set));
  std::ifstream file("/proc/self/cgroup");
  std::ostringstream groups;
  groups << file.rdbuf();
  limits.quota = readQuota(groups.str(), "/sys/fs/cgroup");
  return limits;
}

Result<int> qlm::chooseThreads(int requested, const CoreLimits &limits,
                               std::string &note) {
  if (requested < 0)
    return Status(StatusCode::InvalidArgument,
                  "threads must not be negative, got " +
                      std::to_string(requested));
  int usable = limits.usable();
  std::string reason = limits.describe();
  if (requested > usable)
    note =
        "using " + std::to_string(usable) + " threads, not " +
        std::to_string(requested) + ": " +
        (reason.empty() ? "the machine has " + std::to_string(usable) + " cores"
                        : reason);
  else if (requested == 0 && !reason.empty())
    note = "using " + std::to_string(usable) + " threads: " + reason;
  return requested == 0 ? usable : std::min(requested, usable);
}
