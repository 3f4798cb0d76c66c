//===- Engine.h - Runs many requests at once --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_ENGINE_H
#define QLM_RUNTIME_ENGINE_H

#include "qlm/Runtime/EngineStats.h"
#include "qlm/Runtime/Executor.h"
#include "qlm/Runtime/KvPages.h"
#include "qlm/Runtime/Request.h"
#include "qlm/Runtime/Speculation.h"
#include "qlm/Runtime/Tokenizer.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

namespace qlm {

class RequestQueue;

/// How an engine uses a package's plan.
struct EngineOptions {
  /// Pages of the KV cache to use; 0 takes the plan's.
  int64_t pages = 0;
  /// Rows of a step at most; 0 takes the plan's.
  int64_t maxStepTokens = 0;
  /// Keep what prompts and texts computed for those that begin alike.
  bool sharePrefixes = true;
  SpeculationOptions speculation;
  /// Logits of a step from which on tokens are sampled on all threads: fewer
  /// take less time than waking the threads.
  int64_t parallelLogits = 32768;
  /// Check the bookkeeping after each step; on in debug builds.
#ifdef NDEBUG
  bool checkInvariants = false;
#else
  bool checkInvariants = true;
#endif
  /// For tests: called before a step with the numbers of the requests in it; a
  /// failure counts as the device's.
  std::function<Status(const std::vector<int64_t> &)> injectFault;
};

/// A token of a text, as a listener sees it. Valid during the call.
struct GeneratedToken {
  int32_t token;
  std::string_view text; ///< settled now; may be empty
  float logProbability;  ///< and the next, when asked for
  const std::vector<TokenProbability> *top;
};

/// Is told what happens to a request, on the thread that runs the steps.
class RequestListener {
public:
  virtual ~RequestListener() = default;
  virtual void onToken(int64_t number, int64_t choice,
                       const GeneratedToken &token) = 0;
  /// The last word on a choice.
  virtual void onFinish(int64_t number, GenerationResult result) = 0;
};

/// Continuous batching: requests join and leave between steps.
///
/// A step is a transaction. It is planned (each text that decodes gets its
/// row, and proposed tokens where they pay; what is left of the step goes to
/// prompts in chunks, the first in rank first), its pages are reserved, it
/// runs, and only then are its tokens committed. A step that fails is rolled
/// back and its texts run one by one, so that the one at fault fails alone.
///
/// Texts are ranked by priority, then by age. A text is admitted when the
/// pages of its prompt are there; texts grow beyond that, and when pages run
/// short the last in rank is preempted: it waits again, first in its line, and
/// is computed again from its tokens. The first in rank is never preempted, so
/// every text ends. Clients that wait take turns by the work they got
/// (Sheng et al., "Fairness in serving large language models", 2024).
///
/// Not thread safe, but for newNumber() and check().
class Engine {
public:
  /// \p tokenizer may be null: results then hold no text, and requests with
  /// stop strings are refused. Errors: InvalidArgument, naming the option.
  static Result<std::unique_ptr<Engine>>
  create(Executor &executor, const Manifest &manifest,
         const Tokenizer *tokenizer, std::vector<int32_t> eosTokenIds,
         const EngineOptions &options);
  ~Engine();

  /// A number for a request; never given twice.
  int64_t newNumber() { return nextNumber++; }

  /// Whether \p request keeps the rules.
  /// Errors: InvalidArgument (an empty prompt, one longer than the context, a
  /// token outside the vocabulary, an option out of range).
  Status check(const Request &request) const;

  /// Queues \p request as \p number. With a \p listener, which must outlive
  /// the request, results go there and not to take(). Errors as check().
  Status add(int64_t number, Request request,
             RequestListener *listener = nullptr);

  /// Ends what is left of the request \p number; false when nothing is.
  bool cancel(int64_t number);

  /// Runs one step; false when there is nothing to do.
  bool step();

  /// Takes the results of the finished request \p number, one a choice;
  /// nothing while it waits or runs.
  std::optional<std::vector<GenerationResult>> take(int64_t number);

  EngineStats getStats() const;
  KvPages &getPages() { return pages; }
  /// Most tokens of a prompt and its continuation together.
  int64_t maxContext() const;
  /// Checks that every page, request and list is accounted for.
  /// Errors: Internal, with what doesn't hold.
  Status checkInvariants() const;

private:
  struct Sequence;
  struct Group;
  struct Rows {
    Sequence *sequence;
    int64_t count;
    int64_t logitRow; ///< -1 while the prompt goes on
    std::vector<int32_t> proposed;
    bool isOnDevice = false; ///< the device chooses the tokens
    std::optional<Result<SampledToken>> first; ///< sampled ahead
  };
  friend class RequestQueue;

  Engine(Executor &executor, const Manifest &manifest,
         const Tokenizer *tokenizer, std::vector<int32_t> eosTokenIds,
         const EngineOptions &options);

  // Engine.cpp: requests come and go.
  int64_t longest(const Sequence &sequence) const;
  void startChoices(Group &group);
  void expire();
  void end(Group &group, FinishReason reason);
  void finish(Sequence &sequence, FinishReason reason);
  void retire();
  void drop(int64_t number);

  // Schedule.cpp: who is in the next step.
  void admit();
  bool admitFirst();
  void makeRoom();
  void preempt(Sequence &sequence);
  bool preemptFor(const Sequence &sequence);
  int64_t promisedPages() const;
  void plan();
  void planSuspect();
  void planTight(int64_t room);
  bool planRows(Sequence &sequence, int64_t count,
                std::vector<int32_t> proposed);
  std::vector<Sequence *> decoding() const;
  std::vector<std::vector<int32_t>>
  proposeFor(const std::vector<Sequence *> &sequences, int64_t room);

  // Commit.cpp: what a step brought.
  void roll(const Status &failure);
  void commit(Rows &rows);
  void accept(Sequence &sequence, SampledToken sampled);
  void show(Sequence &sequence, const SampledToken &sampled, bool isEos,
            bool isFull);
  void askDevice(Rows &rows);
  void announceNext();
  void sampleFirst();
  Result<SampledToken> sampleRow(Rows &rows, int64_t index);

  Executor &executor;
  const Manifest &manifest;
  const Tokenizer *tokenizer;
  std::vector<int32_t> eosTokenIds;
  EngineOptions options;
  KvPages pages;
  std::unique_ptr<Speculator> speculator;
  ProposalLength proposalLength;

  std::unordered_map<int64_t, std::unique_ptr<Group>> groups;
  std::unique_ptr<RequestQueue> waiting;
  std::vector<Sequence *> running; ///< first in rank first
  std::set<std::pair<std::chrono::steady_clock::time_point, int64_t>> deadlines;
  std::vector<Rows> planned;
  std::vector<uint32_t> maskWords;
  bool inStep = false;
  int64_t suspects = 0, held = 0;        ///< texts in these states
  std::vector<int64_t> ended, cancelled; ///< requests to be dropped, ended
  std::atomic<int64_t> nextNumber{0};
  int64_t nextText = 0;
  EngineStats stats;
};

} // namespace qlm

#endif // QLM_RUNTIME_ENGINE_H
