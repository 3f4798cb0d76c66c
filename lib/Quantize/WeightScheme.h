//===- WeightScheme.h - From options to a scheme ----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_WEIGHTSCHEME_H
#define QLM_LIB_QUANTIZE_WEIGHTSCHEME_H

#include "qlm/Dialect/Qlm.h"

namespace mlir::qlm {

/// How the stored type of weights is asked for; names as in QuantizeOptions.
struct WeightRequest {
  StringRef weights;
  StringRef granularity;
  int64_t groupSize = 0;
  bool zeroPoints = false;
  bool doubleQuant = false;
};

/// What weights become; with neither type nor scheme they stay as stored.
struct WeightTarget {
  FloatType type;           ///< null when weights are quantized
  SchemeAttr scheme;        ///< null when weights stay floats
  bool doubleQuant = false; ///< whether scales are quantized too
};

/// Reads \p request; fails with a diagnostic on \p module where an option has
/// no such value or doesn't go with another one.
FailureOr<WeightTarget> getWeightTarget(ModuleOp module,
                                        const WeightRequest &request);

} // namespace mlir::qlm

#endif // QLM_LIB_QUANTIZE_WEIGHTSCHEME_H
