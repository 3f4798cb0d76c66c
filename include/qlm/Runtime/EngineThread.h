//===- EngineThread.h - An engine on a thread of its own --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_ENGINETHREAD_H
#define QLM_RUNTIME_ENGINETHREAD_H

#include "qlm/Runtime/Model.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace qlm {

/// Runs a model's engine on a thread of its own. Requests come from any
/// thread; what happens to them is read, in order, from one stream of events.
///
/// The engine's thread never waits for a reader. Events that nobody reads are
/// kept: at most one for each token of the requests that were accepted.
class EngineThread final : private RequestListener {
public:
  struct Options {
    /// Requests accepted and not finished at most, beside those that the plan
    /// computes at once; more are refused.
    int64_t maxQueue = 1024;
  };

  /// A token of a text, or its end.
  struct Event {
    int64_t request = 0;
    int64_t choice = 0;
    bool isLast = false; ///< the choice ended: `result` says how
    int32_t token = 0;
    std::string text;
    float logProbability = 0;
    std::vector<TokenProbability> top;
    /// Of the last event; texts and tokens went out with the others.
    GenerationResult result;
    int64_t generatedTokens = 0; ///< of the choice, so far
    double seconds = 0;          ///< since the request was submitted
  };

  /// Configures \p model, which must outlive the thread and may have one at a
  /// time, and starts. Errors: as Model::configure; InvalidArgument when the
  /// model has an engine thread or \p options are out of range.
  static Result<std::unique_ptr<EngineThread>>
  start(Model &model, const EngineOptions &engineOptions,
        const Options &options);
  /// Cancels what is left.
  ~EngineThread();
  EngineThread(const EngineThread &) = delete;
  EngineThread &operator=(const EngineThread &) = delete;

  /// Hands over \p request and returns its number, which its events have.
  /// Errors: as Engine::check; ResourceExhausted when too many wait or the
  /// engine drains.
  Result<int64_t> submit(Request request);

  /// Ends the request \p number soon, if it hasn't ended; its last events come
  /// in any case.
  void cancel(int64_t number);

  /// Takes the events so far; waits up to \p seconds for the first. Empty when
  /// none came.
  std::vector<Event> wait(double seconds);
  /// Makes wait() return.
  void wake();

  /// From now on no request is accepted; those that were go on.
  void drain();
  bool isDraining() const { return draining; }
  /// Requests accepted and not finished.
  int64_t open() const { return unfinished; }
  EngineStats getStats();

private:
  EngineThread(Model &model, const Options &options);
  struct Accepted {
    Request request;
    int64_t choices;
    std::chrono::steady_clock::time_point submitted;
  };
  struct Open {
    int64_t choices; ///< that have not ended
    std::vector<int64_t> generated;
    std::chrono::steady_clock::time_point submitted;
  };

  void run();
  void obey();
  void onToken(int64_t number, int64_t choice,
               const GeneratedToken &token) override;
  void onFinish(int64_t number, GenerationResult result) override;
  double secondsSince(std::chrono::steady_clock::time_point begin) const;

  Model &model;
  Options options;
  std::atomic<bool> draining{false};
  std::atomic<int64_t> unfinished{0};

  std::mutex inboxMutex;
  std::condition_variable inboxChanged;
  std::vector<std::pair<int64_t, Accepted>> inbox;
  std::vector<int64_t> cancellations;
  bool stopping = false;

  std::mutex outboxMutex;
  std::condition_variable outboxChanged;
  std::vector<Event> outbox;
  EngineStats stats;
  bool isWoken = false;

  // Under the model's lock: callers of Model::generate make steps, too, and
  // those steps report here.
  std::unordered_map<int64_t, Open> texts;
  std::vector<Event> events; ///< not yet in the outbox

  std::thread thread;
};

} // namespace qlm

#endif // QLM_RUNTIME_ENGINETHREAD_H
