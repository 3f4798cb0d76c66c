//===- CompileKernel.h - Makes a kernel that can be called ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_BENCHMARKS_KERNELS_COMPILEKERNEL_H
#define QLM_BENCHMARKS_KERNELS_COMPILEKERNEL_H

#include "qlm/Lower/Cpu/Kernels.h"
#include "qlm/Package/Format.h"

#include "llvm/ExecutionEngine/Orc/LLJIT.h"

#include <memory>
#include <string>

namespace mlir::qlm::bench {

/// A kernel's machine code, with what keeps it alive.
struct CompiledKernel {
  cpu::KernelInfo info;
  std::unique_ptr<llvm::orc::LLJIT> jit;
  ::qlm::format::KernelFunction function = nullptr;
};

/// A context that knows the dialects of operations and kernels.
std::unique_ptr<MLIRContext> createContext();

/// Compiles the last qlm operation of the function in \p text, as a package
/// would have it. Ends the program when that fails.
CompiledKernel compileKernel(MLIRContext &context, const std::string &text,
                             const cpu::Target &target,
                             const cpu::StepLimits &limits);

} // namespace mlir::qlm::bench

#endif // QLM_BENCHMARKS_KERNELS_COMPILEKERNEL_H
