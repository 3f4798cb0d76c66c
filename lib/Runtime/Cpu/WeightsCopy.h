//===- WeightsCopy.h - Copies mapped weights while steps run ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CPU_WEIGHTSCOPY_H
#define QLM_LIB_RUNTIME_CPU_WEIGHTSCOPY_H

#include "qlm/Runtime/Package.h"

#include <atomic>
#include <future>

namespace qlm {

/// Copies a package's weights on a thread of its own: by one core, so that
/// steps that run meanwhile keep the others.
class WeightsCopy {
public:
  /// Starts; \p package must outlive this.
  explicit WeightsCopy(const Package &package);
  /// Gives up what isn't done.
  ~WeightsCopy() { isCancelled = true; }
  WeightsCopy(const WeightsCopy &) = delete;
  WeightsCopy &operator=(const WeightsCopy &) = delete;

  /// Whether take() wouldn't wait; false once it was called.
  bool isReady() const;
  void wait() const;
  /// The copy, or no memory when it failed. Once only.
  MappedMemory take();

private:
  std::atomic<bool> isCancelled{false};
  std::future<Result<MappedMemory>> copied; ///< its destructor waits
};

} // namespace qlm

#endif // QLM_LIB_RUNTIME_CPU_WEIGHTSCOPY_H
