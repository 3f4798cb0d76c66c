//===- Passes.h - Passes of the dialect itself ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_PASSES_H
#define QLM_DIALECT_PASSES_H

#include "mlir/Pass/Pass.h"

namespace mlir::qlm {

#define GEN_PASS_DECL
#include "qlm/Dialect/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "qlm/Dialect/Passes.h.inc"

} // namespace mlir::qlm

#endif // QLM_DIALECT_PASSES_H
