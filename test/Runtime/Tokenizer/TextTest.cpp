//===- TextTest.cpp - UTF-8, normal forms, byte alphabet, merges ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/ByteAlphabet.h"
#include "qlm/Runtime/Tokenizer/MergeTable.h"
#include "qlm/Runtime/Tokenizer/Normalizer.h"
#include "qlm/Runtime/Tokenizer/Utf8.h"
#include "qlm/Runtime/Tokenizer/WordCache.h"

#include <chrono>
#include <gtest/gtest.h>
#include <random>

using namespace qlm;
using namespace qlm::tokenizer;

namespace {

TEST(Utf8, AllScalarsRoundTrip) {
  for (char32_t scalar = 0; scalar < 0x110000; ++scalar) {
    if (scalar >= 0xD800 && scalar < 0xE000)
      continue;
    std::string text;
    appendScalar(text, scalar);
    size_t position = 0;
    ASSERT_EQ(nextScalar(text, position), scalar);
    ASSERT_EQ(position, text.size());
    ASSERT_EQ(scalarLength(text[0]), text.size());
    ASSERT_EQ(findInvalidUtf8(text), std::string::npos);
  }
}

TEST(Utf8, FindsTheFirstBrokenCharacter) {
  EXPECT_EQ(findInvalidUtf8("abcdefgh\xC3\xA9\xE2\x82"), 10u);
  EXPECT_EQ(findInvalidUtf8("\xE0\x9F\xBF"), 0u);
  EXPECT_EQ(findInvalidUtf8("a\xED\xA0\x80"), 1u);
  EXPECT_EQ(findInvalidUtf8("a\xF5\x80\x80\x80"), 1u);
}

std::string repair(std::string_view bytes, size_t chunk) {
  Utf8Repair repair;
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += chunk)
    repair.push(bytes.substr(i, chunk), out);
  repair.finish(out);
  return out;
}

TEST(Utf8, RepairsMaximalParts) {
  // The example of the Unicode Standard, table 3-11.
  EXPECT_EQ(repair("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 9), "����A");
  EXPECT_EQ(repair("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", 9), "��������A");
  EXPECT_EQ(repair("\xED\xA0\x80\x41", 4), "���A");
  EXPECT_EQ(repair("\xE2\x82", 2), "�");
}

TEST(Utf8, RepairIsTheSameInAnyChunks) {
  std::mt19937 random(1);
  const unsigned char lead[] = {0x41, 0x80, 0xBF, 0xC3, 0xE0, 0xE2, 0xED,
                                0xF0, 0xF4, 0xFF, 0xA0, 0x9F, 0x90, 0x8F};
  for (int i = 0; i < 5000; ++i) {
    std::string bytes;
    for (int k = 0; k < 12; ++k)
      bytes.push_back(static_cast<char>(lead[random() % sizeof(lead)]));
    std::string whole = repair(bytes, bytes.size());
    EXPECT_EQ(findInvalidUtf8(whole), std::string::npos);
    EXPECT_EQ(repair(bytes, 1), whole);
    EXPECT_EQ(repair(bytes, 5), whole);
  }
}

std::string normal(std::string_view text, NormalForm form) {
  std::string out;
  EXPECT_TRUE(normalizeUnicode(text, form, out).ok());
  return out;
}

TEST(NormalForms, ComposeAndDecompose) {
  EXPECT_EQ(normal("e\u0301", NormalForm::Nfc), "\u00e9");
  EXPECT_EQ(normal("\u00e9", NormalForm::Nfd), "e\u0301");
  EXPECT_EQ(normal("\ufb01\u00bd", NormalForm::Nfkc), "fi1\u20442");
  EXPECT_EQ(normal("\ufb01", NormalForm::Nfc), "\ufb01");
  EXPECT_EQ(normal("\u212b", NormalForm::Nfkd), "A\u030a");
  EXPECT_EQ(normal("\ud55c", NormalForm::Nfd), "\u1112\u1161\u11ab");
  EXPECT_EQ(normal("\u1112\u1161\u11ab", NormalForm::Nfc), "\ud55c");
  EXPECT_EQ(normal("\u0958", NormalForm::Nfc), "\u0915\u093c"); // excluded
  EXPECT_EQ(normal("\ufdfa", NormalForm::Nfkd).size(), 33u);
  EXPECT_EQ(normal(std::string_view("\0\u00e9", 3), NormalForm::Nfd),
            std::string("\0e\u0301", 4));
}

TEST(NormalForms, OrderMarks) {
  // Marks of equal class keep their order.
  EXPECT_EQ(normal("a\u0301\u0323\u0300", NormalForm::Nfd),
            "a\u0323\u0301\u0300");
  std::string marks = "a";
  for (int i = 0; i < 200'000; ++i)
    marks += i % 2 ? "\u0323" : "\u0301";
  auto start = std::chrono::steady_clock::now();
  std::string ordered = normal(marks, NormalForm::Nfd);
  EXPECT_EQ(ordered.substr(0, 3), "a\u0323");
  EXPECT_EQ(ordered.substr(ordered.size() - 2), "\u0301");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(Lowercase, MapsEachCharacterAlone) {
  std::string out;
  lowercase("AZ É ΣΑΣ İ Ǆ 𐐀 ß", out);
  EXPECT_EQ(out, "az é σασ i\u0307 ǆ 𐐨 ß");
}

TEST(ByteAlphabet, RoundTripsAllBytes) {
  std::string bytes, spelled, back;
  for (int byte = 0; byte < 256; ++byte)
    bytes.push_back(static_cast<char>(byte));
  spellBytes(bytes, spelled);
  EXPECT_EQ(findInvalidUtf8(spelled), std::string::npos);
  unspellBytes(spelled, back);
  EXPECT_EQ(back, bytes);
  spelled.clear();
  spellBytes(" a\n", spelled);
  EXPECT_EQ(spelled, "ĠaĊ");
  back.clear();
  unspellBytes("Ġ漢", back); // not of the alphabet: left as it is
  EXPECT_EQ(back, "Ġ漢");
}

/// Merges by looking at all pairs, as the definition says.
std::vector<int32_t> mergeSlowly(const MergeTable &table,
                                 std::vector<int32_t> ids) {
  while (true) {
    const Merge *best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      if (const Merge *merge = table.find(ids[i], ids[i + 1]))
        if (!best || merge->rank < best->rank) {
          best = merge;
          at = i;
        }
    if (!best)
      return ids;
    ids[at] = best->id;
    ids.erase(ids.begin() + at + 1);
  }
}

TEST(MergeTable, EqualsItsDefinition) {
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    MergeTable table;
    int count = 1 + random() % 40;
    table.reserve(count);
    for (int i = 0; i < count; ++i)
      table.insert(random() % (4 + i), random() % (4 + i), {i, 4 + i});
    for (int length : {0, 1, 2, 3, 5, 17, 23, 24, 25, 26, 100, 331}) {
      std::vector<int32_t> ids(length);
      for (int32_t &id : ids)
        id = random() % 4;
      std::vector<int32_t> merged = ids;
      table.apply(merged);
      EXPECT_EQ(merged, mergeSlowly(table, ids));
    }
  }
}

TEST(MergeTable, EmptyTableMergesNothing) {
  MergeTable table;
  std::vector<int32_t> ids = {1, 2, 3};
  table.apply(ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 2, 3}));
  table.reserve(0);
  EXPECT_EQ(table.find(1, 2), nullptr);
}

TEST(WordCache, FindsWhatWasStored) {
  WordCache cache;
  std::vector<int32_t> ids;
  EXPECT_FALSE(cache.find("word", ids));
  int32_t stored[] = {4, 5};
  cache.store("word", stored, 2);
  EXPECT_TRUE(cache.find("word", ids));
  EXPECT_TRUE(cache.find("word", ids));
  EXPECT_EQ(ids, (std::vector<int32_t>{4, 5, 4, 5}));
  // Far more words than slots: the memory stays bounded, and no word gets
  // another one's ids.
  for (int32_t i = 0; i < 100'000; ++i)
    cache.store(std::to_string(i), &i, 1);
  int found = 0;
  for (int32_t i = 0; i < 100'000; ++i) {
    ids.clear();
    if (!cache.find(std::to_string(i), ids))
      continue;
    ++found;
    ASSERT_EQ(ids, std::vector<int32_t>{i});
  }
  EXPECT_GT(found, 0);
  EXPECT_LE(found, static_cast<int>(WordCache::slotCount));
}

} // namespace
