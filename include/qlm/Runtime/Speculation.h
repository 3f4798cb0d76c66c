//===- Speculation.h - Tokens proposed ahead of the text --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A step may compute, after a text's last token, tokens that somebody guessed.
// The logits of each of these rows are what the model says if all guesses
// before are right. So the engine samples row by row, as it would without
// guesses, and goes on as long as what it samples is what was guessed: the
// text, drawn or greedy, is bit for bit that of decoding token by token, and
// so is its distribution. A wrong guess costs its row.
//
// Why this is rejection sampling (Leviathan, Kalman, Matias, "Fast inference
// from transformers via speculative decoding", 2023) and which guesses it
// accepts: docs/design/2026-11-28-speculation.md.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_SPECULATION_H
#define QLM_RUNTIME_SPECULATION_H

#include "qlm/Runtime/Sampler.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace qlm {

class Model;

/// Whether and how tokens are proposed.
struct SpeculationOptions {
  /// Tokens proposed for a text in one step at most (gamma); 0 proposes none.
  int64_t maxTokens = 0;
  /// Propose fewer, or none for a while, where it doesn't pay.
  bool adaptive = true;
  /// Proposes with this model, whose vocabulary must be the target's; without
  /// one, what followed the text's last tokens where they occurred before.
  std::shared_ptr<Model> draft;
  /// Last tokens that must have occurred, at least and at most.
  int64_t minMatch = 2, maxMatch = 4;

  /// Errors: InvalidArgument, naming the option, its range and the value.
  Status check() const;
};

/// A text for which tokens are wanted, and the answer.
struct Proposal {
  int64_t text = 0; ///< names the text from call to call
  /// Prompt and text so far; it only grows between calls.
  const std::vector<int32_t> *tokens = nullptr;
  Sampler *sampler = nullptr; ///< of the text, for guess()
  int64_t limit = 0;          ///< tokens wanted at most
  std::vector<int32_t> proposed;
};

/// Guesses how texts go on. For one thread.
class Speculator {
public:
  virtual ~Speculator() = default;
  /// Fills `proposed` of each proposal.
  virtual void propose(std::vector<Proposal> &proposals) = 0;
  /// Whether proposing costs so much that its length must be chosen before.
  virtual bool isCostly() const = 0;
  /// Forgets a text.
  virtual void forget(int64_t text) = 0;
};

/// Proposes what followed the text's last tokens where they occurred last.
std::unique_ptr<Speculator>
createPromptLookup(const SpeculationOptions &options);

/// Proposes what the draft model would say. Errors: InvalidArgument when its
/// vocabulary is not of \p vocabularySize.
Result<std::unique_ptr<Speculator>>
createDraftSpeculator(const SpeculationOptions &options,
                      int64_t vocabularySize);

/// Learns how often proposals come true and what a step's rows cost, and from
/// these how many tokens to propose.
class ProposalLength {
public:
  /// Of one text.
  struct Record {
    double acceptance = 0.6; ///< of one token, recent ones counting more
    int64_t pause = 0;       ///< tokens to go without proposals
    int64_t lastPause = 0;
  };

  ProposalLength(int64_t maxTokens, bool adaptive)
      : maxTokens(maxTokens), adaptive(adaptive) {}

  /// Tokens to propose for each of \p records, of \p available each at most,
  /// in a step that has \p rows rows without them and may have \p freeRows
  /// more. \p begin is what the proposals cost before the first token.
  std::vector<int64_t> choose(const std::vector<Record *> &records,
                              const std::vector<int64_t> &available,
                              int64_t rows, int64_t freeRows);

  /// Tells how many of a text's proposed tokens came true; call it for each
  /// text that decoded, with \p proposed 0 too.
  void update(Record &record, int64_t proposed, int64_t accepted,
              int64_t tokens) const;
  /// Tells what a step of decoding cost.
  void observeStep(int64_t rows, double seconds);
  /// Tells what proposing \p length tokens cost.
  void observeProposals(int64_t length, double seconds);

private:
  double secondsOf(int64_t rows) const;

  int64_t maxTokens;
  bool adaptive;
  std::vector<double> seconds; ///< by rows; 0 where none was seen
  double secondsPerProposal = 0;
};

} // namespace qlm

#endif // QLM_RUNTIME_SPECULATION_H
