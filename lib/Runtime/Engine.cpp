//===- Engine.cpp - Runs many requests at once ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Engine.h"

#include "qlm/Runtime/Model.h"
#include "qlm/Runtime/StopMatcher.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

using namespace qlm;
using Clock = std::chrono::steady_clock;

/// A request on its way.
struct Engine::Sequence {
  Sequence(int64_t number, Request request, const Tokenizer *tokenizer)
      : number(number), request(std::move(request)),
        tokens(this->request.prompt), sampler(this->request.sampling),
        matcher(this->request.stops), added(Clock::now()) {
    if (tokenizer)
      decoder.emplace(*tokenizer);
    for (int32_t token : tokens)
      sampler.see(token);
    result.promptTokens = static_cast<int64_t>(tokens.size());
  }

  int64_t number;
  Request request;
  std::vector<int32_t> tokens; ///< of the prompt, then generated
  int64_t computed = 0;        ///< tokens whose keys and values are in pages
  std::vector<int32_t> pages;
  Sampler sampler;
  StopMatcher matcher;
  std::optional<IncrementalDecoder> decoder;
  Clock::time_point added;
  GenerationResult result;
  bool isPlanned = false; ///< has rows in the step being made
  bool isFinished = false;

  int64_t remaining() const {
    return static_cast<int64_t>(tokens.size()) - computed;
  }
};

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
  }
  return "error";
}

Engine::Engine(Executor &executor, KvPages &pages, const Manifest &manifest,
               const Tokenizer *tokenizer, std::vector<int32_t> eosTokenIds)
    : executor(executor), pages(pages), manifest(manifest),
      tokenizer(tokenizer), eosTokenIds(std::move(eosTokenIds)) {}

Engine::~Engine() = default;

Status Engine::check(const Request &request) const {
  auto error = [](const std::string &what) {
    return Status(StatusCode::InvalidArgument, what);
  };
  int64_t length = static_cast<int64_t>(request.prompt.size());
  if (length == 0)
    return error("prompt has no tokens");
  if (length > manifest.plan.maxContext)
    return error("prompt has " + std::to_string(length) +
                 " tokens, the package's context holds " +
                 std::to_string(manifest.plan.maxContext));
  QLM_RETURN_IF_ERROR(
      checkTokens(request.prompt, manifest.model.vocabularySize));
  if (request.maxNewTokens < 0)
    return error("max_new_tokens must not be negative, got " +
                 std::to_string(request.maxNewTokens));
  for (const std::string &stop : request.stops)
    if (stop.empty())
      return error("stop string is empty");
  if (!tokenizer && !request.stops.empty())
    return error("stop strings need a tokenizer, the package has none");
  return request.sampling.check();
}

Result<int64_t> Engine::add(Request request) {
  QLM_RETURN_IF_ERROR(check(request));
  waiting.push_back(
      std::make_unique<Sequence>(nextNumber, std::move(request), tokenizer));
  return nextNumber++;
}

/// Tokens of the sequence when it ends by length.
int64_t Engine::longest(const Sequence &sequence) const {
  int64_t room = manifest.plan.maxContext - sequence.result.promptTokens;
  return sequence.result.promptTokens +
         std::min(room, sequence.request.maxNewTokens);
}

void Engine::admit() {
  while (!waiting.empty() &&
         static_cast<int64_t>(running.size()) < manifest.plan.maxBatch) {
    Sequence &next = *waiting.front();
    // Nothing to generate: done before it began.
    if (longest(next) <= next.result.promptTokens) {
      finish(next, FinishReason::Length);
      finished.push_back(std::move(waiting.front()));
      waiting.pop_front();
      continue;
    }
    int64_t needed = pages.pagesFor(longest(next));
    if (promisedPages + needed > pages.freePages())
      return;
    promisedPages += needed;
    running.push_back(std::move(waiting.front()));
    waiting.pop_front();
  }
}

/// Puts the sequence's next \p count rows into the step; false, and nothing
/// reserved, when they don't fit.
bool Engine::planRows(Sequence &sequence, int64_t count) {
  StepBatch &batch = executor.batch();
  bool isLast = count == sequence.remaining();
  size_t held = sequence.pages.size();
  if (!pages.reserve(sequence.pages, sequence.computed + count))
    return false;
  int64_t logitRow = isLast ? batch.getSizes().logitRows : -1;
  if (!batch.addSequence(sequence.tokens.data() + sequence.computed, count,
                         sequence.computed, sequence.pages, isLast ? 1 : 0)) {
    pages.release(sequence.pages, sequence.computed);
    return false;
  }
  promisedPages -= static_cast<int64_t>(sequence.pages.size() - held);
  planned.push_back({&sequence, count, logitRow});
  sequence.isPlanned = true;
  return true;
}

void Engine::plan() {
  planned.clear();
  executor.batch().clear();
  if (isTight()) {
    for (auto &sequence : running)
      if (executor.batch().freeTokens() > 0)
        planRows(*sequence, 1);
    return;
  }
  // Decoding first: a long prompt must not stall the texts in progress.
  for (auto &sequence : running)
    if (sequence->remaining() == 1)
      planRows(*sequence, 1);
  for (auto &sequence : running) {
    int64_t room = executor.batch().freeTokens();
    if (sequence->remaining() > 1 && room > 0)
      planRows(*sequence, std::min(sequence->remaining(), room));
  }
}

/// Ends the request and gives back what it held.
void Engine::finish(Sequence &sequence, FinishReason reason) {
  int64_t promised = pages.pagesFor(longest(sequence));
  int64_t held = static_cast<int64_t>(sequence.pages.size());
  if (sequence.result.promptTokens < longest(sequence))
    promisedPages -= promised - held;
  pages.release(sequence.pages);
  sequence.result.reason = reason;
  sequence.isFinished = true;
}

/// Appends a sampled token: to the tokens, and its text through the decoder
/// and the stop strings.
void Engine::accept(Sequence &sequence, SampledToken sampled) {
  GenerationResult &result = sequence.result;
  if (result.tokens.empty())
    result.firstTokenSeconds =
        std::chrono::duration<double>(Clock::now() - sequence.added).count();
  sequence.tokens.push_back(sampled.token);
  sequence.sampler.see(sampled.token);
  result.tokens.push_back(sampled.token);
  if (sequence.request.logProbabilities)
    result.logProbabilities.push_back(sampled.logProbability);

  bool isEos = !sequence.request.ignoreEos &&
               std::find(eosTokenIds.begin(), eosTokenIds.end(),
                         sampled.token) != eosTokenIds.end();
  bool isFull =
      static_cast<int64_t>(sequence.tokens.size()) >= longest(sequence);
  std::string text;
  if (sequence.decoder) {
    if (!isEos)
      text = sequence.matcher.push(sequence.decoder->push(sampled.token));
    if (isEos || isFull) {
      text += sequence.matcher.push(sequence.decoder->finish());
      if (!sequence.matcher.stopped())
        text += sequence.matcher.finish();
    }
  }
  result.text += text;
  bool goesOn = !sequence.request.onToken ||
                sequence.request.onToken(sampled.token, text);
  if (isEos || sequence.matcher.stopped())
    finish(sequence, FinishReason::Stop);
  else if (isFull)
    finish(sequence, FinishReason::Length);
  else if (!goesOn)
    finish(sequence, FinishReason::Cancelled);
}

void Engine::commit(const PlannedRows &rows) {
  Sequence &sequence = *rows.sequence;
  sequence.computed += rows.count;
  if (rows.logitRow < 0)
    return;
  Result<SampledToken> sampled = sequence.sampler.sample(
      executor.logits(rows.logitRow), manifest.model.vocabularySize);
  if (sampled.ok())
    return accept(sequence, *sampled);
  sequence.result.status = sampled.status();
  finish(sequence, FinishReason::Error);
}

/// Moves finished sequences out. Where a step can't serve all, those that
/// found no place go first in the next one; else the oldest stays first.
void Engine::retire() {
  bool tight = isTight();
  std::vector<std::unique_ptr<Sequence>> first, second;
  for (std::unique_ptr<Sequence> &sequence : running) {
    bool wasPlanned = std::exchange(sequence->isPlanned, false);
    auto &place = sequence->isFinished  ? finished
                  : tight && wasPlanned ? second
                                        : first;
    place.push_back(std::move(sequence));
  }
  running = std::move(first);
  std::move(second.begin(), second.end(), std::back_inserter(running));
}

bool Engine::step() {
  admit();
  if (running.empty())
    return false;
  plan();
  Status ran = executor.run();
  for (const PlannedRows &rows : planned) {
    if (ran.ok()) {
      commit(rows);
      continue;
    }
    rows.sequence->result.status = ran;
    finish(*rows.sequence, FinishReason::Error);
  }
  retire();
  return true;
}

std::optional<GenerationResult> Engine::take(int64_t number) {
  for (auto &sequence : finished)
    if (sequence->number == number) {
      GenerationResult result = std::move(sequence->result);
      sequence = std::move(finished.back());
      finished.pop_back();
      return result;
    }
  return std::nullopt;
}

void Engine::clear() {
  for (auto &sequence : running)
    finish(*sequence, FinishReason::Cancelled);
  running.clear();
  waiting.clear();
  finished.clear();
}
