//===- Tokenizer.h - Text to token ids and back -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Reads Hugging Face `tokenizer.json` files of BPE models, byte-level and
// byte-fallback, and gives the ids and the text that the `tokenizers` library
// gives. The file is not trusted: every field is checked while reading, and
// what isn't understood is refused by name.
//
// Whether a character is a letter, and how it composes, comes from the
// Unicode versions of PCRE2 and utf8proc. For characters newer than those, or
// than the Unicode 9 data of the library's own normalizers, ids may differ.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_H
#define QLM_RUNTIME_TOKENIZER_H

#include "qlm/Runtime/Status.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlm {

namespace tokenizer {
struct TokenizerParts;
class DecodeStream;
} // namespace tokenizer

/// Turns text into token ids and ids into text. Immutable after loading; the
/// const methods may be called from many threads at once.
class Tokenizer {
public:
  ~Tokenizer();
  Tokenizer(const Tokenizer &) = delete;
  Tokenizer &operator=(const Tokenizer &) = delete;

  /// Reads the `tokenizer.json` at \p path. The file's `truncation` and
  /// `padding` sections are ignored: a request has its own limits.
  /// Errors: Io (cannot be read), Corrupt (breaks the format's rules),
  /// Unsupported (a model or component that is not handled, named).
  static Result<std::unique_ptr<Tokenizer>> load(const std::string &path);

  /// The same from memory; \p name stands for the file in messages.
  static Result<std::unique_ptr<Tokenizer>> parse(std::string_view json,
                                                  const std::string &name);

  /// The ids of \p text, with what the post-processor adds (such as the token
  /// that begins a sequence) when \p addSpecialTokens. Special tokens spelled
  /// out in the text become their ids in either case.
  /// Errors: InvalidArgument (not UTF-8, longer than 1 GiB, or a character
  /// needs an unknown token that the vocabulary lacks), ResourceExhausted (a
  /// pattern of the file backtracks beyond its limit on this text).
  Result<std::vector<int32_t>> encode(std::string_view text,
                                      bool addSpecialTokens = true) const;

  /// The text of \p count ids at \p ids, always valid UTF-8: bytes that form
  /// no character become U+FFFD. Ids outside the vocabulary give nothing, and
  /// so do special tokens when \p skipSpecialTokens.
  std::string decode(const int32_t *ids, size_t count,
                     bool skipSpecialTokens = true) const;

  /// The largest id plus one.
  int32_t vocabularySize() const;

  /// The id of the piece or added token spelled \p token in the file.
  std::optional<int32_t> tokenId(std::string_view token) const;

  /// Whether \p id is an added token marked special.
  bool isSpecial(int32_t id) const;

private:
  friend class IncrementalDecoder;
  explicit Tokenizer(std::unique_ptr<const tokenizer::TokenizerParts> parts);

  std::unique_ptr<const tokenizer::TokenizerParts> parts;
};

/// Decodes one sequence id by id. Joined, what push() and finish() return is
/// what Tokenizer::decode() gives for all ids at once: text that a later id
/// may still change (an unfinished character, a run of byte tokens) is held
/// back until it is settled. For one thread; the tokenizer must outlive it.
class IncrementalDecoder {
public:
  explicit IncrementalDecoder(const Tokenizer &tokenizer,
                              bool skipSpecialTokens = true);
  ~IncrementalDecoder();
  IncrementalDecoder(IncrementalDecoder &&) noexcept;
  IncrementalDecoder &operator=(IncrementalDecoder &&) noexcept;

  /// Takes the next id and returns the text that can be shown now.
  std::string push(int32_t id);

  /// Ends the sequence and returns the text still held back.
  std::string finish();

private:
  std::unique_ptr<tokenizer::DecodeStream> stream;
};

} // namespace qlm

#endif // QLM_RUNTIME_TOKENIZER_H
