//===- StepBatch.h - The rows of one step -----------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_STEPBATCH_H
#define QLM_RUNTIME_STEPBATCH_H

#include "qlm/Package/Format.h"
#include "qlm/Runtime/Manifest.h"
#include "qlm/Runtime/MappedMemory.h"

#include <cstdint>
#include <vector>

namespace qlm {

/// The step arguments (qlm/Package/Format.h) of one ragged batch, in buffers
/// sized for the plan's largest step.
class StepBatch {
public:
  static Result<StepBatch> create(const MemoryPlan &plan);

  void clear();

  /// Adds a sequence: \p count rows for \p tokens at positions
  /// `firstPosition ..`, whose keys and values lie in \p pages. Logits are
  /// wanted for the last \p wantedRows rows. False, and nothing added, when it
  /// does not fit in what is left of the step or of the pages.
  bool addSequence(const int32_t *tokens, int64_t count, int64_t firstPosition,
                   const std::vector<int32_t> &pages, int64_t wantedRows);

  const format::StepSizes &getSizes() const { return sizes; }
  /// Rows that can still be added.
  int64_t freeTokens() const { return maxTokens - sizes.tokens; }
  int64_t freeLogitRows() const { return maxLogitRows - sizes.logitRows; }
  /// Address of a step argument's buffer; the same for every step.
  int32_t *argument(format::StepArgument which) const {
    return arguments[static_cast<int>(which)];
  }

private:
  StepBatch() = default;

  MappedMemory memory;
  int32_t *arguments[format::kStepArgumentCount] = {};
  format::StepSizes sizes = {};
  int64_t maxTokens = 0, maxSequences = 0, maxLogitRows = 0, pageTokens = 0;
};

} // namespace qlm

#endif // QLM_RUNTIME_STEPBATCH_H
