//===- FakeGpuKernels.cpp - The fake model's kernels, as of a GPU ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The kernels of Core/FakeKernels.cpp behind a GPU's interface: a block beyond
// the step's sizes leaves at once.
//
//===----------------------------------------------------------------------===//

#include "../Core/FakeModel.h"
#include "FakeCuda.h"
#include "FakeObserve.h"
#include "qlm/Package/Format.h"

#include <cmath>

using namespace qlm;
using namespace qlm::test;
using format::StepSizes;

extern "C" {
void fake_embed(void *const *, const StepSizes *, int64_t, int64_t, void *);
void fake_append(void *const *, const StepSizes *, int64_t, int64_t, void *);
void fake_attend(void *const *, const StepSizes *, int64_t, int64_t, void *);
void fake_select(void *const *, const StepSizes *, int64_t, int64_t, void *);
void fake_project(void *const *, const StepSizes *, int64_t, int64_t, void *);
}

/// Runs a kernel of the processor that has \p Buffers buffers; \p Size of the
/// step's sizes counts its blocks, or none when it is null.
template <void (*Kernel)(void *const *, const StepSizes *, int64_t, int64_t,
                         void *),
          int Buffers, int64_t StepSizes::*Size>
static void runBlock(void *const *buffers, int64_t x, int64_t) {
  auto *sizes = static_cast<const StepSizes *>(buffers[Buffers]);
  float scratch[fakeHidden];
  if (Size == nullptr || x < sizes->*Size)
    Kernel(buffers, sizes, x, x + 1, scratch);
}

/// logits, requests, results, tokens. A block is a wanted row; it takes the
/// most likely token, or for a temperature above 0 the token before it.
static void sampleRow(void *const *buffers, int64_t x, int64_t) {
  auto *sizes = static_cast<const StepSizes *>(buffers[4]);
  if (x >= sizes->logitRows)
    return;
  auto *logits = static_cast<const float *>(buffers[0]) + x * fakeVocabulary;
  auto *request = static_cast<const format::SampleRequest *>(buffers[1]) + x;
  int best = 0;
  for (int i = 0; i < fakeVocabulary; ++i)
    best = logits[i] > logits[best] ? i : best;
  if (request->temperature > 0)
    best -= best > 0;
  static_cast<format::SampleResult *>(buffers[2])[x] = {
      best, std::isfinite(logits[best]) ? static_cast<float>(request->uniform)
                                        : std::nanf("")};
  static_cast<int32_t *>(buffers[3])[x] = best;
}

/// Rows, the observer's five buffers; one block has all columns.
static void observe(void *const *buffers, int64_t, int64_t) {
  observeRows(buffers, static_cast<const StepSizes *>(buffers[6])->tokens,
              fakeHidden);
}

extern "C" {
extern const FakeGpuKernel fakeGpuKernels[];
const FakeGpuKernel fakeGpuKernels[] = {
    {"gpu_embed", 4, 0, runBlock<fake_embed, 3, &StepSizes::tokens>},
    {"gpu_append", 6, 0, runBlock<fake_append, 5, &StepSizes::tokens>},
    {"gpu_attend", 7, 60000, runBlock<fake_attend, 6, &StepSizes::tokens>},
    {"gpu_select", 4, 0, runBlock<fake_select, 3, &StepSizes::logitRows>},
    {"gpu_project", 4, 0, runBlock<fake_project, 3, nullptr>},
    {"gpu_sample", 5, 0, sampleRow},
    {"gpu_observe", 7, 0, observe},
    {nullptr, 0, 0, nullptr}};
}
