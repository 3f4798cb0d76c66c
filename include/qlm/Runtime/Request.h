//===- Request.h - What a caller asks and gets ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_REQUEST_H
#define QLM_RUNTIME_REQUEST_H

#include "qlm/Runtime/Sampler.h"
#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace qlm {

/// Why a text ended.
enum class FinishReason {
  Stop,      ///< a stop string or an end-of-sequence token
  Length,    ///< max_new_tokens or the context's end
  Cancelled, ///< the caller's callback asked for it
  Error,     ///< see the result's status
};

/// "stop", "length", "cancelled" or "error".
const char *finishReasonName(FinishReason reason);

/// One text to be continued.
struct Request {
  std::vector<int32_t> prompt; ///< token ids, at least one
  int64_t maxNewTokens = 128;
  SamplingOptions sampling;
  std::vector<std::string> stops;
  bool ignoreEos = false; ///< go on past end-of-sequence tokens
  bool logProbabilities = false;
  /// Called after each token on the thread that runs the steps, with text
  /// that is settled (may be empty); false ends the request.
  std::function<bool(int32_t token, std::string_view text)> onToken;
};

/// A finished request.
struct GenerationResult {
  std::vector<int32_t> tokens; ///< generated, with an end-of-sequence token
  std::string text;            ///< without it and without stop strings
  FinishReason reason = FinishReason::Error;
  std::vector<float> logProbabilities; ///< of each token, when asked for
  int64_t promptTokens = 0;
  double firstTokenSeconds = 0; ///< from being added to its first token
  Status status;                ///< of a request that failed
};

} // namespace qlm

#endif // QLM_RUNTIME_REQUEST_H
