//===- LaunchScratch.h - What a thread keeps during a launch ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A thread may compute a launch's tiles in several calls of the kernel, each
// with the same scratch. What a kernel prepares for all its tiles, as sums and
// copies of rows, it needn't prepare again: the first word of scratch is the
// kernel's from the launch's first call to its last, and begins as zero.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_LAUNCHSCRATCH_H
#define QLM_PACKAGE_LAUNCHSCRATCH_H

#include <cstdint>

namespace qlm::format {

/// What comes before all else in scratch, in bytes: the word, up to a line.
inline constexpr int64_t kScratchHead = 64;

/// Begins a launch for the thread with \p scratch, which has kScratchHead bytes
/// or more; null where no kernel needs any.
inline void beginLaunch(void *scratch) {
  if (scratch)
    *static_cast<int64_t *>(scratch) = 0;
}

} // namespace qlm::format

#endif // QLM_PACKAGE_LAUNCHSCRATCH_H
