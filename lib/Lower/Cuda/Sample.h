//===- Sample.h - Chooses tokens on the device ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_SAMPLE_H
#define QLM_LIB_LOWER_CUDA_SAMPLE_H

#include "qlm/Lower/Kernel/GpuFrame.h"

namespace mlir::qlm::cuda {

/// Threads of a block, which does one logit row.
inline constexpr int64_t kSampleThreads = 512;

/// Writes the body of a kernel of four buffers: logits f32 [logitRows,
/// vocabulary], requests (format::SampleRequest [logitRows]), results
/// (format::SampleResult [logitRows]) and the tokens alone, i32 [logitRows],
/// in the place of the step's. See Sample.cpp.
void emitSample(kernel::GpuKernelFrame &frame, int64_t vocabulary);

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_SAMPLE_H
