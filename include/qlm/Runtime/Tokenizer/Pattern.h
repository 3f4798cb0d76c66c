//===- Pattern.h - Patterns of tokenizer files ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_PATTERN_H
#define QLM_RUNTIME_TOKENIZER_PATTERN_H

#include "qlm/Runtime/Status.h"

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qlm::tokenizer {

/// A half-open range of bytes.
struct Span {
  size_t begin = 0, end = 0;
  bool operator==(const Span &other) const {
    return begin == other.begin && end == other.end;
  }
};

/// Rewrites \p pattern from Oniguruma's Ruby syntax, which tokenizer files
/// use, to PCRE2's. The constructs that differ in meaning are spelled out
/// (`\s`, `\w`, `\h`, nested and intersected classes, `{n,m}+`, `(?m)`), so
/// that both engines match the same text; what has no counterpart is refused
/// by name with Unsupported.
Result<std::string> translateOniguruma(std::string_view pattern);

/// A literal string or a compiled regular expression to search for. Immutable
/// and safe to use from many threads.
class Pattern {
public:
  /// Finds \p text itself.
  static Pattern literal(std::string text);

  /// Compiles an expression in Oniguruma's Ruby syntax. Errors: Unsupported
  /// with the construct or the compiler's message and offset.
  static Result<Pattern> regex(std::string_view expression);

  Pattern(Pattern &&) noexcept;
  Pattern &operator=(Pattern &&) noexcept;
  ~Pattern();

  /// Replaces \p matches by the matches in \p text (valid UTF-8) from left to
  /// right, none overlapping; an empty match right after another match is left
  /// out, and an empty text has no match. Errors: ResourceExhausted when
  /// matching backtracks beyond its limit.
  Status findAll(std::string_view text, std::vector<Span> &matches) const;

  /// Appends \p text to \p out with each match replaced by \p content.
  Status replaceAll(std::string_view text, std::string_view content,
                    std::string &out) const;

  /// The literal, or null for an expression.
  const std::string *getLiteral() const { return code ? nullptr : &text; }

private:
  struct Code;
  Pattern(std::string text, std::unique_ptr<Code> code);

  std::string text;
  std::unique_ptr<Code> code;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_PATTERN_H
