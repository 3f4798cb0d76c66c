//===- Commit.cpp - What a step brought -----------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RequestQueue.h"
#include "Sequence.h"

#include <algorithm>
#include <utility>

using namespace qlm;
using Clock = std::chrono::steady_clock;

/// Work of one row as clients are charged for it: a generated token reads all
/// weights for itself in the worst case, a prompt's share them.
static constexpr double promptWork = 1, generatedWork = 2;

static double secondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Lets the device choose the tokens of the rows, if it can: then their logits
/// stay there.
void Engine::askDevice(Rows &rows) {
  const Sampler &sampler = rows.sequence->work->sampler;
  const Request &request = rows.sequence->request();
  if (rows.logitRow < 0 || request.logProbabilities ||
      request.topLogProbabilities || request.mask ||
      !executor.canSample(sampler.getOptions()))
    return;
  rows.isOnDevice = true;
  for (int64_t i = 0; i <= static_cast<int64_t>(rows.proposed.size()); ++i)
    executor.sampleRow(rows.logitRow + i, sampler.getOptions(),
                       sampler.uniform(i));
}

/// Samples the first token of each text at once, on the threads that compute:
/// texts don't depend on one another. Those that ask a mask are left to
/// sampleRow(), as masks are called on the engine's thread alone.
void Engine::sampleFirst() {
  std::vector<Rows *> wanted;
  for (Rows &rows : planned)
    if (rows.logitRow >= 0 && !rows.isOnDevice &&
        !rows.sequence->request().mask)
      wanted.push_back(&rows);
  int64_t count = static_cast<int64_t>(wanted.size());
  if (count < 2 ||
      count * manifest.model.vocabularySize < options.parallelLogits)
    return;
  executor.forEach(count, [&](int64_t i) {
    Rows &rows = *wanted[static_cast<size_t>(i)];
    rows.first.emplace(sampleRow(rows, 0));
  });
}

/// Tells the device what the next step will be, if it's likely to be known now:
/// all rows decode, the device chooses their tokens, and nobody waits to join.
void Engine::announceNext() {
  if (speculator || held || waiting->size() || planned.size() != running.size())
    return;
  std::vector<double> uniforms;
  bool goesOn = false;
  for (const Rows &rows : planned) {
    const Sequence &sequence = *rows.sequence;
    if (!rows.isOnDevice || rows.count != 1)
      return;
    uniforms.push_back(sequence.work->sampler.uniform(1));
    goesOn |= sequence.length() + 1 < longest(sequence);
  }
  if (goesOn)
    executor.expectNext(uniforms);
}

/// Samples from one of the rows, or says why the text can't go on.
Result<SampledToken> Engine::sampleRow(Rows &rows, int64_t index) {
  if (index == 0 && rows.first)
    return std::move(*rows.first);
  Sequence &sequence = *rows.sequence;
  int64_t row = rows.logitRow + index;
  if (rows.isOnDevice) {
    sequence.work->sampler.countDraw();
    return executor.sampled(row);
  }
  const Request &request = sequence.request();
  int64_t vocabularySize = manifest.model.vocabularySize;
  Sampler::Ask ask;
  ask.logProbability = request.logProbabilities;
  ask.top = request.topLogProbabilities;
  if (request.mask) {
    maskWords.assign(static_cast<size_t>((vocabularySize + 31) / 32), 0);
    QLM_RETURN_IF_ERROR(request.mask->allow(
        sequence.result.choice, sequence.result.tokens, maskWords.data()));
    ask.mask = maskWords.data();
  }
  return sequence.work->sampler.sample(executor.logits(row), vocabularySize,
                                       ask);
}

/// Adds what the token settles of the text and tells who listens. Ends the
/// text when it is at its end.
void Engine::show(Sequence &sequence, const SampledToken &sampled, bool isEos,
                  bool isFull) {
  Sequence::Work &work = *sequence.work;
  GenerationResult &result = sequence.result;
  const Request &request = sequence.request();
  std::string text;
  if (work.decoder) {
    if (!isEos)
      text = work.matcher.push(work.decoder->push(sampled.token));
    if (isEos || isFull) {
      text += work.matcher.push(work.decoder->finish());
      if (!work.matcher.stopped())
        text += work.matcher.finish();
    }
  }
  result.text += text;
  bool isStopped = work.matcher.stopped();
  bool goesOn = !request.onToken || request.onToken(sampled.token, text);
  if (RequestListener *listener = sequence.group.listener)
    listener->onToken(
        sequence.group.number, result.choice,
        {sampled.token, text, sampled.logProbability, &sampled.top});
  if (isEos || isStopped)
    finish(sequence, FinishReason::Stop);
  else if (isFull)
    finish(sequence, FinishReason::Length);
  else if (!goesOn || sequence.isCancelled)
    finish(sequence, FinishReason::Cancelled);
}

/// Appends a sampled token.
void Engine::accept(Sequence &sequence, SampledToken sampled) {
  GenerationResult &result = sequence.result;
  const Request &request = sequence.request();
  if (result.tokens.empty())
    result.firstTokenSeconds = secondsSince(sequence.group.added);
  sequence.work->tokens.push_back(sampled.token);
  sequence.work->sampler.see(sampled.token);
  result.tokens.push_back(sampled.token);
  if (request.logProbabilities)
    result.logProbabilities.push_back(sampled.logProbability);
  if (request.topLogProbabilities)
    result.topLogProbabilities.push_back(sampled.top);
  ++stats.generatedTokens;
  bool isEos =
      !request.ignoreEos && std::find(eosTokenIds.begin(), eosTokenIds.end(),
                                      sampled.token) != eosTokenIds.end();
  show(sequence, sampled, isEos, sequence.length() >= longest(sequence));
}

/// Takes a row's tokens into the text: the proposed ones as long as they are
/// what the model says, and one that it says after them.
void Engine::commit(Rows &rows) {
  Sequence &sequence = *rows.sequence;
  sequence.isPlanned = false;
  if (sequence.isSuspect) {
    sequence.isSuspect = false;
    --suspects;
  }
  bool isPrompt = sequence.result.tokens.empty() || rows.count > 1;
  sequence.computed += rows.count;
  // Before sampling, which may end the text: its prompt is known from now on.
  pages.publish(sequence.table, sequence.work->tokens, sequence.computed,
                sequence.request().cacheScope);
  double work =
      static_cast<double>(rows.count) * (isPrompt ? promptWork : generatedWork);
  stats.promptTokens += isPrompt ? rows.count : 0;
  int64_t proposed = static_cast<int64_t>(rows.proposed.size()), right = 0,
          before = static_cast<int64_t>(sequence.result.tokens.size());
  sequence.result.proposedTokens += proposed;
  stats.proposedTokens += proposed;
  for (int64_t i = 0; rows.logitRow >= 0 && i <= proposed; ++i) {
    Result<SampledToken> sampled = sampleRow(rows, i);
    if (!sampled.ok()) {
      sequence.result.status = sampled.status();
      finish(sequence, FinishReason::Error);
      break;
    }
    // The keys and values of this token are in the cache already if it was
    // proposed; those behind a wrong proposal are of no use.
    bool isRight = i < proposed && sampled->token == rows.proposed[i];
    right += isRight;
    sequence.result.acceptedTokens += isRight;
    stats.acceptedTokens += isRight;
    accept(sequence, std::move(*sampled));
    if (sequence.state == Sequence::State::Finished)
      break;
    if (!isRight)
      break;
    ++sequence.computed;
  }
  waiting->charge(sequence.request().client,
                  work + static_cast<double>(right) * generatedWork);
  if (sequence.state == Sequence::State::Finished)
    return;
  if (speculator && !isPrompt)
    proposalLength.update(sequence.work->proposals, proposed, right,
                          static_cast<int64_t>(sequence.result.tokens.size()) -
                              before);
  pages.release(sequence.table, sequence.computed);
  pages.publish(sequence.table, sequence.work->tokens, sequence.computed,
                sequence.request().cacheScope);
  if (rows.logitRow >= 0)
    startChoices(sequence.group);
}

/// Undoes the plan of a step that failed. The one text in it fails; one of
/// several did it, and they are tried alone.
void Engine::roll(const Status &failure) {
  ++stats.failedSteps;
  bool isAlone = planned.size() == 1;
  for (const Rows &rows : planned) {
    Sequence &sequence = *rows.sequence;
    sequence.isPlanned = false;
    pages.release(sequence.table, sequence.computed);
    if (isAlone) {
      sequence.result.status = failure;
      finish(sequence, FinishReason::Error);
    } else if (!sequence.isSuspect) {
      sequence.isSuspect = true;
      ++suspects;
    }
  }
}

bool Engine::step() {
  Clock::time_point begin = Clock::now();
  expire();
  admit();
  retire();
  if (running.empty())
    return false;
  ++stats.steps;
  plan();
  for (Rows &rows : planned)
    askDevice(rows);
  announceNext();
  Clock::time_point planned_ = Clock::now();
  Status ran;
  if (options.injectFault) {
    std::vector<int64_t> numbers;
    for (const Rows &rows : planned)
      numbers.push_back(rows.sequence->group.number);
    ran = options.injectFault(numbers);
  }
  if (ran.ok())
    ran = executor.run();
  double kernel = secondsSince(planned_);
  stats.kernelSeconds += kernel;
  inStep = true;
  if (ran.ok()) {
    int64_t rows = executor.batch().getSizes().tokens;
    if (speculator && rows == executor.batch().getSizes().logitRows)
      proposalLength.observeStep(rows, kernel);
    sampleFirst();
    for (Rows &entry : planned)
      commit(entry);
  } else {
    roll(ran);
  }
  inStep = false;
  for (int64_t number : std::exchange(cancelled, {}))
    if (auto found = groups.find(number); found != groups.end())
      end(*found->second, FinishReason::Cancelled);
  retire();
  stats.stepSeconds += secondsSince(begin);
  if (!options.checkInvariants)
    return true;
  Status holds = checkInvariants();
  if (!holds.ok())
    for (Sequence *sequence : std::vector<Sequence *>(running)) {
      sequence->result.status = holds;
      finish(*sequence, FinishReason::Error);
    }
  retire();
  return true;
}
