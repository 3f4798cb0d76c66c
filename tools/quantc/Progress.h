//===- Progress.h - What quantc says while it works -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANTC_PROGRESS_H
#define QLM_TOOLS_QUANTC_PROGRESS_H

#include "qlm/Pipelines/Pipelines.h"

#include <chrono>
#include <string>

namespace mlir::qlm {

/// "1.25 GB", "340.0 kB": bytes as people read them.
std::string formatBytes(int64_t bytes);

/// One line on a terminal, rewritten at most ten times a second.
class ProgressLine {
public:
  ProgressLine(bool enabled) : enabled(enabled) {}
  ~ProgressLine() { clear(); }

  void show(const CompileProgress &progress);
  void show(const std::string &text);
  void clear();

private:
  bool isDue(bool isNew);

  bool enabled;
  bool shown = false;
  Stage stage = Stage::Import;
  std::chrono::steady_clock::time_point last;
};

} // namespace mlir::qlm

#endif // QLM_TOOLS_QUANTC_PROGRESS_H
