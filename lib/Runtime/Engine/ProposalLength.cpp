//===- ProposalLength.cpp - How many tokens to propose --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Speculation.h"

#include <algorithm>
#include <tuple>

using namespace qlm;

/// Weight of the newest observation.
static constexpr double stepWeight = 0.2, tokenWeight = 0.15;
/// What a text without proposals drifts back to, and how fast: texts change,
/// and only a try tells.
static constexpr double hope = 0.6, drift = 0.01;
/// A row whose cost isn't known is taken to cost this part of a step, so that
/// it is tried once.
static constexpr double unknownRow = 0.02;
static constexpr int64_t longestPause = 64;

Status SpeculationOptions::check() const {
  auto error = [](const std::string &what, int64_t value) {
    return Status(StatusCode::InvalidArgument,
                  what + ", got " + std::to_string(value));
  };
  if (maxTokens < 0 || maxTokens > 64)
    return error("speculated tokens must be from 0 to 64", maxTokens);
  if (minMatch < 1 || minMatch > 16)
    return error("least match of a prompt lookup must be from 1 to 16",
                 minMatch);
  if (maxMatch < minMatch || maxMatch > 16)
    return error("largest match of a prompt lookup must be from the least, " +
                     std::to_string(minMatch) + ", to 16",
                 maxMatch);
  return Status();
}

/// Seconds of a step of \p rows rows: seen, between two that were seen, or
/// little more than the nearest smaller one.
double ProposalLength::secondsOf(int64_t rows) const {
  int64_t size = static_cast<int64_t>(seconds.size());
  int64_t below = std::min(rows, size - 1), above = rows;
  while (below > 0 && seconds[static_cast<size_t>(below)] == 0)
    --below;
  while (above < size && seconds[static_cast<size_t>(above)] == 0)
    ++above;
  double low = below > 0 ? seconds[static_cast<size_t>(below)] : 1;
  if (below <= 0 || above >= size)
    return low * (1 + unknownRow * static_cast<double>(rows - below));
  if (above == below)
    return low;
  double part =
      static_cast<double>(rows - below) / static_cast<double>(above - below);
  return low + part * (seconds[static_cast<size_t>(above)] - low);
}

std::vector<int64_t>
ProposalLength::choose(const std::vector<Record *> &records,
                       const std::vector<int64_t> &available, int64_t rows,
                       int64_t freeRows) {
  struct Token {
    double probability;
    size_t record;
    int64_t length;
  };
  std::vector<Token> tokens;
  for (size_t i = 0; i < records.size(); ++i) {
    double probability = 1;
    for (int64_t k = 1; k <= std::min(available[i], maxTokens); ++k)
      tokens.push_back(
          {probability *= adaptive ? records[i]->acceptance : 0.9, i, k});
  }
  // The likelier first; a text's own stay in order.
  std::sort(tokens.begin(), tokens.end(), [](const Token &a, const Token &b) {
    return std::make_tuple(-a.probability, a.record, a.length) <
           std::make_tuple(-b.probability, b.record, b.length);
  });
  if (static_cast<int64_t>(tokens.size()) > freeRows)
    tokens.resize(static_cast<size_t>(freeRows));
  size_t taken = tokens.size();
  if (adaptive) {
    double expected = static_cast<double>(rows);
    double best = expected / secondsOf(rows);
    int64_t length = 0, row = rows;
    taken = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      expected += tokens[i].probability;
      length = std::max(length, tokens[i].length);
      double cost =
          secondsOf(++row) + secondsPerProposal * static_cast<double>(length);
      if (expected / cost > best) {
        best = expected / cost;
        taken = i + 1;
      }
    }
  }
  std::vector<int64_t> lengths(records.size());
  for (size_t i = 0; i < taken; ++i)
    ++lengths[tokens[i].record];
  return lengths;
}

void ProposalLength::update(Record &record, int64_t proposed, int64_t accepted,
                            int64_t tokens) const {
  if (!adaptive)
    return;
  record.pause = std::max<int64_t>(record.pause - tokens, 0);
  if (proposed == 0) {
    record.acceptance += drift * (hope - record.acceptance);
    return;
  }
  for (int64_t i = 0; i < accepted; ++i)
    record.acceptance += tokenWeight * (1 - record.acceptance);
  if (accepted < proposed)
    record.acceptance -= tokenWeight * record.acceptance;
  if (accepted > 0) {
    record.lastPause = 0;
  } else {
    // Each try that brings nothing doubles the time to the next.
    record.lastPause =
        std::clamp<int64_t>(record.lastPause * 2, 1, longestPause);
    record.pause = record.lastPause;
  }
}

void ProposalLength::observeStep(int64_t rows, double observed) {
  if (rows >= static_cast<int64_t>(seconds.size()))
    seconds.resize(static_cast<size_t>(rows) + 1);
  double &known = seconds[static_cast<size_t>(rows)];
  known = known == 0 ? observed : known + stepWeight * (observed - known);
}

void ProposalLength::observeProposals(int64_t length, double observed) {
  if (length == 0)
    return;
  double each = observed / static_cast<double>(length);
  secondsPerProposal =
      secondsPerProposal == 0
          ? each
          : secondsPerProposal + stepWeight * (each - secondsPerProposal);
}
