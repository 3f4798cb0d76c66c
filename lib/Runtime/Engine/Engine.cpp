//===- Engine.cpp - Requests come and go ----------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Engine.h"

#include "RequestQueue.h"
#include "Sequence.h"
#include "qlm/Runtime/Model.h"

#include <algorithm>
#include <utility>

using namespace qlm;
using Clock = std::chrono::steady_clock;

const char *qlm::finishReasonName(FinishReason reason) {
  switch (reason) {
  case FinishReason::Stop:
    return "stop";
  case FinishReason::Length:
    return "length";
  case FinishReason::Cancelled:
    return "cancelled";
  case FinishReason::Error:
    return "error";
  case FinishReason::Deadline:
    return "deadline";
  }
  return "error";
}

static Status invalid(const std::string &what) {
  return Status(StatusCode::InvalidArgument, what);
}

/// Fails unless \p value is from \p least to \p most.
static Status checkRange(const char *name, int64_t value, int64_t least,
                         int64_t most) {
  if (value >= least && value <= most)
    return Status();
  return invalid(std::string(name) + " must be from " + std::to_string(least) +
                 " to " + std::to_string(most) + ", got " +
                 std::to_string(value));
}

Engine::Engine(Executor &executor, const Manifest &manifest,
               const Tokenizer *tokenizer, std::vector<int32_t> eosTokenIds,
               const EngineOptions &options)
    : executor(executor), manifest(manifest), tokenizer(tokenizer),
      eosTokenIds(std::move(eosTokenIds)), options(options),
      pages(options.pages, manifest.plan.kv.pageTokens, options.sharePrefixes),
      proposalLength(options.speculation.maxTokens,
                     options.speculation.adaptive),
      waiting(std::make_unique<RequestQueue>()) {}

Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::create(Executor &executor,
                                               const Manifest &manifest,
                                               const Tokenizer *tokenizer,
                                               std::vector<int32_t> eosTokenIds,
                                               const EngineOptions &options) {
  EngineOptions filled = options;
  const MemoryPlan &plan = manifest.plan;
  if (filled.pages == 0)
    filled.pages = plan.kv.pages;
  if (filled.maxStepTokens == 0)
    filled.maxStepTokens = plan.maxStepTokens;
  QLM_RETURN_IF_ERROR(checkRange("pages", filled.pages, 1, plan.kv.pages));
  QLM_RETURN_IF_ERROR(checkRange("max_step_tokens", filled.maxStepTokens, 1,
                                 plan.maxStepTokens));
  QLM_RETURN_IF_ERROR(filled.speculation.check());
  std::unique_ptr<Engine> engine(new Engine(executor, manifest, tokenizer,
                                            std::move(eosTokenIds), filled));
  if (filled.speculation.draft) {
    Result<std::unique_ptr<Speculator>> draft = createDraftSpeculator(
        filled.speculation, manifest.model.vocabularySize);
    if (!draft.ok())
      return draft.status();
    engine->speculator = draft.take();
  } else if (filled.speculation.maxTokens > 0) {
    engine->speculator = createPromptLookup(filled.speculation);
  }
  return engine;
}

int64_t Engine::maxContext() const {
  return std::min(manifest.plan.maxContext,
                  options.pages * manifest.plan.kv.pageTokens);
}

Status Engine::check(const Request &request) const {
  int64_t length = static_cast<int64_t>(request.prompt.size());
  if (length == 0)
    return invalid("prompt has no tokens");
  if (length > maxContext())
    return invalid("prompt has " + std::to_string(length) +
                   " tokens, the package's context holds " +
                   std::to_string(maxContext()));
  int64_t vocabularySize = manifest.model.vocabularySize;
  QLM_RETURN_IF_ERROR(checkTokens(request.prompt, vocabularySize));
  if (request.maxNewTokens < 0)
    return invalid("max_new_tokens must not be negative, got " +
                   std::to_string(request.maxNewTokens));
  for (const std::string &stop : request.stops)
    if (stop.empty())
      return invalid("stop string is empty");
  if (!tokenizer && !request.stops.empty())
    return invalid("stop strings need a tokenizer, the package has none");
  QLM_RETURN_IF_ERROR(checkRange("n", request.choices, 1, 128));
  QLM_RETURN_IF_ERROR(
      checkRange("top_logprobs", request.topLogProbabilities, 0, 20));
  QLM_RETURN_IF_ERROR(
      checkRange("cache_scope", request.cacheScope, 0, int64_t(1) << 62));
  return request.sampling.check(vocabularySize);
}

Status Engine::add(int64_t number, Request request, RequestListener *listener) {
  QLM_RETURN_IF_ERROR(check(request));
  auto group = std::make_unique<Group>();
  group->number = number;
  group->request = std::move(request);
  group->listener = listener;
  group->added = Clock::now();
  group->unfinished = group->request.choices;
  for (int64_t i = 0; i < group->request.choices; ++i) {
    group->choices.push_back(std::make_unique<Sequence>(*group, i, nextText++));
    group->choices.back()->result.promptTokens =
        static_cast<int64_t>(group->request.prompt.size());
  }
  Sequence &first = *group->choices.front();
  first.state = Sequence::State::Waiting;
  waiting->push(first, /*first=*/false);
  // The others find the prompt in the cache once the first has computed it.
  group->isStarted = group->request.choices == 1;
  held += group->request.choices - 1;
  if (!options.sharePrefixes)
    startChoices(*group);
  if (group->request.deadline)
    deadlines.emplace(*group->request.deadline, number);
  groups.emplace(number, std::move(group));
  return Status();
}

/// Lets the choices of a request that are held back wait like others.
void Engine::startChoices(Group &group) {
  if (std::exchange(group.isStarted, true))
    return;
  for (size_t i = group.choices.size(); i-- > 0;)
    if (group.choices[i]->state == Sequence::State::Held) {
      group.choices[i]->state = Sequence::State::Waiting;
      waiting->push(*group.choices[i], /*first=*/true);
      --held;
    }
}

/// Tokens of the sequence when it ends by length.
int64_t Engine::longest(const Sequence &sequence) const {
  int64_t prompt = sequence.result.promptTokens;
  return prompt +
         std::min(maxContext() - prompt, sequence.request().maxNewTokens);
}

/// Ends the text and gives back what it held. It stays among the running ones
/// until retire().
void Engine::finish(Sequence &sequence, FinishReason reason) {
  if (sequence.state == Sequence::State::Waiting)
    waiting->erase(sequence);
  if (sequence.state == Sequence::State::Held)
    --held;
  if (std::exchange(sequence.isSuspect, false))
    --suspects;
  sequence.state = Sequence::State::Finished;
  pages.release(sequence.table);
  if (speculator)
    speculator->forget(sequence.text);
  sequence.work.reset();
  sequence.result.reason = reason;
  ++stats.finished[static_cast<int>(reason)];
  Group &group = sequence.group;
  --group.unfinished;
  startChoices(group);
  if (!group.listener)
    return;
  if (!group.unfinished)
    ended.push_back(group.number);
  group.listener->onFinish(group.number, std::move(sequence.result));
}

/// Drops finished texts from the running ones, and requests whose results went
/// to their listener.
void Engine::retire() {
  running.erase(std::remove_if(running.begin(), running.end(),
                               [](const Sequence *sequence) {
                                 return sequence->state ==
                                        Sequence::State::Finished;
                               }),
                running.end());
  for (int64_t number : std::exchange(ended, {}))
    drop(number);
}

void Engine::drop(int64_t number) {
  auto found = groups.find(number);
  if (found->second->request.deadline)
    deadlines.erase({*found->second->request.deadline, number});
  groups.erase(found);
}

/// Ends what is left of a request.
void Engine::end(Group &group, FinishReason reason) {
  for (auto &choice : group.choices)
    if (choice->state != Sequence::State::Finished)
      finish(*choice, reason);
}

bool Engine::cancel(int64_t number) {
  auto found = groups.find(number);
  if (found == groups.end() || !found->second->unfinished)
    return false;
  if (inStep) {
    // A text in the step ends behind the token it is at.
    for (auto &choice : found->second->choices)
      choice->isCancelled = true;
    cancelled.push_back(number);
    return true;
  }
  end(*found->second, FinishReason::Cancelled);
  retire();
  return true;
}

/// Ends what has passed its deadline.
void Engine::expire() {
  while (!deadlines.empty() && deadlines.begin()->first <= Clock::now()) {
    int64_t number = deadlines.begin()->second;
    deadlines.erase(deadlines.begin());
    if (auto found = groups.find(number); found != groups.end())
      end(*found->second, FinishReason::Deadline);
  }
  retire();
}

std::optional<std::vector<GenerationResult>> Engine::take(int64_t number) {
  auto found = groups.find(number);
  if (found == groups.end() || found->second->unfinished ||
      found->second->listener)
    return std::nullopt;
  std::vector<GenerationResult> results;
  for (auto &choice : found->second->choices)
    results.push_back(std::move(choice->result));
  drop(number);
  return results;
}

EngineStats Engine::getStats() const {
  EngineStats now = stats;
  now.waiting = waiting->size() + held;
  now.running = static_cast<int64_t>(running.size());
  now.totalPages = pages.totalPages();
  now.idlePages = pages.idleCount();
  now.usedPages = pages.totalPages() - pages.availablePages();
  now.evictions = pages.evictions();
  return now;
}

Status Engine::checkInvariants() const {
  auto error = [](const std::string &what) {
    return Status(StatusCode::Internal, what);
  };
  QLM_RETURN_IF_ERROR(waiting->check());
  std::vector<const PageTable *> tables;
  int64_t waits = 0, runs = 0, suspected = 0, holds = 0;
  for (const auto &[number, group] : groups) {
    int64_t unfinished = 0;
    for (const auto &choice : group->choices) {
      const Sequence &sequence = *choice;
      std::string name = "request " + std::to_string(number);
      bool isRunning = sequence.state == Sequence::State::Running;
      waits += sequence.state == Sequence::State::Waiting;
      runs += isRunning;
      holds += sequence.state == Sequence::State::Held;
      suspected += sequence.isSuspect;
      unfinished += sequence.state != Sequence::State::Finished;
      tables.push_back(&sequence.table);
      int64_t count = static_cast<int64_t>(sequence.table.pages.size());
      if (!isRunning && (count || sequence.isSuspect))
        return error(name + " holds pages and doesn't run");
      if (!isRunning)
        continue;
      if (count != pages.pagesFor(sequence.computed))
        return error(name + " computed " + std::to_string(sequence.computed) +
                     " tokens and holds " + std::to_string(count) + " pages");
      if (sequence.remaining() < 1 || sequence.length() > longest(sequence))
        return error(name + " has " + std::to_string(sequence.length()) +
                     " tokens, " + std::to_string(sequence.computed) +
                     " of them computed");
      if (std::count(running.begin(), running.end(), &sequence) != 1)
        return error(name + " is not listed as running");
    }
    if (unfinished != group->unfinished)
      return error("request " + std::to_string(number) + " counts " +
                   std::to_string(group->unfinished) + " choices, has " +
                   std::to_string(unfinished));
  }
  if (waits != waiting->size() || holds != held ||
      runs != static_cast<int64_t>(running.size()) || suspected != suspects)
    return error("texts that wait, run or are suspected are not as counted");
  return pages.check(tables);
}
