//===- Passes.h - Passes of the Package stage -------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_PASSES_H
#define QLM_PACKAGE_PASSES_H

#include "mlir/Pass/Pass.h"

namespace mlir::qlm {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "qlm/Package/Passes.h.inc"

} // namespace mlir::qlm

#endif // QLM_PACKAGE_PASSES_H
