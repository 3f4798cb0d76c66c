//===- OptimizeModule.h - LLVM's default optimizations ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_OPTIMIZEMODULE_H
#define QLM_LIB_PACKAGE_OPTIMIZEMODULE_H

#include "llvm/IR/Module.h"
#include "llvm/Passes/OptimizationLevel.h"
#include "llvm/Target/TargetMachine.h"

namespace mlir::qlm {

/// Runs LLVM's default pipeline of \p level over \p module, tuned for
/// \p machine.
void optimizeModule(llvm::Module &module, llvm::TargetMachine &machine,
                    llvm::OptimizationLevel level);

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_OPTIMIZEMODULE_H
