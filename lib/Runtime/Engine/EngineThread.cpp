//===- EngineThread.cpp - An engine on a thread of its own ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/EngineThread.h"

#include <iterator>
#include <utility>

using namespace qlm;
using Clock = std::chrono::steady_clock;

Result<std::unique_ptr<EngineThread>>
EngineThread::start(Model &model, const EngineOptions &engineOptions,
                    const Options &options) {
  if (options.maxQueue < 0)
    return Status(StatusCode::InvalidArgument,
                  "max_queue must not be negative, got " +
                      std::to_string(options.maxQueue));
  if (!model.claimThread())
    return Status(StatusCode::InvalidArgument,
                  "the model has an engine already");
  if (Status status = model.configure(engineOptions); !status.ok()) {
    model.releaseThread();
    return status;
  }
  return std::unique_ptr<EngineThread>(new EngineThread(model, options));
}

EngineThread::EngineThread(Model &model, const Options &options)
    : model(model), options(options) {
  {
    auto guard = model.lock();
    // A server has time before its first request.
    model.getExecutor().settle();
    stats = model.getEngine().getStats();
  }
  thread = std::thread([this] { run(); });
}

EngineThread::~EngineThread() {
  draining = true;
  {
    std::lock_guard<std::mutex> guard(inboxMutex);
    stopping = true;
  }
  inboxChanged.notify_one();
  thread.join();
  model.releaseThread();
}

Result<int64_t> EngineThread::submit(Request request) {
  Engine &engine = model.getEngine();
  QLM_RETURN_IF_ERROR(engine.check(request));
  int64_t limit = options.maxQueue + model.getManifest().plan.maxBatch;
  int64_t number = engine.newNumber(), choices = request.choices;
  {
    std::lock_guard<std::mutex> guard(inboxMutex);
    if (draining)
      return Status(StatusCode::ResourceExhausted,
                    "the engine takes no more requests, it is shutting down");
    if (unfinished >= limit)
      return Status(StatusCode::ResourceExhausted,
                    "the queue is full, " + std::to_string(unfinished) +
                        " requests are on their way");
    ++unfinished;
    inbox.push_back({number, {std::move(request), choices, Clock::now()}});
  }
  inboxChanged.notify_one();
  return number;
}

void EngineThread::cancel(int64_t number) {
  {
    std::lock_guard<std::mutex> guard(inboxMutex);
    cancellations.push_back(number);
  }
  inboxChanged.notify_one();
}

void EngineThread::drain() {
  std::lock_guard<std::mutex> guard(inboxMutex);
  draining = true;
}

std::vector<EngineThread::Event> EngineThread::wait(double seconds) {
  std::unique_lock<std::mutex> guard(outboxMutex);
  outboxChanged.wait_for(guard, std::chrono::duration<double>(seconds),
                         [&] { return !outbox.empty() || isWoken; });
  isWoken = false;
  return std::exchange(outbox, {});
}

void EngineThread::wake() {
  {
    std::lock_guard<std::mutex> guard(outboxMutex);
    isWoken = true;
  }
  outboxChanged.notify_all();
}

EngineStats EngineThread::getStats() {
  std::lock_guard<std::mutex> guard(outboxMutex);
  return stats;
}

double EngineThread::secondsSince(Clock::time_point begin) const {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void EngineThread::onToken(int64_t number, int64_t choice,
                           const GeneratedToken &token) {
  Open &text = texts[number];
  Event event;
  event.request = number;
  event.choice = choice;
  event.token = token.token;
  event.text = token.text;
  event.logProbability = token.logProbability;
  event.top = *token.top;
  event.generatedTokens = ++text.generated[static_cast<size_t>(choice)];
  event.seconds = secondsSince(text.submitted);
  events.push_back(std::move(event));
}

void EngineThread::onFinish(int64_t number, GenerationResult result) {
  Open &text = texts[number];
  Event event;
  event.request = number;
  event.choice = result.choice;
  event.isLast = true;
  event.generatedTokens = static_cast<int64_t>(result.tokens.size());
  event.seconds = secondsSince(text.submitted);
  result.tokens.clear();
  result.text.clear();
  result.logProbabilities.clear();
  result.topLogProbabilities.clear();
  event.result = std::move(result);
  events.push_back(std::move(event));
  if (--text.choices == 0) {
    texts.erase(number);
    --unfinished;
  }
}

/// Hands what came in since the last step to the engine.
void EngineThread::obey() {
  std::vector<std::pair<int64_t, Accepted>> accepted;
  std::vector<int64_t> cancelled;
  bool stops;
  {
    std::lock_guard<std::mutex> guard(inboxMutex);
    accepted.swap(inbox);
    cancelled.swap(cancellations);
    stops = stopping;
  }
  Engine &engine = model.getEngine();
  for (auto &[number, entry] : accepted) {
    texts[number] = {entry.choices,
                     std::vector<int64_t>(static_cast<size_t>(entry.choices)),
                     entry.submitted};
    Status added = engine.add(number, std::move(entry.request), this);
    for (int64_t i = 0; !added.ok() && i < entry.choices; ++i) {
      GenerationResult failed;
      failed.choice = i;
      failed.status = added;
      onFinish(number, std::move(failed));
    }
  }
  for (int64_t number : cancelled)
    engine.cancel(number);
  if (!stops)
    return;
  std::vector<int64_t> left;
  for (const auto &[number, text] : texts)
    left.push_back(number);
  for (int64_t number : left)
    engine.cancel(number);
}

void EngineThread::run() {
  for (bool isBusy = false;;) {
    {
      std::unique_lock<std::mutex> guard(inboxMutex);
      inboxChanged.wait(guard, [&] {
        return isBusy || stopping || !inbox.empty() || !cancellations.empty();
      });
      if (stopping && !isBusy && inbox.empty())
        return;
    }
    EngineStats now;
    std::vector<Event> happened;
    {
      auto guard = model.lock();
      obey();
      isBusy = model.getEngine().step();
      now = model.getEngine().getStats();
      happened.swap(events);
    }
    {
      std::lock_guard<std::mutex> guard(outboxMutex);
      stats = now;
      std::move(happened.begin(), happened.end(), std::back_inserter(outbox));
    }
    if (!happened.empty())
      outboxChanged.notify_all();
  }
}
