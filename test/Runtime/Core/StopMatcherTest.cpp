//===- StopMatcherTest.cpp - Stop strings are never shown -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/StopMatcher.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <random>

using namespace qlm;

TEST(StopMatcherTest, HoldsBackWhatMayBecomeAStopString) {
  StopMatcher matcher({"</s>", "\n\n"});
  EXPECT_EQ(matcher.push("one <"), "one ");
  EXPECT_EQ(matcher.push("/"), "");
  EXPECT_EQ(matcher.push("b>\n"), "</b>");
  EXPECT_EQ(matcher.push("x"), "\nx");
  EXPECT_EQ(matcher.push("y</s>z"), "y");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcherTest, FinishShowsTheRest) {
  StopMatcher matcher({"abc"});
  EXPECT_EQ(matcher.push("xab"), "x");
  EXPECT_EQ(matcher.finish(), "ab");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcherTest, WithoutStopStringsNothingIsHeld) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.push("text"), "text");
}

TEST(StopMatcherTest, AnyCuttingGivesTheTextBeforeTheEarliestMatch) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i)
      text += static_cast<char>('a' + random() % 2);
    std::vector<std::string> stops = {"abab", "bba"};
    size_t at = std::min(text.find(stops[0]), text.find(stops[1]));
    StopMatcher matcher(stops);
    std::string shown;
    for (size_t i = 0; i < text.size();) {
      size_t length = 1 + random() % 3;
      shown += matcher.push(text.substr(i, length));
      i += length;
      if (matcher.stopped())
        break;
    }
    shown += matcher.finish();
    // A match may be complete before an earlier, longer one is.
    if (at == std::string::npos)
      EXPECT_EQ(shown, text);
    else
      EXPECT_TRUE(matcher.stopped()) << text;
    EXPECT_EQ(text.compare(0, shown.size(), shown), 0);
    for (const std::string &stop : stops)
      EXPECT_EQ(shown.find(stop), std::string::npos) << text;
  }
}
