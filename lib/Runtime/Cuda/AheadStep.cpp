//===- AheadStep.cpp - A step that began before it was asked for ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AheadStep.h"

#include <algorithm>
#include <cstring>

using namespace qlm;
using namespace qlm::cuda;
using format::StepArgument;

static bool hasOneWantedRowEach(const format::StepSizes &sizes) {
  return sizes.tokens == sizes.sequences && sizes.tokens == sizes.logitRows;
}

/// The pages of the batch's \p sequence -th sequence.
static const int32_t *pagesOf(const StepBatch &batch, int64_t sequence) {
  return batch.argument(StepArgument::BlockTables) +
         sequence * batch.getSizes().maxPagesPerSequence;
}

bool AheadStep::canFollow(const StepBatch &batch, const MemoryPlan &plan) {
  if (!hasOneWantedRowEach(batch.getSizes()))
    return false;
  const int32_t *positions = batch.argument(StepArgument::Positions);
  return std::all_of(
      positions, positions + batch.getSizes().tokens, [&](int64_t position) {
        int64_t next = position + 1;
        return next % plan.kv.pageTokens && next < plan.maxContext;
      });
}

void AheadStep::begin(const StepBatch &batch,
                      const std::vector<format::SampleRequest> &requests,
                      int64_t tokensOfPage) {
  pageTokens = tokensOfPage;
  rows.resize(static_cast<size_t>(batch.getSizes().tokens));
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t *pages = pagesOf(batch, static_cast<int64_t>(i));
    rows[i].position = batch.argument(StepArgument::Positions)[i] + 1;
    rows[i].request = requests[i];
    rows[i].pages.assign(pages, pages + rows[i].position / pageTokens + 1);
  }
}

bool AheadStep::match(const StepBatch &batch,
                      const std::vector<format::SampleRequest> &requests,
                      const format::SampleResult *chosen,
                      std::vector<int64_t> &places) const {
  if (!hasOneWantedRowEach(batch.getSizes()) ||
      requests.size() != static_cast<size_t>(batch.getSizes().tokens))
    return false;
  const int32_t *tokens = batch.argument(StepArgument::Tokens);
  const int32_t *positions = batch.argument(StepArgument::Positions);
  places.clear();
  size_t place = 0;
  for (size_t i = 0; i < requests.size(); ++i, ++place) {
    auto isSame = [&](const Row &row, int32_t token) {
      return tokens[i] == token && positions[i] == row.position &&
             std::memcmp(&requests[i], &row.request, sizeof(row.request)) ==
                 0 &&
             std::equal(row.pages.begin(), row.pages.end(),
                        pagesOf(batch, static_cast<int64_t>(i)));
    };
    while (place < rows.size() && !isSame(rows[place], chosen[place].token))
      ++place;
    if (place == rows.size())
      return false;
    places.push_back(static_cast<int64_t>(place));
  }
  return true;
}
