//===- AheadStep.h - A step that began before it was asked for --*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_AHEADSTEP_H
#define QLM_LIB_RUNTIME_CUDA_AHEADSTEP_H

#include "qlm/Runtime/StepBatch.h"

#include <vector>

namespace qlm::cuda {

/// What a step computes that the GPU began by itself: the rows of the step
/// before it, each at its sequence's next position, by the token that was
/// chosen there. Kept on the host to be compared with what is asked for next.
class AheadStep {
public:
  /// Whether every sequence of \p batch has one row, wanted, and its next
  /// position lies in the same page and in the context: nothing more need be
  /// known for a step that goes on.
  static bool canFollow(const StepBatch &batch, const MemoryPlan &plan);

  /// A step that follows \p batch, for which canFollow() holds, has begun; its
  /// tokens are chosen by \p requests, a page holds \p tokensOfPage.
  void begin(const StepBatch &batch,
             const std::vector<format::SampleRequest> &requests,
             int64_t tokensOfPage);
  void forget() { rows.clear(); }
  bool isUnderWay() const { return !rows.empty(); }

  /// Whether the rows of \p batch are rows of this step, in its order, given
  /// the tokens \p chosen by the step before; \p places[i] is then that of the
  /// batch's row i. Rows of sequences that have ended may be left out. A row
  /// is the same where its token, its position and its pages are: nothing else
  /// was run since, so the pages hold the same keys.
  bool match(const StepBatch &batch,
             const std::vector<format::SampleRequest> &requests,
             const format::SampleResult *chosen,
             std::vector<int64_t> &places) const;

private:
  struct Row {
    int32_t position;
    format::SampleRequest request;
    std::vector<int32_t> pages; ///< up to the position's
  };
  std::vector<Row> rows;
  int64_t pageTokens = 1;
};

} // namespace qlm::cuda

#endif // QLM_LIB_RUNTIME_CUDA_AHEADSTEP_H
