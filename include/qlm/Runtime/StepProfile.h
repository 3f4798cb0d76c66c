//===- StepProfile.h - Where the time of steps goes -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_STEPPROFILE_H
#define QLM_RUNTIME_STEPPROFILE_H

#include "qlm/Runtime/Manifest.h"

#include <cstdint>
#include <string>
#include <vector>

namespace qlm {

/// Time, weight bytes and operations of the launches with one label.
struct ProfileEntry {
  std::string label; ///< with layer numbers as "*": "layers.*.qkv"
  int64_t launches = 0;
  double seconds = 0;
  int64_t bytes = 0;
  double operations = 0; ///< a multiply-add is two; 0 where none are counted

  /// 10^9 weight bytes a second.
  double bandwidthGbps() const {
    return seconds > 0 ? static_cast<double>(bytes) / seconds * 1e-9 : 0;
  }
  /// 10^12 operations a second.
  double arithmeticTops() const {
    return seconds > 0 ? operations / seconds * 1e-12 : 0;
  }
};

/// Time of each launch over the steps run so far; written by the executor's
/// first thread, read between steps.
class StepProfile {
public:
  /// Adds a run of \p launch that computed \p rows rows.
  void add(size_t launch, double seconds, int64_t rows = 0) {
    if (launch >= times.size())
      times.resize(launch + 1);
    times[launch].seconds += seconds;
    ++times[launch].runs;
    times[launch].rows += rows;
  }

  /// The launches of \p manifest grouped by label, slowest first.
  std::vector<ProfileEntry> summarize(const Manifest &manifest) const;

private:
  struct Time {
    double seconds = 0;
    int64_t runs = 0, rows = 0;
  };
  std::vector<Time> times;
};

} // namespace qlm

#endif // QLM_RUNTIME_STEPPROFILE_H
