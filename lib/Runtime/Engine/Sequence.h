//===- Sequence.h - A text on its way ---------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_ENGINE_SEQUENCE_H
#define QLM_LIB_RUNTIME_ENGINE_SEQUENCE_H

#include "qlm/Runtime/Engine.h"
#include "qlm/Runtime/StopMatcher.h"

#include <list>

namespace qlm {

/// One choice of a request. While it waits it is small: a queue may be long.
struct Engine::Sequence {
  enum class State {
    Held,    ///< waits until the first choice has computed their prompt
    Waiting, ///< in the queue
    Running,
    Finished
  };

  Sequence(Group &group, int64_t choice, int64_t text)
      : group(group), text(text) {
    result.choice = choice;
  }

  /// What a text needs once it runs.
  struct Work {
    Work(const Request &request, int64_t choice, const Tokenizer *tokenizer);
    std::vector<int32_t> tokens; ///< of the prompt, then generated
    Sampler sampler;
    StopMatcher matcher;
    std::optional<IncrementalDecoder> decoder;
    ProposalLength::Record proposals;
  };

  inline const Request &request() const;
  int64_t length() const { return static_cast<int64_t>(work->tokens.size()); }
  /// Tokens not in the cache yet; 1 while it decodes.
  int64_t remaining() const { return length() - computed; }

  Group &group;
  int64_t text; ///< counts texts; smaller is older
  State state = State::Held;
  std::optional<Work> work; ///< from its first admission on
  PageTable table;
  int64_t computed = 0; ///< tokens whose keys and values are in pages
  int64_t lastStep = 0; ///< that had rows of it
  bool isPlanned = false, isSuspect = false, isCancelled = false;
  std::list<Sequence *>::iterator place; ///< in the queue
  GenerationResult result;
};

/// A request and its choices.
struct Engine::Group {
  int64_t number;
  Request request;
  RequestListener *listener;
  std::chrono::steady_clock::time_point added;
  std::vector<std::unique_ptr<Sequence>> choices;
  int64_t unfinished = 0;
  bool isStarted = false; ///< all choices are in the queue, or were
};

inline const Request &Engine::Sequence::request() const {
  return group.request;
}

} // namespace qlm

#endif // QLM_LIB_RUNTIME_ENGINE_SEQUENCE_H
