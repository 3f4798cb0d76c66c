//===- CompileCuda.h - Makes a cubin of kernels -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_BENCHMARKS_KERNELS_CUDA_COMPILECUDA_H
#define QLM_BENCHMARKS_KERNELS_CUDA_COMPILECUDA_H

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <string>

namespace mlir::qlm::bench {

/// A context that knows the dialects of GPU kernels and their translations.
std::unique_ptr<MLIRContext> createCudaContext();

/// Lowers the one `gpu.module` of \p module and writes \p path.ptx and
/// \p path.cubin; gives what ptxas says of registers and spills.
llvm::Expected<std::string>
compileCuda(ModuleOp module, const std::string &chip, const std::string &path);

} // namespace mlir::qlm::bench

#endif // QLM_BENCHMARKS_KERNELS_CUDA_COMPILECUDA_H
