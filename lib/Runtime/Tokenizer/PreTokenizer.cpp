//===- PreTokenizer.cpp - Splitting text into words -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/PreTokenizer.h"

#include "qlm/Runtime/Tokenizer/ByteAlphabet.h"

#include <algorithm>

namespace qlm::tokenizer {

namespace {
/// A piece of a word: a match of the splitter, or what lies between.
struct Piece {
  Span span;
  bool isMatch;
};
} // namespace

static void cutAtMatches(Span word, const std::vector<Span> &matches,
                         bool invert, std::vector<Piece> &pieces) {
  pieces.clear();
  size_t done = word.begin;
  for (const Span &match : matches) {
    Span span{word.begin + match.begin, word.begin + match.end};
    if (done < span.begin)
      pieces.push_back({{done, span.begin}, invert});
    pieces.push_back({span, !invert});
    done = span.end;
  }
  if (done < word.end)
    pieces.push_back({{done, word.end}, invert});
}

/// Merges \p pieces in place as \p behavior says; what is left are words.
static void mergePieces(SplitBehavior behavior, std::vector<Piece> &pieces) {
  size_t count = 0;
  bool previous = false;
  switch (behavior) {
  case SplitBehavior::Isolated:
    return;
  case SplitBehavior::Removed:
    pieces.erase(std::remove_if(pieces.begin(), pieces.end(),
                                [](const Piece &p) { return p.isMatch; }),
                 pieces.end());
    return;
  case SplitBehavior::Contiguous:
  case SplitBehavior::MergedWithPrevious:
    for (const Piece &piece : pieces) {
      bool joins = behavior == SplitBehavior::Contiguous
                       ? piece.isMatch == previous
                       : piece.isMatch && !previous;
      previous = piece.isMatch;
      if (joins && count)
        pieces[count - 1].span.end = piece.span.end;
      else
        pieces[count++] = piece;
    }
    pieces.resize(count);
    return;
  case SplitBehavior::MergedWithNext:
    std::reverse(pieces.begin(), pieces.end());
    for (const Piece &piece : pieces) {
      bool joins = piece.isMatch && !previous;
      previous = piece.isMatch;
      if (joins && count)
        pieces[count - 1].span.begin = piece.span.begin;
      else
        pieces[count++] = piece;
    }
    pieces.resize(count);
    std::reverse(pieces.begin(), pieces.end());
    return;
  }
}

static Status splitWords(const PreTokenizerStep &step, WordList &list) {
  std::vector<Word> words;
  std::vector<Span> matches;
  std::vector<Piece> pieces;
  std::string_view text = list.text;
  for (const Word &word : list.words) {
    QLM_RETURN_IF_ERROR(step.pattern->findAll(
        text.substr(word.span.begin, word.span.end - word.span.begin),
        matches));
    cutAtMatches(word.span, matches, step.invert, pieces);
    mergePieces(step.behavior, pieces);
    for (const Piece &piece : pieces)
      if (piece.span.begin < piece.span.end)
        words.push_back(
            {piece.span, word.atStart && piece.span.begin == word.span.begin});
  }
  list.words = std::move(words);
  return Status();
}

/// Rewrites each word by \p rewrite(word, text, out), which appends to out.
template <typename Rewrite>
static void rewriteWords(WordList &list, Rewrite rewrite) {
  std::string out;
  out.reserve(list.text.size() + list.text.size() / 4 + 8);
  std::string_view text = list.text;
  for (Word &word : list.words) {
    size_t begin = out.size();
    rewrite(word, text.substr(word.span.begin, word.span.end - word.span.begin),
            out);
    word.span = {begin, out.size()};
  }
  list.text = std::move(out);
}

static void applyMetaspace(const PreTokenizerStep &step, WordList &list) {
  rewriteWords(
      list, [&](const Word &word, std::string_view text, std::string &out) {
        bool marked = text[0] == ' ' || text.rfind(step.mark, 0) == 0;
        if (!marked && (step.scheme == PrependScheme::Always ||
                        (step.scheme == PrependScheme::First && word.atStart)))
          out += step.mark;
        for (char byte : text) {
          if (byte == ' ')
            out += step.mark;
          else
            out.push_back(byte);
        }
      });
}

Status PreTokenizer::apply(WordList &list, bool atStart) const {
  list.spellAsBytes = false;
  list.words.clear();
  if (list.text.empty())
    return Status();
  list.words.push_back({{0, list.text.size()}, atStart});
  for (const PreTokenizerStep &step : steps) {
    switch (step.kind) {
    case PreTokenizerStep::Kind::Split:
      QLM_RETURN_IF_ERROR(splitWords(step, list));
      break;
    case PreTokenizerStep::Kind::PrefixSpace:
      if (std::all_of(list.words.begin(), list.words.end(),
                      [&](const Word &word) {
                        return list.text[word.span.begin] == ' ';
                      }))
        break;
      rewriteWords(list,
                   [](const Word &, std::string_view text, std::string &out) {
                     if (text[0] != ' ')
                       out.push_back(' ');
                     out += text;
                   });
      break;
    case PreTokenizerStep::Kind::SpellBytes:
      // The usual last step is left to the model, which spells only the words
      // that it meets for the first time.
      if (&step == &steps.back()) {
        list.spellAsBytes = true;
        break;
      }
      rewriteWords(list, [](const Word &, std::string_view text,
                            std::string &out) { spellBytes(text, out); });
      break;
    case PreTokenizerStep::Kind::Metaspace:
      applyMetaspace(step, list);
      break;
    }
  }
  return Status();
}

} // namespace qlm::tokenizer
