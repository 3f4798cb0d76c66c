//===- KvPagesTest.cpp - Pages shared, kept and evicted -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/KvPages.h"

#include "gtest/gtest.h"

#include <random>

using namespace qlm;

namespace {
/// A sequence that computed all of its tokens.
struct Text {
  std::vector<int32_t> tokens;
  PageTable table;
  int64_t matched = 0;

  bool fill(KvPages &pages, int64_t scope = 0) {
    int64_t length = static_cast<int64_t>(tokens.size());
    matched = pages.match(table, tokens, length - 1, scope);
    if (!pages.reserve(table, length))
      return false;
    pages.publish(table, tokens, length, scope);
    return true;
  }
};

std::vector<int32_t> count(int32_t from, int32_t number) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < number; ++i)
    tokens.push_back(from + i);
  return tokens;
}
} // namespace

TEST(KvPagesTest, SharesFullPagesOfEqualBeginnings) {
  KvPages pages(16, 4);
  Text first{count(0, 10), {}}, second{count(0, 10), {}};
  ASSERT_TRUE(first.fill(pages) && second.fill(pages));
  EXPECT_EQ(first.matched, 0);
  EXPECT_EQ(second.matched, 8);
  EXPECT_EQ(first.table.pages[1], second.table.pages[1]);
  EXPECT_NE(first.table.pages[2], second.table.pages[2]) << "not full";
  EXPECT_EQ(pages.availablePages(), 16 - 4);
  EXPECT_EQ(pages.check({&first.table, &second.table}).message(), "");
}

TEST(KvPagesTest, NeverMatchesTheLastToken) {
  KvPages pages(16, 4);
  Text first{count(0, 8), {}}, second{count(0, 8), {}};
  ASSERT_TRUE(first.fill(pages) && second.fill(pages));
  EXPECT_EQ(second.matched, 4) << "of 8 tokens, as the last is computed anew";
}

TEST(KvPagesTest, EqualPagesAfterDifferentOnesAreNotShared) {
  KvPages pages(16, 4);
  Text first{{1, 1, 1, 1, 5, 5, 5, 5, 0}, {}};
  Text second{{2, 2, 2, 2, 5, 5, 5, 5, 0}, {}};
  ASSERT_TRUE(first.fill(pages) && second.fill(pages));
  EXPECT_EQ(second.matched, 0);
}

TEST(KvPagesTest, ScopesAreNotShared) {
  KvPages pages(16, 4);
  Text first{count(0, 9), {}}, other{count(0, 9), {}}, same{count(0, 9), {}};
  ASSERT_TRUE(first.fill(pages, 1) && other.fill(pages, 2));
  EXPECT_EQ(other.matched, 0);
  ASSERT_TRUE(same.fill(pages, 2));
  EXPECT_EQ(same.matched, 8);
}

TEST(KvPagesTest, KeepsIdlePagesUntilTheirMemoryIsNeeded) {
  KvPages pages(4, 4);
  Text first{count(0, 12), {}}, second{count(100, 4), {}};
  ASSERT_TRUE(first.fill(pages));
  pages.release(first.table);
  EXPECT_EQ(pages.idleCount(), 3);
  EXPECT_EQ(pages.availablePages(), 4);
  ASSERT_TRUE(second.fill(pages)) << "takes the page that was free";
  EXPECT_EQ(pages.evictions(), 0);
  Text third{count(200, 3), {}};
  ASSERT_TRUE(third.fill(pages));
  EXPECT_EQ(pages.evictions(), 1);
  // The end of the chain went first: its beginning still serves.
  Text again{count(0, 12), {}};
  EXPECT_EQ(pages.match(again.table, again.tokens, 11, 0), 8);
  EXPECT_FALSE(pages.reserve(again.table, 12)) << "no page is left";
  EXPECT_EQ(again.table.pages.size(), 2u);
  EXPECT_EQ(pages.check({&second.table, &third.table, &again.table}).message(),
            "");
}

TEST(KvPagesTest, EvictsTheLeastRecentlyUsed) {
  KvPages pages(2, 4);
  Text first{count(0, 4), {}}, second{count(50, 4), {}};
  ASSERT_TRUE(first.fill(pages) && second.fill(pages));
  pages.release(first.table);
  pages.release(second.table);
  PageTable used;
  EXPECT_EQ(pages.match(used, first.tokens, 4, 0), 4);
  pages.release(used);
  Text third{count(90, 4), {}};
  ASSERT_TRUE(third.fill(pages));
  EXPECT_EQ(pages.match(used, first.tokens, 4, 0), 4) << "used since";
  pages.release(used);
  EXPECT_EQ(pages.match(used, second.tokens, 4, 0), 0) << "evicted";
}

TEST(KvPagesTest, SharesNothingWhenToldSo) {
  KvPages pages(8, 4, /*sharesPrefixes=*/false);
  Text first{count(0, 9), {}}, second{count(0, 9), {}};
  ASSERT_TRUE(first.fill(pages) && second.fill(pages));
  EXPECT_EQ(second.matched, 0);
  pages.release(first.table);
  EXPECT_EQ(pages.idleCount(), 0);
}

TEST(KvPagesTest, ForgetsIdlePages) {
  KvPages pages(8, 4);
  Text first{count(0, 9), {}};
  ASSERT_TRUE(first.fill(pages));
  pages.release(first.table);
  pages.forget();
  EXPECT_EQ(pages.idleCount(), 0);
  EXPECT_EQ(pages.match(first.table, first.tokens, 8, 0), 0);
  EXPECT_EQ(pages.check({}).message(), "");
}

TEST(KvPagesTest, AccountsForEveryPageInRandomUse) {
  std::mt19937 random(5);
  KvPages pages(12, 2);
  std::vector<Text> texts(6);
  for (int round = 0; round < 3000; ++round) {
    Text &text = texts[random() % texts.size()];
    pages.release(text.table);
    text.tokens.resize(1 + random() % 9);
    // Few different tokens, so that beginnings are often equal.
    for (int32_t &token : text.tokens)
      token = static_cast<int32_t>(random() % 2);
    if (!text.fill(pages))
      pages.release(text.table);
    std::vector<const PageTable *> tables;
    for (const Text &each : texts)
      tables.push_back(&each.table);
    ASSERT_EQ(pages.check(tables).message(), "") << round;
  }
  EXPECT_GT(pages.evictions(), 100);
}

TEST(KvPagesTest, CheckFindsPagesThatNobodyHolds) {
  KvPages pages(4, 4);
  Text first{count(0, 4), {}};
  ASSERT_TRUE(first.fill(pages));
  EXPECT_EQ(pages.check({}).message(), "page 0 is in 0 tables and counts 1");
}
