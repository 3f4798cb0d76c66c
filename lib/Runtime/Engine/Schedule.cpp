//===- Schedule.cpp - Who is in the next step -----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RequestQueue.h"
#include "Sequence.h"

#include <algorithm>
#include <tuple>

using namespace qlm;
using Clock = std::chrono::steady_clock;

Engine::Sequence::Work::Work(const Request &request, int64_t choice,
                             const Tokenizer *tokenizer)
    : tokens(request.prompt), sampler([&] {
        SamplingOptions sampling = request.sampling;
        sampling.seed = choiceSeed(sampling.seed, choice);
        return sampling;
      }()),
      matcher(request.stops) {
  if (tokenizer)
    decoder.emplace(*tokenizer);
  for (int32_t token : tokens)
    sampler.see(token, /*isPrompt=*/true);
}

/// Whether \p a goes before \p b.
template <typename T> static bool ranksBefore(const T &a, const T &b) {
  return std::make_tuple(-int64_t(a->request().priority), a->text) <
         std::make_tuple(-int64_t(b->request().priority), b->text);
}

/// Pages that prompts in progress will still take.
int64_t Engine::promisedPages() const {
  int64_t promised = 0;
  for (const Sequence *sequence : running)
    promised += std::max<int64_t>(
        pages.pagesFor(sequence->length()) -
            static_cast<int64_t>(sequence->table.pages.size()),
        0);
  return promised;
}

/// Admits the queue's first text, or ends it if there is nothing to generate;
/// false when it has to wait.
bool Engine::admitFirst() {
  Sequence &next = *waiting->front();
  if (longest(next) <= next.result.promptTokens) {
    finish(next, FinishReason::Length);
    return true;
  }
  if (!next.work)
    next.work.emplace(next.request(), next.result.choice, tokenizer);
  // The last token is computed in any case: its logits are wanted.
  next.computed = pages.match(next.table, next.work->tokens, next.length() - 1,
                              next.request().cacheScope);
  int64_t needed = pages.pagesFor(next.length() + 1) -
                   static_cast<int64_t>(next.table.pages.size());
  // A page for each running text keeps the newcomer from being preempted at
  // once.
  int64_t spare = pages.availablePages() - promisedPages() -
                  static_cast<int64_t>(running.size());
  if (!running.empty() && needed > spare) {
    pages.release(next.table);
    next.computed = 0;
    if (running.back()->request().priority >= next.request().priority)
      return false;
    preempt(*running.back());
    return true;
  }
  waiting->erase(next);
  next.state = Sequence::State::Running;
  if (next.result.tokens.empty())
    next.result.cachedTokens = next.computed;
  stats.cachedTokens += next.computed;
  running.insert(std::upper_bound(running.begin(), running.end(), &next,
                                  ranksBefore<Sequence *>),
                 &next);
  return true;
}

void Engine::admit() {
  while (const Sequence *next = waiting->front()) {
    bool isFull =
        static_cast<int64_t>(running.size()) >= manifest.plan.maxBatch;
    if (isFull &&
        running.back()->request().priority >= next->request().priority)
      return;
    if (isFull)
      preempt(*running.back());
    else if (!admitFirst())
      return;
  }
}

/// Takes the pages of a running text; it waits again, first in its line.
void Engine::preempt(Sequence &sequence) {
  pages.release(sequence.table);
  sequence.computed = 0;
  if (sequence.isSuspect)
    --suspects;
  sequence.isSuspect = false;
  running.erase(std::find(running.begin(), running.end(), &sequence));
  sequence.state = Sequence::State::Waiting;
  waiting->push(sequence, /*first=*/true);
  if (speculator)
    speculator->forget(sequence.text);
  ++stats.preemptions;
}

/// Preempts the last in rank that is not in the step yet and goes after
/// \p sequence; false when there is none.
bool Engine::preemptFor(const Sequence &sequence) {
  for (size_t i = running.size(); i-- > 0;) {
    if (running[i] == &sequence)
      return false;
    if (!running[i]->isPlanned) {
      preempt(*running[i]);
      return true;
    }
  }
  return false;
}

/// Puts the sequence's next \p count rows and those of \p proposed into the
/// step, fewer when pages are short; false, and nothing reserved, when none
/// fits.
bool Engine::planRows(Sequence &sequence, int64_t count,
                      std::vector<int32_t> proposed) {
  StepBatch &batch = executor.batch();
  int64_t total = count + static_cast<int64_t>(proposed.size());
  if (!pages.reserve(sequence.table, sequence.computed + total)) {
    proposed.clear();
    while (!pages.reserve(sequence.table, sequence.computed + count))
      if (!preemptFor(sequence)) {
        int64_t holds = static_cast<int64_t>(sequence.table.pages.size()) +
                        pages.availablePages();
        count = std::min(count, holds * manifest.plan.kv.pageTokens -
                                    sequence.computed);
        if (count < 1)
          return false;
      }
  }
  bool isLast = count == sequence.remaining();
  if (!isLast)
    proposed.clear();
  int64_t wanted = isLast ? 1 + static_cast<int64_t>(proposed.size()) : 0;
  int64_t logitRow = isLast ? batch.getSizes().logitRows : -1;
  // The rows' tokens lie behind one another only without proposals.
  std::vector<int32_t> &tokens = sequence.work->tokens;
  size_t length = tokens.size();
  tokens.insert(tokens.end(), proposed.begin(), proposed.end());
  total = count + static_cast<int64_t>(proposed.size());
  bool fits =
      batch.addSequence(tokens.data() + sequence.computed, total,
                        sequence.computed, sequence.table.pages, wanted);
  tokens.resize(length);
  if (!fits) {
    pages.release(sequence.table, sequence.computed);
    return false;
  }
  planned.push_back({&sequence, count, logitRow, std::move(proposed)});
  sequence.isPlanned = true;
  sequence.lastStep = stats.steps;
  return true;
}

/// Running texts that want one row.
std::vector<Engine::Sequence *> Engine::decoding() const {
  std::vector<Sequence *> sequences;
  for (Sequence *sequence : running)
    if (sequence->remaining() == 1)
      sequences.push_back(sequence);
  return sequences;
}

/// Tokens to check for each of \p sequences, in a step of \p room rows.
std::vector<std::vector<int32_t>>
Engine::proposeFor(const std::vector<Sequence *> &sequences, int64_t room) {
  std::vector<std::vector<int32_t>> proposed(sequences.size());
  int64_t rows = static_cast<int64_t>(sequences.size());
  int64_t freeRows = std::min(room, executor.batch().freeLogitRows()) - rows;
  // Rows are for prompts first.
  if (!speculator || sequences.size() < running.size() || freeRows < 1)
    return proposed;
  Clock::time_point begin = Clock::now();
  std::vector<Proposal> proposals;
  std::vector<size_t> places;
  std::vector<ProposalLength::Record *> records;
  std::vector<int64_t> limits;
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence &sequence = *sequences[i];
    int64_t limit = std::min(longest(sequence) - sequence.length() - 1,
                             options.speculation.maxTokens);
    if (limit < 1 || !sequence.request().speculate ||
        sequence.work->proposals.pause > 0)
      continue;
    places.push_back(i);
    records.push_back(&sequence.work->proposals);
    limits.push_back(limit);
    proposals.push_back({sequence.text,
                         &sequence.work->tokens,
                         &sequence.work->sampler,
                         limit,
                         {}});
  }
  if (proposals.empty())
    return proposed;
  auto choose = [&] {
    return proposalLength.choose(records, limits, rows, freeRows);
  };
  std::vector<int64_t> lengths;
  if (speculator->isCostly()) {
    lengths = choose();
    for (size_t i = 0; i < proposals.size(); ++i)
      proposals[i].limit = lengths[i];
  }
  speculator->propose(proposals);
  if (!speculator->isCostly()) {
    for (size_t i = 0; i < proposals.size(); ++i)
      limits[i] = static_cast<int64_t>(proposals[i].proposed.size());
    lengths = choose();
  }
  int64_t longestProposal = 0;
  for (size_t i = 0; i < proposals.size(); ++i) {
    std::vector<int32_t> &tokens = proposals[i].proposed;
    if (static_cast<int64_t>(tokens.size()) > lengths[i])
      tokens.resize(static_cast<size_t>(lengths[i]));
    longestProposal =
        std::max(longestProposal, static_cast<int64_t>(tokens.size()));
    proposed[places[i]] = std::move(tokens);
  }
  double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  stats.proposalSeconds += seconds;
  if (speculator->isCostly())
    proposalLength.observeProposals(longestProposal, seconds);
  return proposed;
}

/// After a step failed, its texts run one by one until the one at fault has
/// failed alone.
void Engine::planSuspect() {
  std::vector<Sequence *> sequences = running;
  for (Sequence *sequence : sequences)
    if (sequence->isSuspect && sequence->state == Sequence::State::Running &&
        planRows(*sequence,
                 std::min(sequence->remaining(), options.maxStepTokens), {}))
      return;
}

/// More texts run than a step has rows: each gets one, who waited longest
/// first.
void Engine::planTight(int64_t room) {
  std::vector<Sequence *> sequences = running;
  std::sort(sequences.begin(), sequences.end(),
            [](const Sequence *a, const Sequence *b) {
              return std::make_pair(a->lastStep, a->text) <
                     std::make_pair(b->lastStep, b->text);
            });
  for (Sequence *sequence : sequences)
    if (executor.batch().getSizes().tokens < room &&
        sequence->state == Sequence::State::Running)
      planRows(*sequence, 1, {});
}

void Engine::plan() {
  planned.clear();
  StepBatch &batch = executor.batch();
  batch.clear();
  if (suspects) {
    planSuspect();
    if (!planned.empty())
      return;
  }
  int64_t room = std::min(batch.freeTokens(), options.maxStepTokens);
  if (static_cast<int64_t>(running.size()) > room)
    return planTight(room);
  // Decoding first: a long prompt must not stall the texts in progress.
  std::vector<Sequence *> sequences = decoding();
  std::vector<std::vector<int32_t>> proposed = proposeFor(sequences, room);
  for (size_t i = 0; i < sequences.size(); ++i)
    if (sequences[i]->state == Sequence::State::Running)
      planRows(*sequences[i], 1, std::move(proposed[i]));
  sequences = running;
  for (Sequence *sequence : sequences) {
    int64_t left = room - batch.getSizes().tokens;
    if (left > 0 && sequence->state == Sequence::State::Running &&
        !sequence->isPlanned && sequence->remaining() > 1)
      planRows(*sequence, std::min(sequence->remaining(), left), {});
  }
}
