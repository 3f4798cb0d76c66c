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

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlm {

/// Why a text ended.
enum class FinishReason {
  Stop,      ///< a stop string or an end-of-sequence token
  Length,    ///< max_new_tokens or the context's end
  Cancelled, ///< the caller asked for it
  Error,     ///< see the result's status
  Deadline,  ///< the request's deadline passed
};
inline constexpr int kFinishReasons = 5;

/// "stop", "length", "cancelled", "error" or "deadline".
const char *finishReasonName(FinishReason reason);

/// Says which tokens may come next: constrained decoding.
class TokenMask {
public:
  virtual ~TokenMask() = default;

  /// Sets bit `t % 32` of `words[t / 32]` for each token t that may follow
  /// \p generated, the text's tokens so far; all bits are clear before. Called
  /// once for each token, in order, on the thread that runs the steps. A
  /// failure, or no bit, ends the text with an error.
  virtual Status allow(int64_t choice, const std::vector<int32_t> &generated,
                       uint32_t *words) = 0;
};

/// One text to be continued.
struct Request {
  std::vector<int32_t> prompt; ///< token ids, at least one
  int64_t maxNewTokens = 128;
  SamplingOptions sampling;
  std::vector<std::string> stops;
  bool ignoreEos = false; ///< go on past end-of-sequence tokens
  bool logProbabilities = false;
  /// With each token, that many of the most likely ones; at most 20.
  int64_t topLogProbabilities = 0;
  /// Continuations of the one prompt. The i-th draws with the seed
  /// `choiceSeed(seed, i)`.
  int64_t choices = 1;
  /// Higher goes first, and may take the place of lower ones.
  int32_t priority = 0;
  /// Whose request it is: clients that wait get equal shares of the work.
  uint64_t client = 0;
  /// Prompts share cached beginnings within a scope only; from 0 to 2^62.
  int64_t cacheScope = 0;
  /// Allows proposing tokens ahead; the text is the same either way.
  bool speculate = true;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::shared_ptr<TokenMask> mask; ///< or null
  /// Called after each token on the thread that runs the steps, with text
  /// that is settled (may be empty); false ends that text.
  std::function<bool(int32_t token, std::string_view text)> onToken;
};

/// The seed of a request's \p choice -th continuation; \p seed for the first.
uint64_t choiceSeed(uint64_t seed, int64_t choice);

/// A finished text.
struct GenerationResult {
  int64_t choice = 0;
  std::vector<int32_t> tokens; ///< generated, with an end-of-sequence token
  std::string text;            ///< without it and without stop strings
  FinishReason reason = FinishReason::Error;
  std::vector<float> logProbabilities; ///< of each token, when asked for
  /// For each token, the most likely ones, when asked for.
  std::vector<std::vector<TokenProbability>> topLogProbabilities;
  int64_t promptTokens = 0;
  int64_t cachedTokens = 0;     ///< of the prompt, not computed again
  int64_t proposedTokens = 0;   ///< ahead of the text, and of these
  int64_t acceptedTokens = 0;   ///< those that came true
  double firstTokenSeconds = 0; ///< from being added to its first token
  Status status;                ///< of a text that failed
};

} // namespace qlm

#endif // QLM_RUNTIME_REQUEST_H
