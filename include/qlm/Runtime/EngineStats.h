//===- EngineStats.h - Numbers to watch -------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_ENGINESTATS_H
#define QLM_RUNTIME_ENGINESTATS_H

#include "qlm/Runtime/Request.h"

#include <cstdint>

namespace qlm {

/// What an engine did since it began, and what it holds now.
struct EngineStats {
  // Now.
  int64_t waiting = 0; ///< texts that hold no pages
  int64_t running = 0;
  int64_t totalPages = 0;
  int64_t usedPages = 0; ///< held by running texts
  int64_t idlePages = 0; ///< held by none, their content known

  // Since the beginning.
  int64_t steps = 0;
  int64_t failedSteps = 0;     ///< rolled back
  int64_t promptTokens = 0;    ///< computed, those computed again included
  int64_t cachedTokens = 0;    ///< of prompts, found in the cache
  int64_t generatedTokens = 0; ///< committed
  int64_t proposedTokens = 0;  ///< checked, and of these
  int64_t acceptedTokens = 0;  ///< those that came true
  int64_t preemptions = 0;
  int64_t evictions = 0;                 ///< of idle pages
  int64_t finished[kFinishReasons] = {}; ///< by FinishReason
  double kernelSeconds = 0;              ///< in the executor's run()
  double proposalSeconds = 0;            ///< in proposing tokens
  double stepSeconds = 0;                ///< in step(), all of it
};

} // namespace qlm

#endif // QLM_RUNTIME_ENGINESTATS_H
