//===- GpuCholesky.h - Factors of matrices on a GPU -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// GPTQ factors a matrix of K² doubles for each linear, K³/3 operations, which
// are most of its time where K is large. cuSOLVER is opened when it is asked
// for. The matrix passes by a few rows at a time; the host never holds it.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_CALIBRATE_GPUCHOLESKY_H
#define QLM_CALIBRATE_GPUCHOLESKY_H

#include "qlm/Quantize/Products.h"
#include "qlm/Runtime/Status.h"

#include <string>
#include <vector>

namespace qlm {

/// Opens the first GPU and cuSOLVER; what is returned owns both. Threads may
/// share it; one is at work at a time. \p solver are names of the library,
/// tried in turn; empty: those that its versions have.
/// Errors: Unsupported (no driver, no GPU, no cuSOLVER), Io.
Result<numerics::CholeskyFunction>
openGpuCholesky(const std::string &driver = "libcuda.so.1",
                const std::vector<std::string> &solver = {});

} // namespace qlm

#endif // QLM_CALIBRATE_GPUCHOLESKY_H
