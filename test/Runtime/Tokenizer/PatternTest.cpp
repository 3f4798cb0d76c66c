//===- PatternTest.cpp - Oniguruma's expressions --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/Pattern.h"

#include <gtest/gtest.h>

using namespace qlm;
using namespace qlm::tokenizer;

namespace {

/// The matched texts, in brackets.
std::string matches(const char *expression, std::string_view text) {
  Result<Pattern> pattern = Pattern::regex(expression);
  if (!pattern.ok())
    return pattern.status().message();
  std::vector<Span> spans;
  Status status = pattern->findAll(text, spans);
  if (!status.ok())
    return status.message();
  std::string out;
  for (const Span &span : spans)
    out +=
        "[" + std::string(text.substr(span.begin, span.end - span.begin)) + "]";
  return out;
}

TEST(Pattern, SpaceIsUnicodeWhiteSpace) {
  EXPECT_EQ(matches(R"(\s)", "a\u0085\u00a0\u1680\u3000"),
            "[\u0085][\u00a0][\u1680][\u3000]");
  // PCRE2's own \s would match this one.
  EXPECT_EQ(matches(R"(\s)", "a\u180e"), "");
  EXPECT_EQ(matches(R"([^\s])", "a \u180e"), "[a][\u180e]");
  EXPECT_EQ(matches(R"([^\S\n]+)", " \n\t"), "[ ][\t]");
}

TEST(Pattern, WordTakesMarksAndConnectorsIn) {
  EXPECT_EQ(matches(R"(\w+)", "e\u0301_\u203f-x"), "[e\u0301_\u203f][x]");
  EXPECT_EQ(matches(R"(\W+)", "a--b"), "[--]");
  EXPECT_EQ(matches(R"([\W_]+)", "a-_-b"), "[-_-]");
  EXPECT_EQ(matches(R"(\bab\b)", "ab cab ab"), "[ab][ab]");
  EXPECT_EQ(matches(R"(\Bb)", "b ab"), "[b]");
}

TEST(Pattern, LetterEscapesOfRuby) {
  EXPECT_EQ(matches(R"(\h+)", "12fg"), "[12f]");
  EXPECT_EQ(matches(R"(\H+)", "12fg"), "[g]");
  EXPECT_EQ(matches(R"(\v)", "\n\v"), "[\v]");
  EXPECT_EQ(matches(R"(\d)", "1٣"), "[1][٣]");
  EXPECT_EQ(matches(R"(\x41\u00e9\x{1F600})", "Aé😀"), "[Aé😀]");
  EXPECT_EQ(matches(R"(\p{^L}+)", "ab12"), "[12]");
}

TEST(Pattern, IntervalsOfRuby) {
  // The + repeats the interval instead of making it possessive.
  EXPECT_EQ(matches(R"(\p{N}{1,2}+)", "12345"), "[12345]");
  EXPECT_EQ(matches("(?:ab){2}+", "abababab"), "[abababab]");
  EXPECT_EQ(matches("[ab]{2}?", "aba"), "[ab][]");
  EXPECT_EQ(matches("a{,2}b", "aaab"), "[aab]");
  EXPECT_EQ(matches("a{2,3}?", "aaa"), "[aa]");
  EXPECT_EQ(matches("a{x}{1,}", "a{x}}}"), "[a{x}}}]");
}

TEST(Pattern, LinesAndDots) {
  EXPECT_EQ(matches("^a$", "a\nb\na"), "[a][a]");
  EXPECT_EQ(matches("a.b", "a\nb"), "");
  EXPECT_EQ(matches("(?m:a.b)", "a\nb"), "[a\nb]");
  EXPECT_EQ(matches("(?m)a.b", "a\nb"), "[a\nb]");
  EXPECT_EQ(matches(R"(\s+$)", "a  \n b  "), "[  ][  ]");
}

TEST(Pattern, Classes) {
  EXPECT_EQ(matches("[a-c&&[^b]]+", "abc"), "[a][c]");
  EXPECT_EQ(matches("[^a-c&&[^b]]", "abcd"), "[b][d]");
  EXPECT_EQ(matches("[a[0-9]]+", "a1b2"), "[a1][2]");
  EXPECT_EQ(matches("[^a[0-9]]+", "a1b2"), "[b]");
  EXPECT_EQ(matches("[]a]+", "]a[b"), "[]a]");
  EXPECT_EQ(matches("[-a]+", "a-b"), "[a-]");
  EXPECT_EQ(matches("[a-]+", "a-b"), "[a-]");
  EXPECT_EQ(matches(R"([\s-z]+)", "a -z"), "[ -z]");
  EXPECT_EQ(matches("[a^]+", "^a"), "[^a]");
  EXPECT_EQ(matches("[[:alpha:][:digit:]]+", "a1_"), "[a1]");
  EXPECT_EQ(matches("[[:^space:]]+", "ab c"), "[ab][c]");
  EXPECT_EQ(matches(R"(\p{Han}+)", "漢字、かな"), "[漢字]");
}

TEST(Pattern, CaseInsensitiveGroups) {
  EXPECT_EQ(matches("(?i:'s|'LL)", "'S'ſ'll's"), "['S]['ſ]['ll]['s]");
  EXPECT_EQ(matches("(?i:a)b", "Ab AB"), "[Ab]");
}

TEST(Pattern, EmptyMatchesAreFoundOnce) {
  EXPECT_EQ(matches("x*", "axb"), "[][x][]");
  EXPECT_EQ(matches("x*", ""), "");
}

TEST(Pattern, LongRunsNeedNoStack) {
  EXPECT_EQ(matches("(?:ab?)+c", std::string(200'000, 'a') + "c").size(),
            200'003u);
}

struct RefusedPattern {
  const char *expression, *message;
};

TEST(Pattern, RefusesWhatHasNoCounterpart) {
  const RefusedPattern refused[] = {
      {"a(?~b)", "pattern uses group '(?~' at offset 1, which is not handled"},
      {"(*FAIL)", "pattern uses '(*' at offset 0, which is not handled"},
      {"(?C1)", "pattern uses group '(?C' at offset 0, which is not handled"},
      {"(?R)", "pattern uses group '(?R' at offset 0, which is not handled"},
      {"a(?i)b", "pattern uses options in the middle of a group at offset 1, "
                 "which is not handled"},
      {R"(\K)",
       R"(pattern uses the escape '\K' at offset 0, which is not handled)"},
      {R"(\Qa)",
       R"(pattern uses the escape '\Q' at offset 0, which is not handled)"},
      {R"([\q])",
       R"(pattern uses the escape '\q' at offset 1, which is not handled)"},
      {R"(\xE2)",
       R"(pattern uses the byte escape '\xE2' at offset 0, which is not handled)"},
      {"[[:graph:]]", "pattern uses the bracket '[:graph:]' at offset 1, "
                      "which is not handled"},
      {R"(\p{L)", "pattern has a property without braces"},
      {R"(\)", "pattern has a backslash at its end"},
      {"[a", "pattern has a class that is not closed"},
      {"[a&&]", "pattern has an empty class"},
      {"(a", "pattern has a group that is not closed"},
      {"a)", "pattern has ')' without '('"},
      {"(?<=a+)b", "pattern '(?<=a+)b' does not compile: lookbehind assertion "
                   "is not fixed length at offset 0"},
  };
  for (const RefusedPattern &pattern : refused)
    EXPECT_EQ(matches(pattern.expression, "a"), pattern.message);
  EXPECT_EQ(matches(std::string(70'000, 'a').c_str(), "a"),
            "pattern has 70000 bytes, at most 65536 are handled");
  std::string deep = std::string(20, '[') + "a" + std::string(20, ']');
  EXPECT_EQ(matches(deep.c_str(), "a"),
            "pattern uses classes nested deeper than 16 at offset 18, which "
            "is not handled");
}

TEST(Pattern, LiteralsReplace) {
  Pattern pattern = Pattern::literal("aa");
  std::string out;
  ASSERT_TRUE(pattern.replaceAll("aaaba", "x", out).ok());
  EXPECT_EQ(out, "xaba");
}

} // namespace
