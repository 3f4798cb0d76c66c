//===- FakeKernels.cpp - Kernels simple enough to be checked by hand ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The model that they make: x = table[token], "attention" adds half of the
// sequence's earlier x, a quarter of the one before, and so on; the logits are
// x times the output matrix. Compiled as a module of its own, as a package's
// kernels are.
//
//===----------------------------------------------------------------------===//

#include "FakeModel.h"
#include "qlm/Package/Format.h"

using qlm::format::StepSizes;
using namespace qlm::test;

namespace {
template <typename T> T *as(void *const *buffers, int index) {
  return static_cast<T *>(buffers[index]);
}

/// Where a token's row lies in the cache.
float *cacheRow(float *cache, const int *blockTable, long position) {
  long page = blockTable[position / fakePageTokens];
  return cache +
         (page * 2 * fakePageTokens + position % fakePageTokens) * fakeHidden;
}
} // namespace

extern "C" {

/// tokens, table, x. A tile is a token.
void fake_embed(void *const *buffers, const StepSizes *, int64_t lo, int64_t hi,
                void *) {
  for (int64_t t = lo; t < hi; ++t)
    for (int h = 0; h < fakeHidden; ++h)
      as<float>(buffers, 2)[t * fakeHidden + h] =
          as<float>(buffers, 1)[as<int>(buffers, 0)[t] * fakeHidden + h];
}

/// x, cache, positions, token_sequences, block_tables. A tile is a token.
void fake_append(void *const *buffers, const StepSizes *sizes, int64_t lo,
                 int64_t hi, void *) {
  for (int64_t t = lo; t < hi; ++t) {
    const int *blockTable = as<int>(buffers, 4) +
                            as<int>(buffers, 3)[t] * sizes->maxPagesPerSequence;
    float *row =
        cacheRow(as<float>(buffers, 1), blockTable, as<int>(buffers, 2)[t]);
    for (int h = 0; h < fakeHidden; ++h)
      row[h] = as<float>(buffers, 0)[t * fakeHidden + h];
  }
}

/// x, cache, positions, token_sequences, block_tables, y. A tile is a token;
/// the sum is collected in scratch.
void fake_attend(void *const *buffers, const StepSizes *sizes, int64_t lo,
                 int64_t hi, void *scratch) {
  float *sum = static_cast<float *>(scratch);
  for (int64_t t = lo; t < hi; ++t) {
    const int *blockTable = as<int>(buffers, 4) +
                            as<int>(buffers, 3)[t] * sizes->maxPagesPerSequence;
    for (int h = 0; h < fakeHidden; ++h)
      sum[h] = 0;
    for (int position = 0; position < as<int>(buffers, 2)[t]; ++position) {
      const float *row = cacheRow(as<float>(buffers, 1), blockTable, position);
      for (int h = 0; h < fakeHidden; ++h)
        sum[h] = (sum[h] + row[h]) / 2;
    }
    for (int h = 0; h < fakeHidden; ++h)
      as<float>(buffers, 5)[t * fakeHidden + h] =
          as<float>(buffers, 0)[t * fakeHidden + h] + sum[h];
  }
}

/// y, logit_rows, z. A tile is a wanted row.
void fake_select(void *const *buffers, const StepSizes *, int64_t lo,
                 int64_t hi, void *) {
  for (int64_t r = lo; r < hi; ++r)
    for (int h = 0; h < fakeHidden; ++h)
      as<float>(buffers, 2)[r * fakeHidden + h] =
          as<float>(buffers, 0)[as<int>(buffers, 1)[r] * fakeHidden + h];
}

/// z, output matrix, logits. A tile is a vocabulary entry, for all rows.
void fake_project(void *const *buffers, const StepSizes *sizes, int64_t lo,
                  int64_t hi, void *) {
  for (int64_t r = 0; r < sizes->logitRows; ++r)
    for (int64_t v = lo; v < hi; ++v) {
      float sum = 0;
      for (int h = 0; h < fakeHidden; ++h)
        sum += as<float>(buffers, 0)[r * fakeHidden + h] *
               as<float>(buffers, 1)[v * fakeHidden + h];
      as<float>(buffers, 2)[r * fakeVocabulary + v] = sum;
    }
}
}
