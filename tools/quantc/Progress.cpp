//===- Progress.cpp - What quantc says while it works ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Progress.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir::qlm;

std::string mlir::qlm::formatBytes(int64_t bytes) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (bytes >= 1000000000)
    stream << llvm::format("%.2f GB", bytes / 1e9);
  else if (bytes >= 1000000)
    stream << llvm::format("%.1f MB", bytes / 1e6);
  else
    stream << llvm::format("%.1f kB", bytes / 1e3);
  return text;
}

bool ProgressLine::isDue(bool isNew) {
  auto now = std::chrono::steady_clock::now();
  if (!enabled ||
      (shown && !isNew && now - last < std::chrono::milliseconds(100)))
    return false;
  last = now;
  shown = true;
  return true;
}

void ProgressLine::show(const CompileProgress &progress) {
  if (!isDue(progress.stage != stage))
    return;
  stage = progress.stage;
  llvm::errs() << "\r\033[K" << getStageName(stage);
  if (progress.bytesTotal)
    llvm::errs() << ": " << formatBytes(progress.bytesDone) << " of "
                 << formatBytes(progress.bytesTotal) << ", " << progress.item;
}

void ProgressLine::show(const std::string &text) {
  if (isDue(/*isNew=*/false))
    llvm::errs() << "\r\033[K" << text;
}

void ProgressLine::clear() {
  if (shown)
    llvm::errs() << "\r\033[K";
  shown = false;
}
