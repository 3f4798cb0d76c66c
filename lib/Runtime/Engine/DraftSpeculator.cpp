//===- DraftSpeculator.cpp - Proposes what a smaller model says -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Model.h"
#include "qlm/Runtime/Speculation.h"

#include <algorithm>
#include <unordered_map>

using namespace qlm;

namespace {
/// Runs the draft model on all texts at once, one token after the other. Each
/// text has its own cache in the draft's pages; proposals that did not come
/// true are overwritten there. A text that finds no pages, or is longer than
/// the draft's context, gets no proposals.
class DraftSpeculator final : public Speculator {
public:
  explicit DraftSpeculator(std::shared_ptr<Model> draft)
      : model(std::move(draft)), plan(model->getManifest().plan),
        pages(plan.kv.pages, plan.kv.pageTokens, /*sharesPrefixes=*/false) {}

  void propose(std::vector<Proposal> &proposals) override;
  bool isCostly() const override { return true; }
  void forget(int64_t text) override {
    auto found = texts.find(text);
    if (found == texts.end())
      return;
    pages.release(found->second.table);
    texts.erase(found);
  }

private:
  struct Text {
    std::vector<int32_t> tokens; ///< whose keys and values are in the cache
    PageTable table;
  };
  struct Row {
    Proposal *proposal;
    int64_t logitRow; ///< -1 while the text isn't caught up with
  };
  bool addRows(Proposal &proposal, std::vector<Row> &rows);
  bool runRound(std::vector<Proposal> &proposals);

  std::shared_ptr<Model> model;
  const MemoryPlan &plan;
  KvPages pages;
  std::unordered_map<int64_t, Text> texts;
};
} // namespace

/// Puts the tokens that the draft hasn't seen of a text and its proposal so
/// far into the step, as many as fit.
bool DraftSpeculator::addRows(Proposal &proposal, std::vector<Row> &rows) {
  std::vector<int32_t> all = *proposal.tokens;
  all.insert(all.end(), proposal.proposed.begin(), proposal.proposed.end());
  Text &text = texts[proposal.text];
  // What was proposed last time may not have come true.
  auto same = std::mismatch(text.tokens.begin(), text.tokens.end(), all.begin(),
                            all.end());
  text.tokens.erase(same.first, text.tokens.end());
  if (text.tokens.size() == all.size())
    text.tokens.pop_back();
  StepBatch &batch = model->getExecutor().batch();
  int64_t seen = static_cast<int64_t>(text.tokens.size()),
          length = static_cast<int64_t>(all.size()),
          count = std::min(length - seen, batch.freeTokens());
  if (count < 1 || seen + count > plan.maxContext ||
      !pages.reserve(text.table, seen + count))
    return false;
  bool isLast = seen + count == length;
  int64_t logitRow = isLast ? batch.getSizes().logitRows : -1;
  if (!batch.addSequence(all.data() + seen, count, seen, text.table.pages,
                         isLast ? 1 : 0)) {
    pages.release(text.table, seen);
    return false;
  }
  text.tokens.insert(text.tokens.end(), all.begin() + seen,
                     all.begin() + seen + count);
  rows.push_back({&proposal, logitRow});
  return true;
}

/// Runs one step and takes one more proposed token of each text whose turn it
/// is; false when nobody wants more.
bool DraftSpeculator::runRound(std::vector<Proposal> &proposals) {
  Executor &executor = model->getExecutor();
  executor.batch().clear();
  std::vector<Row> rows;
  for (Proposal &proposal : proposals)
    if (static_cast<int64_t>(proposal.proposed.size()) < proposal.limit)
      addRows(proposal, rows);
  if (rows.empty())
    return false;
  if (!executor.run().ok()) {
    // Nothing of the step counts; the texts are read anew next time.
    for (Row &row : rows)
      forget(row.proposal->text);
    return false;
  }
  bool isAny = false;
  for (Row &row : rows) {
    if (row.logitRow < 0)
      continue;
    int64_t ahead = static_cast<int64_t>(row.proposal->proposed.size());
    int32_t token = row.proposal->sampler->guess(
        executor.logits(row.logitRow),
        model->getManifest().model.vocabularySize, ahead);
    if (token < 0) {
      row.proposal->limit = ahead;
      continue;
    }
    row.proposal->proposed.push_back(token);
    isAny = true;
  }
  return isAny;
}

void DraftSpeculator::propose(std::vector<Proposal> &proposals) {
  while (runRound(proposals))
    ;
}

Result<std::unique_ptr<Speculator>>
qlm::createDraftSpeculator(const SpeculationOptions &options,
                           int64_t vocabularySize) {
  int64_t drafts = options.draft->getManifest().model.vocabularySize;
  if (drafts != vocabularySize)
    return Status(StatusCode::InvalidArgument,
                  "the draft's vocabulary has " + std::to_string(drafts) +
                      " entries, the model's " +
                      std::to_string(vocabularySize));
  return Result<std::unique_ptr<Speculator>>(
      std::make_unique<DraftSpeculator>(options.draft));
}
