//===- StepBatch.cpp - The rows of one step -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/StepBatch.h"

#include <algorithm>

using namespace qlm;
using format::StepArgument;

Result<StepBatch> StepBatch::create(const MemoryPlan &plan) {
  StepBatch batch;
  batch.maxTokens = plan.maxStepTokens;
  batch.maxSequences = plan.maxBatch;
  batch.maxLogitRows = plan.maxLogitRows;
  batch.pageTokens = plan.kv.pageTokens;
  batch.sizes.maxPagesPerSequence = plan.maxPagesPerSequence();

  // The counts of StepArgument, in its order.
  const int64_t counts[format::kStepArgumentCount] = {
      plan.maxStepTokens, plan.maxStepTokens,
      plan.maxStepTokens, plan.maxBatch + 1,
      plan.maxBatch,      plan.maxBatch * plan.maxPagesPerSequence(),
      plan.maxLogitRows};
  size_t offsets[format::kStepArgumentCount], bytes = 0;
  for (int i = 0; i < format::kStepArgumentCount; ++i) {
    offsets[i] = bytes;
    // Kernels may read a vector past the end.
    bytes +=
        static_cast<size_t>(counts[i]) * sizeof(int32_t) + format::kAlignment;
    bytes = (bytes + format::kAlignment - 1) / format::kAlignment *
            format::kAlignment;
  }
  Result<MappedMemory> memory =
      MappedMemory::allocate(bytes, "the step's arguments");
  if (!memory.ok())
    return memory.status();
  batch.memory = memory.take();
  for (int i = 0; i < format::kStepArgumentCount; ++i)
    batch.arguments[i] =
        reinterpret_cast<int32_t *>(batch.memory.data() + offsets[i]);
  return Result<StepBatch>(std::move(batch));
}

void StepBatch::clear() {
  sizes.tokens = sizes.sequences = sizes.logitRows = 0;
}

bool StepBatch::addSequence(const int32_t *tokens, int64_t count,
                            int64_t firstPosition,
                            const std::vector<int32_t> &pages,
                            int64_t wantedRows) {
  int64_t length = firstPosition + count;
  int64_t pageCount = static_cast<int64_t>(pages.size());
  if (count < 1 || count > freeTokens() || wantedRows > count ||
      wantedRows > freeLogitRows() || sizes.sequences == maxSequences ||
      length > pageCount * pageTokens || pageCount > sizes.maxPagesPerSequence)
    return false;

  int64_t row = sizes.tokens, sequence = sizes.sequences;
  std::copy_n(tokens, count, argument(StepArgument::Tokens) + row);
  for (int64_t i = 0; i < count; ++i) {
    argument(StepArgument::Positions)[row + i] =
        static_cast<int32_t>(firstPosition + i);
    argument(StepArgument::TokenSequences)[row + i] =
        static_cast<int32_t>(sequence);
  }
  for (int64_t i = count - wantedRows; i < count; ++i)
    argument(StepArgument::LogitRows)[sizes.logitRows++] =
        static_cast<int32_t>(row + i);
  argument(StepArgument::SequenceOffsets)[sequence] = static_cast<int32_t>(row);
  argument(StepArgument::SequenceOffsets)[sequence + 1] =
      static_cast<int32_t>(row + count);
  argument(StepArgument::ContextLengths)[sequence] =
      static_cast<int32_t>(length);
  int32_t *table = argument(StepArgument::BlockTables) +
                   sequence * sizes.maxPagesPerSequence;
  std::copy(pages.begin(), pages.end(), table);
  // Entries past the sequence are never followed; page 0 keeps them harmless.
  std::fill(table + pageCount, table + sizes.maxPagesPerSequence, 0);
  sizes.tokens += count;
  ++sizes.sequences;
  return true;
}
