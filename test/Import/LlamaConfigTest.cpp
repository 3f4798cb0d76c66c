//===- LlamaConfigTest.cpp - Reading config.json --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Import/LlamaConfig.h"
#include "../Archive/TemporaryFolder.h"
#include "qlm/Archive/Json.h"

#include "gtest/gtest.h"

using namespace mlir::qlm;
using namespace mlir::qlm::test;

namespace {

/// A small valid configuration with the members of \p members added.
llvm::json::Value makeConfig(llvm::StringRef members) {
  llvm::json::Object config{{"architectures", {"LlamaForCausalLM"}},
                            {"vocab_size", 100},
                            {"hidden_size", 48},
                            {"intermediate_size", 64},
                            {"num_hidden_layers", 3},
                            {"num_attention_heads", 4}};
  llvm::json::Value parsed =
      llvm::cantFail(parseBoundedJson(("{" + members + "}").str()));
  for (auto &[key, value] : *parsed.getAsObject())
    config[key] = value;
  return std::move(config);
}

llvm::Expected<LlamaConfig> parse(llvm::StringRef members) {
  return parseLlamaConfig(makeConfig(members));
}

std::string refuse(llvm::StringRef members) {
  return getMessage(parse(members));
}

TEST(LlamaConfigTest, FillsInWhatIsAbsent) {
  auto config = parse("");
  ASSERT_TRUE(bool(config)) << llvm::toString(config.takeError());
  EXPECT_EQ(config->vocabularySize, 100);
  EXPECT_EQ(config->hiddenSize, 48);
  EXPECT_EQ(config->intermediateSize, 64);
  EXPECT_EQ(config->layers, 3);
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->kvHeads, 4);
  EXPECT_EQ(config->headDim, 12);
  EXPECT_EQ(config->contextLength, 2048);
  EXPECT_EQ(config->epsilon, 1e-6);
  EXPECT_FALSE(config->tiedEmbeddings);
  EXPECT_FALSE(config->attentionBias);
  EXPECT_FALSE(config->mlpBias);
  EXPECT_EQ(config->rope.kind, RopeScaling::Kind::Default);
  EXPECT_EQ(config->rope.theta, 10000.0);
  EXPECT_EQ(config->bosToken, 1);
  EXPECT_EQ(llvm::ArrayRef<int64_t>(config->eosTokens),
            llvm::ArrayRef<int64_t>({2}));
}

TEST(LlamaConfigTest, ReadsWhatIsThere) {
  auto config = parse(R"("num_key_value_heads": 2, "head_dim": 20,
      "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
      "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true,
      "bos_token_id": 7, "eos_token_id": [8, 9], "hidden_act": "silu")");
  ASSERT_TRUE(bool(config)) << llvm::toString(config.takeError());
  EXPECT_EQ(config->kvHeads, 2);
  EXPECT_EQ(config->headDim, 20);
  EXPECT_EQ(config->contextLength, 512);
  EXPECT_EQ(config->epsilon, 1e-5);
  EXPECT_TRUE(config->tiedEmbeddings);
  EXPECT_TRUE(config->attentionBias);
  EXPECT_TRUE(config->mlpBias);
  EXPECT_EQ(config->bosToken, 7);
  EXPECT_EQ(llvm::ArrayRef<int64_t>(config->eosTokens),
            llvm::ArrayRef<int64_t>({8, 9}));
}

TEST(LlamaConfigTest, TakesNullForAbsent) {
  auto config = parse(R"("num_key_value_heads": null, "head_dim": null,
      "rope_scaling": null, "bos_token_id": null, "eos_token_id": null,
      "quantization_config": null, "pad_token_id": -1)");
  ASSERT_TRUE(bool(config)) << llvm::toString(config.takeError());
  EXPECT_EQ(config->kvHeads, 4);
  EXPECT_EQ(config->headDim, 12);
  EXPECT_EQ(config->bosToken, std::nullopt);
  EXPECT_TRUE(config->eosTokens.empty());
}

TEST(LlamaConfigTest, ReadsRopeInBothSpellings) {
  for (llvm::StringRef members :
       {R"("rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4})",
        R"("rope_theta": 5e5,
           "rope_scaling": {"rope_type": "linear", "factor": 4})",
        R"("rope_parameters":
           {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000})",
        R"("rope_theta": 3, "rope_parameters":
           {"type": "linear", "factor": 4.0, "rope_theta": 500000})"}) {
    auto config = parse(members);
    ASSERT_TRUE(bool(config)) << llvm::toString(config.takeError());
    EXPECT_EQ(config->rope.kind, RopeScaling::Kind::Linear);
    EXPECT_EQ(config->rope.theta, 5e5) << members.str();
    EXPECT_EQ(config->rope.factor, 4.0);
  }
}

TEST(LlamaConfigTest, FindsOriginalContextLength) {
  llvm::StringRef scaling = R"("rope_scaling": {"rope_type": "llama3",
      "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4)";
  auto length = [&](const llvm::Twine &members) -> int64_t {
    auto config = parse(members.str());
    if (!config) {
      ADD_FAILURE() << llvm::toString(config.takeError());
      return 0;
    }
    EXPECT_EQ(config->rope.kind, RopeScaling::Kind::Llama3);
    EXPECT_EQ(config->rope.highFrequencyFactor, 4.0);
    return config->rope.originalContextLength;
  };
  llvm::StringRef inner = R"(, "original_max_position_embeddings": 32})";
  EXPECT_EQ(length(scaling + "}"), 2048);
  EXPECT_EQ(length(scaling + inner), 32);
  EXPECT_EQ(
      length(scaling + inner + R"(, "original_max_position_embeddings": 64)"),
      64);
}

/// The windows of three layers of an architecture.
static std::string getWindows(llvm::StringRef architecture,
                              const llvm::Twine &members = "") {
  auto config = parse((R"("num_key_value_heads": 2, "architectures": [")" +
                       architecture + R"(ForCausalLM"])" + members)
                          .str());
  if (!config)
    return llvm::toString(config.takeError());
  std::string text;
  for (int64_t layer = 0; layer < config->layers; ++layer)
    text += (layer ? " " : "") + std::to_string(config->windowOf(layer));
  return text;
}

TEST(LlamaConfigTest, ReadsWindows) {
  // As transformers: LLaMA has none, Mistral one of 4096 keys unless it is
  // null, Qwen2 one in its last layers if it says so.
  EXPECT_EQ(getWindows("Llama", R"(, "sliding_window": 7)"), "0 0 0");
  EXPECT_EQ(getWindows("Mistral"), "4096 4096 4096");
  EXPECT_EQ(getWindows("Mistral", R"(, "sliding_window": 7)"), "7 7 7");
  EXPECT_EQ(getWindows("Mistral", R"(, "sliding_window": null)"), "0 0 0");
  llvm::StringRef used = R"(, "use_sliding_window": true)";
  EXPECT_EQ(getWindows("Qwen2"), "0 0 0");
  EXPECT_EQ(getWindows("Qwen2", R"(, "sliding_window": 7)"), "0 0 0");
  EXPECT_EQ(getWindows("Qwen2", used), "0 0 0"); // 28 layers see all
  EXPECT_EQ(getWindows("Qwen2", used + R"(, "max_window_layers": 0)"),
            "4096 4096 4096");
  EXPECT_EQ(getWindows("Qwen2", used + R"(, "max_window_layers": 2,
                        "sliding_window": 5)"),
            "0 0 5");
  EXPECT_EQ(getWindows("Qwen2", used + R"(, "sliding_window": null,
                        "max_window_layers": 0)"),
            "0 0 0");
  EXPECT_EQ(getWindows("Qwen2", used + R"(, "sliding_window": 5, "layer_types":
                ["sliding_attention", "full_attention", "sliding_attention"])"),
            "5 0 5");
  EXPECT_EQ(getWindows("Mistral", R"(, "layer_types": ["sliding_attention",
                "sliding_attention", "sliding_attention"])"),
            "4096 4096 4096");
}

TEST(LlamaConfigTest, RefusesOtherWindows) {
  EXPECT_EQ(getWindows("Mistral", R"(, "sliding_window": 0)"),
            "'sliding_window' must be an integer from 1 to 1073741824, got 0");
  EXPECT_EQ(getWindows("Mistral", R"(, "layer_types": ["sliding_attention",
                "full_attention", "sliding_attention"])"),
            "'layer_types' of MistralForCausalLM must all be "
            "sliding_attention, as 'sliding_window' says");
  llvm::StringRef used = R"(, "use_sliding_window": true)";
  EXPECT_EQ(getWindows("Qwen2", R"(, "use_sliding_window": 1)"),
            "'use_sliding_window' must be true or false, got 1");
  EXPECT_EQ(getWindows("Qwen2", used + R"(, "max_window_layers": -1)"),
            "'max_window_layers' must be an integer from 0 to 4096, got -1");
  EXPECT_EQ(
      getWindows("Qwen2", used + R"(, "layer_types": ["full_attention"])"),
      "'layer_types' must name a type for each of 3 layers, got "
      "[\"full_attention\"]");
  EXPECT_EQ(getWindows("Qwen2", used + R"(, "layer_types": ["full_attention",
                "chunked_attention", "full_attention"])"),
            "'layer_types': \"chunked_attention\" is not supported, only "
            "full_attention and sliding_attention");
  EXPECT_EQ(getWindows("Qwen2", R"(, "layer_types": ["full_attention",
                "sliding_attention", "full_attention"])"),
            "'layer_types' names sliding_attention, but there is no window: "
            "'use_sliding_window' is false or 'sliding_window' null");
}

TEST(LlamaConfigTest, KnowsOtherArchitectures) {
  auto mistral = parse(R"("architectures": ["MistralForCausalLM"],
      "num_attention_heads": 8)");
  ASSERT_TRUE(bool(mistral)) << llvm::toString(mistral.takeError());
  EXPECT_EQ(mistral->kvHeads, 8);
  EXPECT_EQ(mistral->contextLength, 131072);
  EXPECT_EQ(mistral->bosToken, 1);
  EXPECT_FALSE(mistral->attentionBias || mistral->outputBias);
  auto qwen = parse(R"("architectures": ["Qwen2ForCausalLM"],
      "num_key_value_heads": null, "attention_bias": false)");
  ASSERT_TRUE(bool(qwen)) << llvm::toString(qwen.takeError());
  EXPECT_EQ(qwen->kvHeads, 4);
  EXPECT_EQ(qwen->contextLength, 32768);
  EXPECT_FALSE(qwen->bosToken);
  EXPECT_TRUE(qwen->eosTokens.empty());
  EXPECT_TRUE(qwen->attentionBias);
  EXPECT_FALSE(qwen->outputBias);
  auto llama = parse(R"("attention_bias": true)");
  ASSERT_TRUE(bool(llama)) << llvm::toString(llama.takeError());
  EXPECT_TRUE(llama->attentionBias && llama->outputBias);
}

TEST(LlamaConfigTest, RefusesOtherModels) {
  EXPECT_EQ(getMessage(parseLlamaConfig(llvm::json::Array())),
            "expected an object");
  EXPECT_EQ(refuse(R"("architectures": ["GemmaForCausalLM"])"),
            "architecture 'GemmaForCausalLM' is not supported, only "
            "LlamaForCausalLM, MistralForCausalLM and Qwen2ForCausalLM");
  for (llvm::StringRef value :
       {"null", "[]", "7", "[7]", R"(["LlamaForCausalLM", "LlamaModel"])"})
    EXPECT_EQ(refuse(("\"architectures\": " + value).str()),
              "'architectures' must name one architecture");
  EXPECT_EQ(refuse(R"("hidden_act": "gelu")"),
            "'hidden_act': 'gelu' is not supported, only silu");
  EXPECT_EQ(refuse(R"("hidden_act": 1)"),
            "'hidden_act' must be a string, got 1");
  EXPECT_EQ(refuse(R"("quantization_config": {"quant_method": "gptq"})"),
            "'quantization_config': weights quantized by 'gptq' are not "
            "supported; import the unquantized model");
  EXPECT_EQ(refuse(R"("quantization_config": 4)"),
            "'quantization_config': weights quantized by 'unknown' are not "
            "supported; import the unquantized model");
}

TEST(LlamaConfigTest, RefusesSizesOutOfRange) {
  EXPECT_EQ(refuse(R"("vocab_size": null)"), "'vocab_size' is missing");
  EXPECT_EQ(refuse(R"("hidden_size": 0)"),
            "'hidden_size' must be an integer from 1 to 16777216, got 0");
  EXPECT_EQ(refuse(R"("intermediate_size": -64)"),
            "'intermediate_size' must be an integer from 1 to 16777216, got "
            "-64");
  EXPECT_EQ(refuse(R"("num_hidden_layers": 1e300)"),
            "'num_hidden_layers' must be an integer from 1 to 4096, got "
            "1e+300");
  EXPECT_EQ(refuse(R"("num_attention_heads": 2.5)"),
            "'num_attention_heads' must be an integer from 1 to 4096, got "
            "2.5");
  EXPECT_EQ(refuse(R"("num_attention_heads": "4")"),
            "'num_attention_heads' must be an integer from 1 to 4096, got "
            "\"4\"");
  EXPECT_EQ(refuse(R"("head_dim": 18446744073709551615)"),
            "'head_dim' must be an integer from 1 to 4096, got "
            "18446744073709551615");
  EXPECT_EQ(refuse(R"("max_position_embeddings": 4294967296)"),
            "'max_position_embeddings' must be an integer from 1 to "
            "1073741824, got 4294967296");
}

TEST(LlamaConfigTest, RefusesHeadsThatDontDivide) {
  EXPECT_EQ(refuse(R"("num_key_value_heads": 3)"),
            "'num_key_value_heads' must divide 'num_attention_heads', got 3 "
            "and 4");
  EXPECT_EQ(refuse(R"("num_attention_heads": 5)"),
            "'num_attention_heads' must divide 'hidden_size' where "
            "'head_dim' is absent, got 5 and 48");
  EXPECT_EQ(refuse(R"("num_attention_heads": 16)"),
            "the head dimension must be even, got 3");
  EXPECT_EQ(refuse(R"("num_attention_heads": 5, "head_dim": 8)"), "success");
}

TEST(LlamaConfigTest, RefusesOtherTypes) {
  EXPECT_EQ(refuse(R"("rms_norm_eps": 0)"),
            "'rms_norm_eps' must be a number from 1e-30 to 1, got 0");
  EXPECT_EQ(refuse(R"("rms_norm_eps": "small")"),
            "'rms_norm_eps' must be a number from 1e-30 to 1, got "
            "\"small\"");
  EXPECT_EQ(refuse(R"("tie_word_embeddings": 1)"),
            "'tie_word_embeddings' must be true or false, got 1");
}

TEST(LlamaConfigTest, RefusesOtherScalings) {
  EXPECT_EQ(refuse(R"("rope_scaling": {"rope_type": "yarn", "factor": 2})"),
            "rotary scaling 'yarn' is not supported, only default, linear and "
            "llama3");
  EXPECT_EQ(refuse(R"("rope_parameters": {"type": "dynamic", "factor": 2})"),
            "rotary scaling 'dynamic' is not supported, only default, linear "
            "and llama3");
  EXPECT_EQ(refuse(R"("rope_scaling": 2)"),
            "'rope_scaling' must be an object, got 2");
  EXPECT_EQ(refuse(R"("rope_scaling": {"type": 2})"),
            "'type' must be a string, got 2");
  EXPECT_EQ(refuse(R"("rope_scaling": {"type": "linear"})"),
            "'factor' is missing");
  EXPECT_EQ(refuse(R"("rope_scaling": {"type": "linear", "factor": 0.5})"),
            "'factor' must be a number from 1 to 1e+06, got 0.5");
  EXPECT_EQ(refuse(R"("rope_theta": 0)"),
            "'rope_theta' must be a number from 1 to 1e+12, got 0");
  EXPECT_EQ(refuse(R"("partial_rotary_factor": 0.5)"),
            "'partial_rotary_factor' other than 1 is not supported, got 0.5");
  EXPECT_EQ(refuse(R"("rope_scaling": {"rope_type": "llama3", "factor": 8,
                      "low_freq_factor": 4, "high_freq_factor": 4})"),
            "'high_freq_factor' must be over 'low_freq_factor', got 4 and 4");
  EXPECT_EQ(refuse(R"("rope_scaling": {"rope_type": "llama3", "factor": 8})"),
            "'low_freq_factor' is missing");
}

TEST(LlamaConfigTest, RefusesTokenIdsOutsideTheVocabulary) {
  EXPECT_EQ(refuse(R"("bos_token_id": 100)"),
            "'bos_token_id': a token id must be from 0 to 99, got 100");
  EXPECT_EQ(refuse(R"("eos_token_id": [2, -1])"),
            "'eos_token_id': a token id must be from 0 to 99, got -1");
  EXPECT_EQ(refuse(R"("eos_token_id": "2")"),
            "'eos_token_id': a token id must be from 0 to 99, got \"2\"");
  std::string many = "0";
  for (int i = 0; i < 64; ++i)
    many += ",0";
  EXPECT_EQ(refuse("\"eos_token_id\": [" + many + "]"),
            "'eos_token_id': more than 64 token ids");
}

TEST(LlamaConfigTest, GenerationConfigOverridesTokenIds) {
  auto config = parse(R"("bos_token_id": 7, "eos_token_id": 8)");
  ASSERT_TRUE(bool(config));
  auto apply = [&](llvm::StringRef text) {
    llvm::Error error =
        applyGenerationConfig(llvm::cantFail(parseBoundedJson(text)), *config);
    return error ? llvm::toString(std::move(error)) : std::string("success");
  };
  EXPECT_EQ(apply(R"({"eos_token_id": [3, 4], "temperature": 0.6})"),
            "success");
  EXPECT_EQ(config->bosToken, 7);
  EXPECT_EQ(llvm::ArrayRef<int64_t>(config->eosTokens),
            llvm::ArrayRef<int64_t>({3, 4}));
  EXPECT_EQ(apply(R"({"bos_token_id": 5})"), "success");
  EXPECT_EQ(config->bosToken, 5);
  EXPECT_EQ(config->eosTokens.size(), 2u);
  EXPECT_EQ(apply("[]"), "expected an object");
  EXPECT_EQ(apply(R"({"eos_token_id": 100})"),
            "'eos_token_id': a token id must be from 0 to 99, got 100");
}

// What LlamaRotaryEmbedding of transformers 5.23 holds, bit for bit.
TEST(RopeFrequenciesTest, EqualTransformersDefault) {
  std::vector<float> expected = {
      0x1p+0f,        0x1.43d136p-2f, 0x1.99999ap-4f,  0x1.030dc6p-5f,
      0x1.47ae14p-7f, 0x1.9e7c70p-9f, 0x1.0624dep-10f, 0x1.4b96c0p-12f};
  EXPECT_EQ(computeInverseFrequencies({}, 16), expected);
}

TEST(RopeFrequenciesTest, EqualTransformersLinear) {
  RopeScaling rope;
  rope.kind = RopeScaling::Kind::Linear;
  rope.theta = 500000.0;
  rope.factor = 3.0;
  std::vector<float> expected = {
      0x1.555556p-2f,  0x1.08c4eap-4f,  0x1.9ac216p-7f,  0x1.3e9f14p-9f,
      0x1.ee4daep-12f, 0x1.7f6d40p-14f, 0x1.296bb0p-16f, 0x1.cd69bep-19f};
  EXPECT_EQ(computeInverseFrequencies(rope, 16), expected);
}

TEST(RopeFrequenciesTest, EqualTransformersLlama3) {
  RopeScaling rope;
  rope.kind = RopeScaling::Kind::Llama3;
  rope.theta = 500000.0;
  rope.factor = 8.0;
  rope.lowFrequencyFactor = 1.0;
  rope.highFrequencyFactor = 4.0;
  rope.originalContextLength = 8192;
  std::vector<float> expected = {
      0x1p+0f,         0x1.c2ef78p-2f,  0x1.8d2760p-3f,  0x1.5dc95ap-4f,
      0x1.341190p-5f,  0x1.0f5386p-6f,  0x1.ddee9ep-8f,  0x1.a4ee40p-9f,
      0x1.132ba4p-11f, 0x1.46831ap-14f, 0x1.1f91f0p-15f, 0x1.fa8b86p-17f,
      0x1.be2188p-18f, 0x1.88ec20p-19f, 0x1.5a0f4ep-20f, 0x1.30c94ep-21f};
  EXPECT_EQ(computeInverseFrequencies(rope, 32), expected);
}

} // namespace
