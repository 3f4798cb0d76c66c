//===- Engine.h - Runs many requests at once --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_ENGINE_H
#define QLM_RUNTIME_ENGINE_H

#include "qlm/Runtime/Executor.h"
#include "qlm/Runtime/KvPages.h"
#include "qlm/Runtime/Request.h"
#include "qlm/Runtime/Tokenizer.h"

#include <deque>
#include <memory>
#include <vector>

namespace qlm {

/// Continuous batching: requests join and leave between steps.
///
/// A step is a transaction. It is planned (each running sequence that decodes
/// gets its one row, what is left of max_step_tokens goes to prompts, oldest
/// first, in chunks), its pages are reserved, it runs, and only then are its
/// tokens committed. A request whose logits can't be sampled fails alone.
///
/// A request is admitted when the pages of its longest possible text are free,
/// so a running one never waits for pages. Not thread safe.
class Engine {
public:
  /// \p tokenizer may be null: results then hold no text, and requests with
  /// stop strings are refused.
  Engine(Executor &executor, KvPages &pages, const Manifest &manifest,
         const Tokenizer *tokenizer, std::vector<int32_t> eosTokenIds);
  ~Engine();

  /// Queues \p request and returns its number.
  /// Errors: InvalidArgument (an empty prompt, one longer than the context, a
  /// token outside the vocabulary, an option out of range).
  Result<int64_t> add(Request request);

  /// Runs one step; false when there is nothing to do.
  bool step();

  /// Takes the result of the finished request \p number; nothing while it
  /// waits or runs.
  std::optional<GenerationResult> take(int64_t number);

  /// Ends every request and drops results not taken.
  void clear();

private:
  struct Sequence;
  struct PlannedRows {
    Sequence *sequence;
    int64_t count;
    int64_t logitRow; ///< -1 while the prompt goes on
  };

  Status check(const Request &request) const;
  int64_t longest(const Sequence &sequence) const;
  void admit();
  /// Whether a step holds fewer rows than sequences run; each gets one then,
  /// in turn.
  bool isTight() const {
    return static_cast<int64_t>(running.size()) > manifest.plan.maxStepTokens;
  }
  void plan();
  bool planRows(Sequence &sequence, int64_t count);
  void commit(const PlannedRows &rows);
  void accept(Sequence &sequence, SampledToken sampled);
  void finish(Sequence &sequence, FinishReason reason);
  void retire();

  Executor &executor;
  KvPages &pages;
  const Manifest &manifest;
  const Tokenizer *tokenizer;
  std::vector<int32_t> eosTokenIds;
  std::deque<std::unique_ptr<Sequence>> waiting;
  std::vector<std::unique_ptr<Sequence>> running;
  std::vector<std::unique_ptr<Sequence>> finished;
  std::vector<PlannedRows> planned;
  int64_t promisedPages = 0; ///< that running sequences may still grow to
  int64_t nextNumber = 0;
};

} // namespace qlm

#endif // QLM_RUNTIME_ENGINE_H
