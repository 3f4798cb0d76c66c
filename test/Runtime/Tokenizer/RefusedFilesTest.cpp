//===- RefusedFilesTest.cpp - Files that break a rule ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TokenizerFile.h"

#include <fstream>

using namespace qlm;
using namespace qlm::test;

namespace {

/// The small file with one value replaced, and the message that follows.
struct RefusedFile {
  const char *pointer; ///< RFC 6901, of the value to replace
  const char *value;   ///< JSON; empty: the member is removed
  StatusCode code;
  const char *message;
};

constexpr StatusCode corrupt = StatusCode::Corrupt;
constexpr StatusCode unsupported = StatusCode::Unsupported;

const RefusedFile refusedFiles[] = {
    {"/version", R"("2.0")", unsupported,
     R"(t.json: version: must be "1.0", is "2.0")"},
    {"/model", "", corrupt, "t.json: has no 'model'"},
    {"/model", "7", corrupt, "t.json: model: must be an object, is number"},
    {"/model/type", R"("Unigram")", unsupported,
     "t.json: model: model type 'Unigram' is not handled, only BPE"},
    {"/model/type", R"("WordPiece")", unsupported,
     "t.json: model: model type 'WordPiece' is not handled, only BPE"},
    {"/model/dropout", "0.1", unsupported,
     "t.json: model.dropout: must be null or 0: random merges are not "
     "handled"},
    {"/model/byte_fallback", "1", corrupt,
     "t.json: model.byte_fallback: must be true or false, is number"},
    {"/model/unk_token", "1", corrupt,
     "t.json: model.unk_token: must be a string, is number"},
    {"/model/vocab", "", corrupt, "t.json: model: has no 'vocab'"},
    {"/model/vocab", "[]", corrupt,
     "t.json: model.vocab: must be an object, is array"},
    {"/model/vocab/a", "-1", corrupt,
     "t.json: model.vocab: id of 'a' must be a whole number from 0 to "
     "16777215, is -1"},
    {"/model/vocab/a", "16777216", corrupt,
     "t.json: model.vocab: id of 'a' must be a whole number from 0 to "
     "16777215, is 16777216"},
    {"/model/vocab/a", "99999999999999999999", corrupt,
     "t.json: model.vocab: id of 'a' must be a whole number from 0 to "
     "16777215, is 1e+20"},
    {"/model/vocab/a", "3.0", corrupt,
     "t.json: model.vocab: id of 'a' must be a whole number from 0 to "
     "16777215, is 3.0"},
    {"/model/vocab/b", "3", corrupt,
     "t.json: model.vocab: id 3 is given to 'a' and to 'b'"},
    {"/model/vocab/ab", "", corrupt,
     "t.json: model.merges: entry 0 needs piece 'ab', which is not in the "
     "vocabulary"},
    {"/model/merges", "", corrupt, "t.json: model: has no 'merges'"},
    {"/model/merges", "{}", corrupt,
     "t.json: model.merges: must be a list, is object"},
    {"/model/merges/0", R"("a c")", corrupt,
     "t.json: model.merges: entry 0 needs piece 'c', which is not in the "
     "vocabulary"},
    {"/model/merges/1", R"(["c", "a"])", corrupt,
     "t.json: model.merges: entry 1 needs piece 'c', which is not in the "
     "vocabulary"},
    {"/model/merges/1", R"(["a", "b", "c"])", corrupt,
     "t.json: model.merges: entry 1 must be a string or a pair of strings"},
    {"/model/merges/1", R"("ab")", corrupt,
     "t.json: model.merges: entry 1 must be two pieces with one space "
     "between, is 'ab'"},
    {"/model/merges/1", R"("a b ")", corrupt,
     "t.json: model.merges: entry 1 must be two pieces with one space "
     "between, is 'a b '"},
    {"/model/continuing_subword_prefix", R"("##")", corrupt,
     "t.json: model.merges: entry 0 continues with 'b', which is shorter "
     "than the subword prefix '##'"},
    {"/added_tokens", "{}", corrupt,
     "t.json: added_tokens: must be a list, is object"},
    {"/added_tokens/0/id", "-5", corrupt,
     "t.json: added_tokens[0].id: must be a whole number from 0 to 16777215, "
     "is -5"},
    {"/added_tokens/0/content", "", corrupt,
     "t.json: added_tokens[0]: has no 'content'"},
    {"/added_tokens/0/lstrip", "", corrupt,
     "t.json: added_tokens[0]: has no 'lstrip'"},
    {"/normalizer/type", R"("Precompiled")", unsupported,
     "t.json: normalizer: normalizer 'Precompiled' is not handled"},
    {"/normalizer/normalizers/1/type", R"("BertNormalizer")", unsupported,
     "t.json: normalizer.normalizers[1]: normalizer 'BertNormalizer' is not "
     "handled"},
    {"/normalizer/normalizers/1/pattern", R"({"Regex": "(?x)a"})", unsupported,
     "t.json: normalizer.normalizers[1].pattern: pattern uses group '(?x' at "
     "offset 0, which is not handled"},
    {"/normalizer/normalizers/1/pattern", "{}", corrupt,
     "t.json: normalizer.normalizers[1].pattern: has no 'Regex'"},
    {"/normalizer/normalizers/0/prepend", "", corrupt,
     "t.json: normalizer.normalizers[0]: has no 'prepend'"},
    {"/pre_tokenizer", R"({"type": "BertPreTokenizer"})", unsupported,
     "t.json: pre_tokenizer: pre-tokenizer 'BertPreTokenizer' is not handled"},
    {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [
        {"type": "UnicodeScripts"}]})",
     unsupported,
     "t.json: pre_tokenizer.pretokenizers[0]: pre-tokenizer 'UnicodeScripts' "
     "is not handled"},
    {"/pre_tokenizer", R"({"add_prefix_space": true})", corrupt,
     "t.json: pre_tokenizer: has no 'type'"},
    {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a"},
        "behavior": "Isolated", "invert": false})",
     corrupt,
     "t.json: pre_tokenizer.pattern: pattern has a group that is not closed"},
    {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a**"},
        "behavior": "Isolated", "invert": false})",
     unsupported,
     "t.json: pre_tokenizer.pattern: pattern 'a**' does not compile: "
     "quantifier does not follow a repeatable item at offset 2"},
    {"/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "a"},
        "behavior": "Kept", "invert": false})",
     unsupported,
     "t.json: pre_tokenizer: split behavior 'Kept' is not handled"},
    {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "__"})", corrupt,
     "t.json: pre_tokenizer: replacement must be one character, is '__'"},
    {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_",
        "prepend_scheme": "last"})",
     unsupported,
     "t.json: pre_tokenizer: prepend_scheme 'last' is not handled"},
    {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_",
        "prepend_scheme": "always", "add_prefix_space": false})",
     corrupt,
     "t.json: pre_tokenizer: add_prefix_space is false, but prepend_scheme "
     "is not 'never'"},
    {"/decoder", R"({"type": "WordPiece"})", unsupported,
     "t.json: decoder: decoder 'WordPiece' is not handled"},
    {"/decoder/decoders/3/content", R"("ab")", corrupt,
     "t.json: decoder.decoders[3]: content must be one character, is 'ab'"},
    {"/decoder/decoders/3/start", "-1", corrupt,
     "t.json: decoder.decoders[3].start: must be a whole number from 0 to "
     "2147483647, is -1"},
    {"/post_processor", R"({"type": "RobertaProcessing"})", unsupported,
     "t.json: post_processor: post-processor 'RobertaProcessing' is not "
     "handled"},
    {"/post_processor/special_tokens", "{}", corrupt,
     "t.json: post_processor.special_tokens: has no '<s>', which the "
     "template uses"},
    {"/post_processor/special_tokens/<s>/ids/0", "-1", corrupt,
     "t.json: post_processor.special_tokens.<s>.ids[0]: must be a whole "
     "number from 0 to 16777215, is -1"},
    {"/post_processor/single/1/Sequence/id", R"("B")", corrupt,
     "t.json: post_processor.single[1].Sequence: a template for one text "
     "uses sequence 'B'"},
    {"/post_processor/single", "[]", corrupt,
     "t.json: post_processor: template has the text 0 times and 0 special "
     "ids, must have it once and at most 64"},
};

class RefusedFiles : public testing::TestWithParam<RefusedFile> {};

TEST_P(RefusedFiles, NameThePlaceAndTheRule) {
  const RefusedFile &refused = GetParam();
  nlohmann::json file = smallFile();
  nlohmann::json::json_pointer pointer(refused.pointer);
  if (*refused.value)
    file[pointer] = nlohmann::json::parse(refused.value);
  else
    file[pointer.parent_pointer()].erase(pointer.back());
  auto tokenizer = parse(file);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(), refused.message);
  EXPECT_EQ(tokenizer.status().getCode(), refused.code);
}

INSTANTIATE_TEST_SUITE_P(All, RefusedFiles, testing::ValuesIn(refusedFiles));

TEST(RefusedText, EveryTruncationIsRefused) {
  std::string text = smallFile().dump();
  for (size_t size = 0; size < text.size(); ++size) {
    auto tokenizer = Tokenizer::parse(text.substr(0, size), "t.json");
    ASSERT_FALSE(tokenizer.ok()) << size;
    EXPECT_EQ(tokenizer.status().getCode(), StatusCode::Corrupt);
  }
  auto tokenizer = Tokenizer::parse(text.substr(0, 100), "t.json");
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: not valid JSON at offset 101 of 100");
}

TEST(RefusedText, NotAnObject) {
  auto tokenizer = Tokenizer::parse("[]", "t.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: must be an object, is array");
}

TEST(RefusedText, DeepNesting) {
  std::string text(1'000'000, '[');
  auto tokenizer = Tokenizer::parse(text, "t.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: JSON nests deeper than 64 levels");
  // Brackets inside strings don't nest.
  nlohmann::json file = smallFile();
  file["comment"] = "\\\"" + std::string(1000, '{');
  EXPECT_TRUE(parse(file).ok());
}

TEST(RefusedText, InvalidUtf8InFile) {
  auto tokenizer = Tokenizer::parse("{\"a\": \"\xC3\"}", "t.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: not valid JSON at offset 9 of 10");
}

TEST(RefusedText, AddedTokenTooLong) {
  nlohmann::json file = smallFile();
  file["added_tokens"][0]["content"] = std::string(5000, 'x');
  auto tokenizer = parse(file);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: added_tokens[0]: content has 5000 bytes, at most 4096 "
            "are handled");
}

TEST(RefusedText, AddedTokensThatNormalizationMakesEqual) {
  nlohmann::json file = smallFile();
  file["normalizer"] = {{"type", "Lowercase"}};
  nlohmann::json token = file["added_tokens"][0];
  token["normalized"] = true;
  token["content"] = "x";
  file["added_tokens"].push_back(token);
  token["content"] = "X";
  file["added_tokens"].push_back(token);
  auto tokenizer = parse(file);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_NE(
      tokenizer.status().message().find("are the same after normalization"),
      std::string::npos);

  file["normalizer"] = {
      {"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  file["added_tokens"][1]["content"] = "  ";
  tokenizer = parse(file);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: added_tokens[1]: content '  ' has 0 bytes after "
            "normalization, must have 1 to 4096");
}

TEST(RefusedText, ChainsThatGrowText) {
  nlohmann::json replace = {
      {"type", "Replace"}, {"pattern", {{"Regex", ""}}}, {"content", "ab"}};
  nlohmann::json file = smallFile();
  for (int i = 0; i < 7; ++i)
    file["normalizer"]["normalizers"].push_back(replace);
  auto tokenizer = parse(file);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: normalizer.normalizers[7]: replacements can make a text "
            "more than 1024 times longer");

  file = smallFile();
  for (int i = 0; i < 7; ++i)
    file["decoder"]["decoders"].push_back(replace);
  tokenizer = parse(file);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: decoder.decoders[10]: replacements can make a text more "
            "than 1024 times longer");

  file = smallFile();
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", nlohmann::json::array()}};
  for (int i = 0; i < 5; ++i)
    file["pre_tokenizer"]["pretokenizers"].push_back(
        {{"type", "ByteLevel"}, {"add_prefix_space", true}});
  tokenizer = parse(file);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().message(),
            "t.json: pre_tokenizer.pretokenizers[4]: more than 4 ByteLevel "
            "and Metaspace pre-tokenizers");
}

TEST(RefusedPath, MissingFile) {
  auto tokenizer = Tokenizer::load("/nonexistent/tokenizer.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().getCode(), StatusCode::NotFound);
  EXPECT_EQ(tokenizer.status().message(),
            "/nonexistent/tokenizer.json: cannot be opened: No such file or "
            "directory");
}

TEST(RefusedPath, Folder) {
  auto tokenizer = Tokenizer::load("/");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().getCode(), StatusCode::Io);
}

} // namespace
