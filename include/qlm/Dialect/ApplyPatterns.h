//===- ApplyPatterns.h - How passes run patterns -------------- -*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_APPLYPATTERNS_H
#define QLM_DIALECT_APPLYPATTERNS_H

#include "mlir/IR/PatternMatch.h"

namespace mlir::qlm {

/// Applies \p patterns until none matches and erases what became unused;
/// nothing is folded or reordered besides, so that parameter programs stay as
/// they are.
LogicalResult applyPatternsOnly(Operation *root, RewritePatternSet &&patterns);

} // namespace mlir::qlm

#endif // QLM_DIALECT_APPLYPATTERNS_H
