//===- Pattern.cpp - Search by literal or by PCRE2 ------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#define PCRE2_CODE_UNIT_WIDTH 8

#include "qlm/Runtime/Tokenizer/Pattern.h"

#include "qlm/Runtime/Tokenizer/Utf8.h"

#include <algorithm>
#include <cstdint>
#include <pcre2.h>

namespace qlm::tokenizer {

/// Frees PCRE2's objects.
struct Deleter {
  void operator()(pcre2_code *object) const { pcre2_code_free(object); }
  void operator()(pcre2_compile_context *object) const {
    pcre2_compile_context_free(object);
  }
  void operator()(pcre2_match_context *object) const {
    pcre2_match_context_free(object);
  }
  void operator()(pcre2_match_data *object) const {
    pcre2_match_data_free(object);
  }
};

/// Long patterns cost time and memory to compile; real ones have some
/// hundreds of bytes.
static constexpr size_t maxExpressionBytes = 64 * 1024;
static constexpr uint32_t maxGroupDepth = 64;

/// Backtracking steps allowed for one match: enough to walk once back over a
/// run of a million characters in each of a few alternatives.
static constexpr uint32_t matchLimit = 20'000'000;
/// Memory for the interpreter's backtracking, in KiB.
static constexpr uint32_t heapLimitKib = 128 * 1024;

struct Pattern::Code {
  std::unique_ptr<pcre2_code, Deleter> compiled;
  bool hasJit = false;
};

Pattern::Pattern(std::string text, std::unique_ptr<Code> code)
    : text(std::move(text)), code(std::move(code)) {}
Pattern::Pattern(Pattern &&) noexcept = default;
Pattern &Pattern::operator=(Pattern &&) noexcept = default;
Pattern::~Pattern() = default;

Pattern Pattern::literal(std::string text) {
  return Pattern(std::move(text), nullptr);
}

static std::string describeError(int error) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(error, buffer, sizeof(buffer)) < 0)
    return "error " + std::to_string(error);
  return reinterpret_cast<const char *>(buffer);
}

Result<Pattern> Pattern::regex(std::string_view expression) {
  if (expression.size() > maxExpressionBytes)
    return Status(StatusCode::Unsupported,
                  "pattern has " + std::to_string(expression.size()) +
                      " bytes, at most " + std::to_string(maxExpressionBytes) +
                      " are handled");
  Result<std::string> translated = translateOniguruma(expression);
  if (!translated.ok())
    return translated.status();

  std::unique_ptr<pcre2_compile_context, Deleter> context(
      pcre2_compile_context_create(nullptr));
  if (!context)
    return Status(StatusCode::ResourceExhausted,
                  "no memory to compile a pattern");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), maxGroupDepth);
  // Multi-line: in Ruby's syntax ^ and $ always match at line ends.
  uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_unique<Code>();
  code->compiled.reset(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
      options, &error, &offset, context.get()));
  if (!code->compiled)
    return Status(StatusCode::Unsupported,
                  "pattern '" + *translated +
                      "' does not compile: " + describeError(error) +
                      " at offset " + std::to_string(offset));
  code->hasJit =
      pcre2_jit_compile(code->compiled.get(), PCRE2_JIT_COMPLETE) == 0;
  return Pattern(std::string(expression), std::move(code));
}

static Status matchFailure(int error) {
  return Status(StatusCode::ResourceExhausted,
                "pattern gives up on this text: " + describeError(error));
}

Status Pattern::findAll(std::string_view subject,
                        std::vector<Span> &matches) const {
  matches.clear();
  if (subject.empty())
    return Status();
  if (!code) {
    for (size_t at = subject.find(text); at < subject.size();
         at = subject.find(text, at + text.size()))
      matches.push_back({at, at + text.size()});
    return Status();
  }
  std::unique_ptr<pcre2_match_data, Deleter> data(
      pcre2_match_data_create(1, nullptr));
  std::unique_ptr<pcre2_match_context, Deleter> context(
      pcre2_match_context_create(nullptr));
  if (!data || !context)
    return Status(StatusCode::ResourceExhausted, "no memory for matching");
  pcre2_set_match_limit(context.get(), matchLimit);
  pcre2_set_heap_limit(context.get(), heapLimitKib);
  auto units = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(data.get());
  constexpr size_t none = static_cast<size_t>(-1);

  for (size_t from = 0, lastEnd = none; from <= subject.size();) {
    int count = PCRE2_ERROR_JIT_STACKLIMIT;
    if (code->hasJit)
      count = pcre2_jit_match(code->compiled.get(), units, subject.size(), from,
                              0, data.get(), context.get());
    // The interpreter takes over where compiled code runs out of stack.
    if (count == PCRE2_ERROR_JIT_STACKLIMIT)
      count = pcre2_match(code->compiled.get(), units, subject.size(), from,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(),
                          context.get());
    if (count == PCRE2_ERROR_NOMATCH)
      return Status();
    if (count < 0)
      return matchFailure(count);
    Span match{bounds[0], bounds[1]};
    if (match.begin == match.end && match.end == lastEnd) {
      // As Oniguruma's iterator: skip this empty match and one character.
      from += from < subject.size() ? scalarLength(subject[from]) : 1;
      continue;
    }
    from = lastEnd = match.end;
    matches.push_back(match);
  }
  return Status();
}

Status Pattern::replaceAll(std::string_view subject, std::string_view content,
                           std::string &out) const {
  std::vector<Span> matches;
  QLM_RETURN_IF_ERROR(findAll(subject, matches));
  size_t done = 0;
  for (const Span &match : matches) {
    out.append(subject, done, match.begin - done);
    out += content;
    done = match.end;
  }
  out.append(subject, done, subject.size() - done);
  return Status();
}

} // namespace qlm::tokenizer
