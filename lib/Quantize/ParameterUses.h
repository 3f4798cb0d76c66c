//===- ParameterUses.h - Linears and their parameters -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_PARAMETERUSES_H
#define QLM_LIB_QUANTIZE_PARAMETERUSES_H

#include "qlm/Dialect/Qlm.h"

namespace mlir::qlm {

/// Fails with a diagnostic on \p op unless \p value (its \p what) is the
/// result of a parameter program, which alone can be evaluated when a package
/// is written.
LogicalResult checkParameter(Operation *op, Value value, StringRef what);

/// \p value (a parameter) with elements of \p type: itself, or a
/// `qlm.convert` before \p user.
Value convertParameter(Value value, FloatType type, Operation *user);

/// Erases the parameter and dequantize operations of \p module that have no
/// users.
void eraseUnusedParameters(ModuleOp module);

} // namespace mlir::qlm

#endif // QLM_LIB_QUANTIZE_PARAMETERUSES_H
