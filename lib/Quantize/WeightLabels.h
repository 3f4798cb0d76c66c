//===- WeightLabels.h - What weights are called -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_WEIGHTLABELS_H
#define QLM_LIB_QUANTIZE_WEIGHTLABELS_H

#include "qlm/Dialect/Qlm.h"
#include "llvm/ADT/StringSet.h"

namespace mlir::qlm {

/// The name in \p op's location ("layers.0.qkv"), else its mnemonic
/// ("linear").
StringRef getWeightLabel(Operation *op);

/// Gives each weight a label of its own.
class UniqueLabels {
public:
  /// The label of \p op, with a counter ("layers.0.q_1") where an earlier
  /// operation has it.
  std::string take(Operation *op);

private:
  llvm::StringSet<> used;
};

} // namespace mlir::qlm

#endif // QLM_LIB_QUANTIZE_WEIGHTLABELS_H
