//===- TokenizerFile.h - A small tokenizer file for tests -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_RUNTIME_TOKENIZER_TOKENIZERFILE_H
#define QLM_TEST_RUNTIME_TOKENIZER_TOKENIZERFILE_H

#include "qlm/Runtime/Tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace qlm::test {

/// A file with a vocabulary of a few pieces, one merge of each spelling, and
/// one special token; `<s>` is put in front of each text.
inline nlohmann::json smallFile() {
  return nlohmann::json::parse(R"({
    "version": "1.0",
    "added_tokens": [
      {"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
       "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
      "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
      "vocab": {"<s>": 0, "<unk>": 1, "▁": 2, "a": 3, "b": 4, "ab": 5,
                "▁ab": 6, "<0xC3>": 7, "<0xA9>": 8, "<0xE2>": 9},
      "merges": ["a b", ["▁", "ab"]]}})");
}

/// Parses \p file under the name `t.json`.
inline Result<std::unique_ptr<Tokenizer>> parse(const nlohmann::json &file) {
  return Tokenizer::parse(file.dump(), "t.json");
}

using Ids = std::vector<int32_t>;

} // namespace qlm::test

#endif // QLM_TEST_RUNTIME_TOKENIZER_TOKENIZERFILE_H
