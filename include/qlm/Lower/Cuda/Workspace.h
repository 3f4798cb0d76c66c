//===- Workspace.h - What kernels share between launches --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_CUDA_WORKSPACE_H
#define QLM_LOWER_CUDA_WORKSPACE_H

#include <cstdint>

namespace mlir::qlm::cuda {

/// The workspace of a launch begins with this many bytes that are zero before
/// the launch and after it: kCounterBytes of counters (Kernels.h), then what
/// says by itself that it is there. Scratch of arbitrary content follows.
inline constexpr int64_t kZeroBytes = 2 * 1024 * 1024;

} // namespace mlir::qlm::cuda

#endif // QLM_LOWER_CUDA_WORKSPACE_H
