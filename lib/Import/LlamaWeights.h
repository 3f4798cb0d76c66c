//===- LlamaWeights.h - The tensors that a LLaMA must have ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_LLAMAWEIGHTS_H
#define QLM_LIB_IMPORT_LLAMAWEIGHTS_H

#include "WeightFiles.h"
#include "qlm/Import/LlamaConfig.h"

namespace mlir::qlm {

/// A tensor as the configuration wants it.
struct ExpectedWeight {
  std::string name;
  /// [rows, columns] of a linear's weight or a table, [features] of a norm's
  /// weight or a bias.
  llvm::SmallVector<int64_t, 2> shape;
};

/// Everything that \p config asks for, in the order of the computation.
std::vector<ExpectedWeight> listLlamaWeights(const LlamaConfig &config);

/// Fails unless \p files has all of \p expected, each a float tensor of the
/// right shape. Errors name file, tensor and both shapes.
llvm::Error checkWeights(llvm::ArrayRef<ExpectedWeight> expected,
                         const WeightFiles &files);

/// Names of \p files's tensors that are neither in \p expected nor known to be
/// of no use (precomputed frequencies, a tied head).
std::vector<llvm::StringRef>
findUnusedWeights(llvm::ArrayRef<ExpectedWeight> expected,
                  const WeightFiles &files);

} // namespace mlir::qlm

#endif // QLM_LIB_IMPORT_LLAMAWEIGHTS_H
