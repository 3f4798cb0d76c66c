//===- Rewriting.h - How the stage's passes run patterns --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_OPTIMIZE_REWRITING_H
#define QLM_LIB_OPTIMIZE_REWRITING_H

#include "mlir/IR/PatternMatch.h"

namespace mlir::qlm {

/// Applies \p patterns until none matches and erases what became unused;
/// nothing is folded or reordered besides.
LogicalResult applyPatternsOnly(Operation *root, RewritePatternSet &&patterns);

/// The location of an operation that replaces those at \p parts: from
/// `NAME.q`, `NAME.k` and the name `qkv` it makes `NAME.qkv`; a fused location
/// where they don't share a name.
Location mergeLocations(ArrayRef<Location> parts, StringRef name);

} // namespace mlir::qlm

#endif // QLM_LIB_OPTIMIZE_REWRITING_H
