//===- CudaBinary.h - GPU kernels to PTX and machine code -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_CUDABINARY_H
#define QLM_PACKAGE_CUDABINARY_H

#include "mlir/IR/Operation.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mlir::qlm {

/// The version of PTX that is written, 84 for 8.4: what drivers for CUDA 12.4
/// and newer read, and the first that knows products of f8E4M3FN within a warp.
inline constexpr int64_t kPtxVersion = 84;

/// What one block of a kernel takes, as ptxas reports it.
struct KernelResources {
  std::string name;
  int64_t registers = 0;   ///< of a thread
  int64_t spillBytes = 0;  ///< stored to memory for want of registers
  int64_t stackBytes = 0;  ///< local memory of a thread
  int64_t sharedBytes = 0; ///< static shared memory of a block
};

/// Machine code of a `gpu.module` for one chip.
struct CudaBinary {
  std::string cubin;
  /// In the order of the kernels' names.
  std::vector<KernelResources> kernels;
};

/// Compiles a `gpu.module` of the LLVM and NVVM dialects, whose attribute
/// `qlm.chip` names the chip, to PTX. Fails if the code calls a function that
/// it doesn't define.
llvm::Expected<std::string> emitPtx(Operation *kernels);

/// Assembles \p ptx for \p chip with ptxas.
llvm::Expected<CudaBinary> assemblePtx(llvm::StringRef ptx,
                                       llvm::StringRef chip);

/// Finds ptxas: in `CUDA_HOME/bin`, on PATH, in /usr/local/cuda/bin, or where
/// `scripts/bootstrap` installs it (the environment `.venv` of the source
/// tree).
llvm::Expected<std::string> findPtxas();

/// Reads what `ptxas -v` prints.
std::vector<KernelResources> parsePtxasReport(llvm::StringRef report);

} // namespace mlir::qlm

#endif // QLM_PACKAGE_CUDABINARY_H
