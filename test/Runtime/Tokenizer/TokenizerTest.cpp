//===- TokenizerTest.cpp - Encoding and decoding --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TokenizerFile.h"

#include <chrono>
#include <fstream>
#include <thread>

using namespace qlm;
using namespace qlm::test;

namespace {

Ids encode(const Tokenizer &tokenizer, std::string_view text,
           bool addSpecialTokens = true) {
  Result<Ids> ids = tokenizer.encode(text, addSpecialTokens);
  EXPECT_TRUE(ids.ok()) << ids.status().message();
  return ids.ok() ? *ids : Ids{-1};
}

std::string decode(const Tokenizer &tokenizer, const Ids &ids,
                   bool skipSpecialTokens = true) {
  return tokenizer.decode(ids.data(), ids.size(), skipSpecialTokens);
}

std::unique_ptr<Tokenizer> make(const nlohmann::json &file) {
  auto tokenizer = parse(file);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return tokenizer.ok() ? tokenizer.take() : nullptr;
}

TEST(Encode, MergesByRank) {
  auto tokenizer = make(smallFile());
  EXPECT_EQ(encode(*tokenizer, "ab ab"), (Ids{0, 6, 6}));
  EXPECT_EQ(encode(*tokenizer, "ab aab", false), (Ids{6, 2, 3, 5}));
  EXPECT_EQ(encode(*tokenizer, ""), (Ids{0}));
  EXPECT_EQ(encode(*tokenizer, "", false), (Ids{}));
}

TEST(Encode, FallsBackToBytesWhereAllAreThere) {
  auto tokenizer = make(smallFile());
  EXPECT_EQ(encode(*tokenizer, "é", false), (Ids{2, 7, 8}));
  // U+20AC has two bytes without a piece: unknown, and one for a run.
  EXPECT_EQ(encode(*tokenizer, "€€a", false), (Ids{2, 1, 3}));
  nlohmann::json file = smallFile();
  file["model"]["fuse_unk"] = false;
  EXPECT_EQ(encode(*make(file), "€€a", false), (Ids{2, 1, 1, 3}));
  file["model"].erase("unk_token");
  EXPECT_EQ(encode(*make(file), "€€a", false), (Ids{2, 3}));
}

TEST(Encode, SpecialTokensInTextBecomeIds) {
  auto tokenizer = make(smallFile());
  EXPECT_EQ(encode(*tokenizer, "a<s>b", false), (Ids{2, 3, 0, 2, 4}));
  EXPECT_TRUE(tokenizer->isSpecial(0));
  EXPECT_FALSE(tokenizer->isSpecial(1));
  EXPECT_FALSE(tokenizer->isSpecial(-1));
}

TEST(Encode, RefusesInvalidUtf8) {
  auto tokenizer = make(smallFile());
  for (const char *text : {"ab\xC3", "ab\xFF!", "ab\xED\xA0\x80", "ab\xC0\x80",
                           "ab\xF4\x90\x80\x80", "ab\x80"}) {
    Result<Ids> ids = tokenizer->encode(text);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.status().getCode(), StatusCode::InvalidArgument);
    EXPECT_EQ(ids.status().message(),
              "text is not valid UTF-8 at byte 2 of " +
                  std::to_string(std::string_view(text).size()));
  }
}

TEST(Encode, RefusesCharactersWithoutUnknownToken) {
  nlohmann::json file = smallFile();
  file["model"]["unk_token"] = "[UNK]";
  auto tokenizer = make(file);
  EXPECT_TRUE(tokenizer->encode("ab").ok());
  Result<Ids> ids = tokenizer->encode("€");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.status().getCode(), StatusCode::InvalidArgument);
  EXPECT_EQ(ids.status().message(),
            "text has a character outside the vocabulary, and so is the "
            "unknown token '[UNK]'");
}

TEST(Encode, PatternThatBacktracksWithoutEndIsStopped) {
  nlohmann::json file = smallFile();
  file["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "(?:a|a)*c"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
  auto tokenizer = make(file);
  Result<Ids> ids = tokenizer->encode(std::string(60, 'a') + "bc");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.status().getCode(), StatusCode::ResourceExhausted);
  EXPECT_EQ(ids.status().message(),
            "pattern gives up on this text: match limit exceeded");
}

TEST(Encode, LongWordTakesNoQuadraticTime) {
  auto tokenizer = make(smallFile());
  auto start = std::chrono::steady_clock::now();
  std::string word;
  while (word.size() < 1'000'000)
    word += "aab";
  Ids ids = encode(*tokenizer, word, false);
  EXPECT_EQ(ids.size(), 1 + 2 * word.size() / 3);
  // Quadratic time would be hours; a sanitizer's build takes a few seconds.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(Encode, IgnoreMergesTakesWholeWords) {
  nlohmann::json file = smallFile();
  file["model"]["vocab"]["▁ba"] = 10;
  EXPECT_EQ(encode(*make(file), "ba", false), (Ids{2, 4, 3}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(encode(*make(file), "ba", false), (Ids{10}));
}

TEST(Encode, ManyThreadsGetTheSameIds) {
  auto tokenizer = make(smallFile());
  std::string text;
  for (int i = 0; i < 2000; ++i)
    text += std::string(i % 17, 'a') + std::string(i % 5, 'b') + " ";
  Ids expected = encode(*tokenizer, text);
  std::vector<std::thread> threads;
  std::vector<Ids> results(4);
  for (Ids &result : results)
    threads.emplace_back([&] { result = encode(*tokenizer, text); });
  for (std::thread &thread : threads)
    thread.join();
  for (const Ids &result : results)
    EXPECT_EQ(result, expected);
}

TEST(Decode, PutsTextTogether) {
  auto tokenizer = make(smallFile());
  EXPECT_EQ(decode(*tokenizer, {0, 6, 6, 7, 8}), "ab abé");
  EXPECT_EQ(decode(*tokenizer, {0, 6}, false), "<s> ab");
  EXPECT_EQ(decode(*tokenizer, {}), "");
}

TEST(Decode, BrokenBytesBecomeReplacements) {
  auto tokenizer = make(smallFile());
  // A run of bytes is one character each when it isn't text as a whole.
  EXPECT_EQ(decode(*tokenizer, {3, 7, 8, 9, 3}), "a���a");
  EXPECT_EQ(decode(*tokenizer, {7}), "�");
}

TEST(Decode, IdsOfNothingGiveNothing) {
  auto tokenizer = make(smallFile());
  EXPECT_EQ(decode(*tokenizer, {-1, 3, 10, INT32_MAX, 4, INT32_MIN}), "ab");
}

TEST(Stream, HoldsBackRunsOfBytes) {
  auto tokenizer = make(smallFile());
  IncrementalDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(6), "ab");
  EXPECT_EQ(decoder.push(0), "");
  EXPECT_EQ(decoder.push(7), "");
  EXPECT_EQ(decoder.push(8), "");
  EXPECT_EQ(decoder.push(3), "éa");
  EXPECT_EQ(decoder.push(7), "");
  EXPECT_EQ(decoder.finish(), "�");
  // finish() begins anew: the leading space is stripped again.
  EXPECT_EQ(decoder.push(6), "ab");
}

TEST(Stream, WaitsForTheRestOfACharacter) {
  nlohmann::json file = smallFile();
  file["decoder"] = {{"type", "ByteLevel"},
                     {"add_prefix_space", false},
                     {"trim_offsets", true}};
  file["model"]["vocab"] = {{"Ã", 0},  {"©", 1}, {"a", 2},  {"b", 3},
                            {"ab", 4}, {"▁", 5}, {"▁ab", 6}};
  auto tokenizer = make(file);
  IncrementalDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(2), "a");
  EXPECT_EQ(decoder.push(0), "");
  EXPECT_EQ(decoder.push(1), "é");
  EXPECT_EQ(decoder.push(0), "");
  EXPECT_EQ(decoder.push(2), "�a");
  EXPECT_EQ(decoder.push(0), "");
  EXPECT_EQ(decoder.finish(), "�");
}

TEST(Stream, HoldsBackWhatStripOrReplaceMayChange) {
  nlohmann::json file = smallFile();
  file["decoder"] = nlohmann::json::parse(R"({"type": "Sequence", "decoders": [
      {"type": "Fuse"},
      {"type": "Replace", "pattern": {"String": "aab"}, "content": "X"},
      {"type": "Strip", "content": "b", "start": 1, "stop": 2}]})");
  auto tokenizer = make(file);
  IncrementalDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(4), "");  // b: stripped in front
  EXPECT_EQ(decoder.push(3), "");  // a
  EXPECT_EQ(decoder.push(3), "");  // aa
  EXPECT_EQ(decoder.push(3), "a"); // aaa: the first is settled
  EXPECT_EQ(decoder.push(4), "X"); // aab
  EXPECT_EQ(decoder.push(4), "");  // b: maybe the last
  EXPECT_EQ(decoder.push(4), "");  // bb
  EXPECT_EQ(decoder.push(4), "b"); // bbb: one of them stays
  EXPECT_EQ(decoder.push(3), "");  // a: may begin aab
  EXPECT_EQ(decoder.finish(), "bba");
}

TEST(LookUps, KnowAddedTokensAndPieces) {
  nlohmann::json file = smallFile();
  nlohmann::json token = file["added_tokens"][0];
  token["content"] = "<new>";
  token["id"] = 99; // as in the library, the next free id counts
  token["special"] = false;
  file["added_tokens"].push_back(token);
  auto tokenizer = make(file);
  EXPECT_EQ(tokenizer->vocabularySize(), 11);
  EXPECT_EQ(tokenizer->tokenId("<new>"), 10);
  EXPECT_EQ(tokenizer->tokenId("ab"), 5);
  EXPECT_EQ(tokenizer->tokenId("c"), std::nullopt);
  EXPECT_FALSE(tokenizer->isSpecial(10));
}

TEST(Load, ReadsAFile) {
  std::string path = testing::TempDir() + "qlm_tokenizer_test.json";
  std::ofstream(path) << smallFile().dump();
  auto tokenizer = Tokenizer::load(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(encode(**tokenizer, "ab"), (Ids{0, 6}));
  std::remove(path.c_str());
}

} // namespace
