//===- PreTokenizer.h - Splitting text into words ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_PRETOKENIZER_H
#define QLM_RUNTIME_TOKENIZER_PRETOKENIZER_H

#include "qlm/Runtime/Tokenizer/JsonNode.h"
#include "qlm/Runtime/Tokenizer/Pattern.h"

namespace qlm::tokenizer {

/// When a Metaspace puts its mark before a text.
enum class PrependScheme { Always, First, Never };

/// Reads the members `replacement`, `prepend_scheme` and the older
/// `add_prefix_space` of a Metaspace.
Status readMetaspace(const JsonNode &node, std::string &mark,
                     PrependScheme &scheme);

/// What becomes of a splitter's matches.
enum class SplitBehavior {
  Removed,
  Isolated,
  MergedWithPrevious,
  MergedWithNext,
  Contiguous, ///< neighbouring matches are one word
};

/// A word: a range of WordList's text.
struct Word {
  Span span;
  /// The word begins where the whole input begins.
  bool atStart = false;
};

/// A text and the words it is split into.
struct WordList {
  std::string text;
  std::vector<Word> words;
  /// The model has yet to spell the words in the byte alphabet.
  bool spellAsBytes = false;
};

/// One step of a pre-tokenizer.
struct PreTokenizerStep {
  enum class Kind {
    Split,       ///< by `pattern` and `behavior`
    PrefixSpace, ///< a space before each word that has none
    SpellBytes,  ///< words in the byte alphabet
    Metaspace,   ///< `mark` for each space and maybe one in front
  };
  Kind kind = Kind::Split;
  std::optional<Pattern> pattern;
  SplitBehavior behavior = SplitBehavior::Isolated;
  bool invert = false; ///< what lies between the matches counts as a match
  std::string mark;
  PrependScheme scheme = PrependScheme::Always;
};

/// The steps that the file's `pre_tokenizer` asks for, sequences flattened.
class PreTokenizer {
public:
  /// Reads ByteLevel, Split, Digits, Metaspace, Punctuation, WhitespaceSplit
  /// and Sequence. Errors: Unsupported (another type, named), Corrupt.
  static Result<PreTokenizer> read(const JsonNode &node);

  /// Splits \p list.text, a piece of the input without added tokens;
  /// \p atStart: the input begins with it.
  Status apply(WordList &list, bool atStart) const;

private:
  Status readInto(const JsonNode &node);
  Status readByteLevel(const JsonNode &node);
  Status readSplit(const JsonNode &node);
  Status readMetaspaceSteps(const JsonNode &node);
  Status addSplit(std::string_view expression, SplitBehavior behavior);

  std::vector<PreTokenizerStep> steps;
  int growingSteps = 0;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_PRETOKENIZER_H
