//===- ManifestTest.cpp - Bad manifests are refused by name ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Manifest.h"

#include "FakePackage.h"
#include "gtest/gtest.h"

using namespace qlm;
using test::Json;

static Result<Manifest> parse(const Json &manifest) {
  return parseManifest(manifest.dump(), "m.json");
}

TEST(ManifestTest, ReadsWhatTheFormatDescribes) {
  Result<Manifest> manifest = parse(test::fakeManifest());
  ASSERT_TRUE(manifest.ok()) << manifest.status().message();
  EXPECT_EQ(manifest->model.vocabularySize, 32);
  EXPECT_FALSE(manifest->model.bosTokenId.has_value());
  EXPECT_EQ(manifest->model.eosTokenIds, std::vector<int32_t>{29});
  EXPECT_EQ(manifest->plan.maxPagesPerSequence(), 16);
  ASSERT_EQ(manifest->launches.size(), 5u);
  const Launch &head = manifest->launches[4];
  EXPECT_EQ(head.kernel, "fake_project");
  EXPECT_EQ(head.tiles.count, 32);
  EXPECT_EQ(head.tiles.size, TileSize::One);
  EXPECT_EQ(head.arguments[1].kind, LaunchArgumentKind::Weight);
  EXPECT_EQ(head.arguments[1].key, "lm_head.weight");
  EXPECT_EQ(head.arguments[2].kind, LaunchArgumentKind::Logits);
}

TEST(ManifestTest, RefusesTextThatIsNotJson) {
  EXPECT_EQ(parseManifest("{\"format\" 1}", "m.json").status().message(),
            "m.json: not valid JSON at offset 11 of 12");
  EXPECT_EQ(parseManifest("[1]", "m.json").status().getCode(),
            StatusCode::Corrupt);
  EXPECT_FALSE(parseManifest("", "m.json").ok());
  EXPECT_FALSE(parseManifest(std::string(100000, '['), "m.json").ok());
}

namespace {
/// One field put out of order, and what the message must say.
struct BadField {
  const char *pointer;
  Json value; ///< null removes the field
  const char *message;
};
} // namespace

static const BadField badFields[] = {
    {"/format", "zip", "format must be 'qlm-package', is 'zip'"},
    {"/version", 1,
     "package has version 1, this runtime reads version 2; recompile it with "
     "quantc"},
    {"/version", nullptr, "has no 'version'"},
    {"/model", nullptr, "has no 'model'"},
    {"/model/vocabulary_size", -5, "model.vocabulary_size: must be a whole"},
    {"/model/vocabulary_size", 0, "must be a whole number from 1"},
    {"/model/layers", 1.5, "model.layers: must be a whole number"},
    {"/model/eos_token_ids", {32}, "must be below the vocabulary size 32"},
    {"/model/bos_token_id", -1, "must be below the vocabulary size 32, is -1"},
    {"/target/kind", "tpu", "target kind 'tpu' is not handled"},
    {"/target/features", {7}, "target.features[0]: must be a string"},
    {"/target/module", "../evil.so", "'../evil.so' is not the name of a file"},
    {"/target/module_checksum", "abc", "must be 16 hex digits, is 'abc'"},
    {"/weights/file", "", "'' is not the name of a file in the package"},
    {"/weights/bytes", 4, "bytes must be a whole number from 8"},
    {"/weights/bytes", 18446744073709551615ull, "weights.bytes: must be"},
    {"/files/tokenizer.json", "q", "must be 16 hex digits"},
    {"/files", Json::array(), "files: must be an object"},
    {"/plan/max_batch", 0, "max_batch must be a whole number from 1"},
    {"/plan/max_batch", 4,
     "plan.kv.pages must be at least max_batch * "
     "ceil(max_context / page_tokens) = 64, is 48"},
    {"/plan/max_context", 65, "plan.kv.pages must be at least"},
    {"/plan/max_logit_rows", 2,
     "plan.max_logit_rows must be at least "
     "max_batch = 3, is 2"},
    {"/plan/arena_bytes", 64, "offset must be below arena_bytes 64"},
    {"/plan/kv/type", "int4",
     "plan.kv.type 'int4' is not f32, f16, bf16, int8 or fp8"},
    {"/plan/kv/type", "int8", "plan.kv.page_bytes must be"},
    {"/plan/kv/type", "fp8", "plan.kv.page_bytes must be"},
    {"/plan/kv/type", "f16", "plan.kv.page_bytes must be"},
    {"/plan/kv/layers", 2, "plan.kv.layers must be the model's layers = 1"},
    {"/plan/kv/page_bytes", 9223372036854775807ll, "kv.page_bytes: must be"},
    {"/plan/kv/pool_bytes", 1,
     "plan.kv.pool_bytes must be layers * pages * "
     "page_bytes = 49152, is 1"},
    {"/plan/kv/bytes_per_token", 1, "plan.kv.bytes_per_token must be"},
    {"/plan/logits_bytes", 512,
     "plan.logits_bytes must be at least "
     "max_logit_rows * vocabulary_size * 4 = 1024"},
    {"/launches", 3, "launches: must be a list"},
    {"/launches", Json::array(), "no launch writes the logits"},
    {"/launches/0/kernel", nullptr, "launches[0]: has no 'kernel'"},
    {"/launches/0/tiles/size", "rows", "size 'rows' is not one, tokens"},
    {"/launches/0/tiles/block", 0, "block must be a whole number from 1"},
    {"/launches/0/args/0", "x", "launches[0].args[0]: must be [kind, value]"},
    {"/launches/0/args/0", {"disk", 0}, "kind 'disk' is not weight, arena"},
    {"/launches/0/args/0", {"weight", 7}, "the key of a weight must be a"},
    {"/launches/0/args/2", {"arena", -64}, "'arena' takes a whole number"},
    {"/launches/0/args/2", {"arena", 32}, "offset must be a multiple of 64"},
    {"/launches/0/args/2",
     {"arena", 281474976710656ll},
     "offset must be below"},
    {"/launches/0/args/0", {"step", 7}, "step argument must be below 7, is 7"},
    {"/launches/1/args/1", {"cache", 1}, "layer must be below 1, is 1"},
    {"/launches/4/args/2", {"logits", 1}, "logits takes 0, is 1"},
};

class BadManifestTest : public testing::TestWithParam<BadField> {};

TEST_P(BadManifestTest, IsRefused) {
  Json manifest = test::fakeManifest();
  manifest["files"]["tokenizer.json"] = "0000000000000000";
  Json::json_pointer pointer(GetParam().pointer);
  if (GetParam().value.is_null())
    manifest[pointer.parent_pointer()].erase(pointer.back());
  else
    manifest[pointer] = GetParam().value;
  Result<Manifest> result = parse(manifest);
  ASSERT_FALSE(result.ok()) << GetParam().pointer;
  EXPECT_NE(result.status().message().find(GetParam().message),
            std::string::npos)
      << result.status().message();
  EXPECT_EQ(result.status().message().rfind("m.json:", 0), 0u);
}

INSTANTIATE_TEST_SUITE_P(Fields, BadManifestTest, testing::ValuesIn(badFields));
