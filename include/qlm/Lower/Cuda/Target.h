//===- Target.h - The GPU that kernels are emitted for ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_CUDA_TARGET_H
#define QLM_LOWER_CUDA_TARGET_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace mlir::qlm::cuda {

/// A GPU by its compute capability.
struct Target {
  /// LLVM's and ptxas' name: "sm_80", "sm_89", "sm_90a".
  std::string chip;
  /// 80, 89, 90.
  int capability = 0;
  /// Shared memory that one block may have, in bytes.
  int64_t sharedLimit = 0;
  /// Multiprocessors of the part that shapes are tuned for (A100, L40S, H100);
  /// a hint for tile counts, never for correctness.
  int64_t processors = 0;

  bool hasFp8() const { return capability >= 89; }
  /// wgmma, cp.async.bulk, mbarrier with transactions, dependent launches,
  /// clusters: sm_90a.
  bool hasHopper() const { return capability >= 90; }

  /// Finds a chip by its name; fails on a name that isn't sm_80, sm_89 or
  /// sm_90a.
  static llvm::Expected<Target> get(llvm::StringRef chip);
  /// Finds the chips of "sm_80,sm_90a", at least one, no two alike; sorted.
  static llvm::Expected<std::vector<Target>> parseList(llvm::StringRef chips);
};

/// What `--target cuda` stands for.
inline constexpr llvm::StringLiteral kDefaultChips = "sm_90a";
/// The chip whose PTX a package carries for GPUs that it has no code for.
inline constexpr llvm::StringLiteral kFallbackChip = "sm_80";

} // namespace mlir::qlm::cuda

#endif // QLM_LOWER_CUDA_TARGET_H
