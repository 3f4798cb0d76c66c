//===- MergeLocations.h - Where fused operations come from ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_OPTIMIZE_MERGELOCATIONS_H
#define QLM_LIB_OPTIMIZE_MERGELOCATIONS_H

#include "mlir/IR/Location.h"

namespace mlir::qlm {

/// The location of an operation that replaces those at \p parts: from
/// `NAME.q`, `NAME.k` and the name `qkv` it makes `NAME.qkv`; a fused location
/// where they don't share a name.
Location mergeLocations(ArrayRef<Location> parts, StringRef name);

} // namespace mlir::qlm

#endif // QLM_LIB_OPTIMIZE_MERGELOCATIONS_H
