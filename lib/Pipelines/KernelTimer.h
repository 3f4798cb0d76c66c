//===- KernelTimer.h - Times one kernel on this machine ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PIPELINES_KERNELTIMER_H
#define QLM_LIB_PIPELINES_KERNELTIMER_H

#include "qlm/Lower/Cpu/Kernels.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <vector>

namespace mlir::qlm {

/// Compiles kernels of single operations and runs them on memory of its own.
/// Weights far larger than a core's caches take turns, so that few rows read
/// them from memory, as a step does.
class KernelTimer {
public:
  /// Fails where this machine can't run the code of \p target.
  static llvm::Expected<std::unique_ptr<KernelTimer>>
  create(const cpu::Target &target, int64_t maxRows, int threads);
  KernelTimer(const KernelTimer &) = delete;
  ~KernelTimer();

  /// Seconds of a launch of \p op for each number of \p rows: the shortest of
  /// several.
  llvm::Expected<std::vector<double>> time(Operation *op,
                                           llvm::ArrayRef<int64_t> rows);

private:
  /// Memory that is unmapped with the timer.
  struct Memory {
    char *data = nullptr;
    int64_t bytes = 0;
  };
  struct Code;

  KernelTimer(const cpu::Target &target, int64_t maxRows, int threads)
      : target(target), maxRows(maxRows), threads(threads) {}

  llvm::Expected<char *> reserve(Memory &memory, int64_t bytes);
  llvm::Error reserveFor(Operation *op, const cpu::KernelInfo &info);
  llvm::Expected<Code> compile(Operation *op);
  void clearOutliers(Operation *op, int64_t rows);
  double run(const Code &code, Operation *op, int64_t rows);

  cpu::Target target;
  int64_t maxRows;
  int threads;
  Memory weights, activations;
  std::vector<Memory> scratch;
};

} // namespace mlir::qlm

#endif // QLM_LIB_PIPELINES_KERNELTIMER_H
