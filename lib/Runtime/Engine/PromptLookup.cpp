//===- PromptLookup.cpp - Proposes what came before -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Speculation.h"

#include <algorithm>
#include <unordered_map>

using namespace qlm;

namespace {
/// For each text, where each run of minMatch to maxMatch tokens occurred last,
/// kept up as the text grows: a lookup takes a time that doesn't depend on the
/// text's length. Saxena, "Prompt lookup decoding", 2023.
class PromptLookup final : public Speculator {
public:
  explicit PromptLookup(const SpeculationOptions &options)
      : minMatch(options.minMatch), maxMatch(options.maxMatch) {}

  void propose(std::vector<Proposal> &proposals) override {
    for (Proposal &proposal : proposals)
      propose(proposal);
  }
  bool isCostly() const override { return false; }
  void forget(int64_t text) override { texts.erase(text); }

private:
  struct Text {
    size_t indexed = 0; ///< tokens whose runs, ending there, are known
    std::unordered_map<uint64_t, size_t> next; ///< what follows a run's hash
  };

  /// Hash of the \p length tokens before \p end.
  static uint64_t hashOf(const std::vector<int32_t> &tokens, size_t end,
                         size_t length) {
    uint64_t hash = 0xcbf29ce484222325ull ^ length;
    for (size_t i = end - length; i < end; ++i) {
      hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0x100000001b3ull;
      hash ^= hash >> 29;
    }
    return hash;
  }

  void index(Text &text, const std::vector<int32_t> &tokens) const {
    // Runs that end before the last token: something follows them.
    for (; text.indexed + 1 < tokens.size(); ++text.indexed)
      for (size_t length = minMatch; length <= maxMatch; ++length)
        if (text.indexed + 1 >= length)
          text.next[hashOf(tokens, text.indexed + 1, length)] =
              text.indexed + 1;
  }

  void propose(Proposal &proposal) {
    const std::vector<int32_t> &tokens = *proposal.tokens;
    Text &text = texts[proposal.text];
    index(text, tokens);
    for (size_t length = std::min(maxMatch, tokens.size()); length >= minMatch;
         --length) {
      auto found = text.next.find(hashOf(tokens, tokens.size(), length));
      if (found == text.next.end() ||
          !std::equal(tokens.end() - static_cast<int64_t>(length), tokens.end(),
                      tokens.begin() + static_cast<int64_t>(found->second) -
                          static_cast<int64_t>(length)))
        continue;
      // Past the text's end the proposal itself goes on: a loop is followed
      // around.
      size_t from = found->second;
      for (int64_t i = 0; i < proposal.limit; ++i, ++from)
        proposal.proposed.push_back(
            from < tokens.size() ? tokens[from]
                                 : proposal.proposed[from - tokens.size()]);
      return;
    }
  }

  size_t minMatch, maxMatch;
  std::unordered_map<int64_t, Text> texts;
};
} // namespace

std::unique_ptr<Speculator>
qlm::createPromptLookup(const SpeculationOptions &options) {
  return std::make_unique<PromptLookup>(options);
}
