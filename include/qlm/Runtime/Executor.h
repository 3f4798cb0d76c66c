//===- Executor.h - Runs the launches of a step -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_EXECUTOR_H
#define QLM_RUNTIME_EXECUTOR_H

#include "qlm/Runtime/Package.h"
#include "qlm/Runtime/StepBatch.h"
#include "qlm/Runtime/StepProfile.h"

#include <memory>

namespace qlm {

/// The memory of a package's plan, and its launches bound to it, on the device
/// that the package was compiled for. Not thread safe: one step at a time.
class Executor {
public:
  /// Takes arena, caches and logits on the package's device. On the processor
  /// it starts \p threads threads, and the memory is touched as it is used, or
  /// all of it at once when \p reserve. The package must outlive the executor.
  /// Errors: ResourceExhausted; Unsupported where the device is not there.
  static Result<std::unique_ptr<Executor>> create(const Package &package,
                                                  int threads, bool reserve);
  virtual ~Executor() = default;
  Executor(const Executor &) = delete;
  Executor &operator=(const Executor &) = delete;

  /// Where the next step's rows are put.
  StepBatch &batch() { return *step; }

  /// Runs one step over batch() and returns when its logits can be read. A
  /// step without rows does nothing. After an error nothing of the step counts
  /// as computed. Errors: Internal (the device failed).
  virtual Status run() = 0;

  /// Logits of the step's \p row -th wanted row, float32 [vocabularySize];
  /// valid, and free to be changed, until the next step.
  virtual float *logits(int64_t row) = 0;

  /// Threads that compute.
  virtual int threads() const = 0;

  /// Weight bytes that one step reads.
  int64_t bytesPerStep() const;

  /// From now on, adds up each launch's time in \p newProfile (or stops, when
  /// null).
  void setProfile(StepProfile *newProfile) { profile = newProfile; }

protected:
  explicit Executor(const Package &package) : package(package) {}

  const Package &package;
  std::unique_ptr<StepBatch> step;
  StepProfile *profile = nullptr;
};

} // namespace qlm

#endif // QLM_RUNTIME_EXECUTOR_H
