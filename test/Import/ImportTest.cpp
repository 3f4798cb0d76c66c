//===- ImportTest.cpp - Model folders into IR -----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Import/Import.h"
#include "ModelFolder.h"
#include "qlm/Dialect/Qlm.h"

#include "mlir/IR/Diagnostics.h"
#include "gtest/gtest.h"

#include <unistd.h>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::test;

namespace {

class ImportTest : public ::testing::Test {
protected:
  ImportTest()
      : context(MLIRContext::Threading::DISABLED),
        handler(&context, [&](Diagnostic &diagnostic) {
          warnings.push_back(diagnostic.str());
          return success();
        }) {}

  /// Imports what must be a valid folder.
  OwningOpRef<ModuleOp> import(bool plainOps = false) {
    ImportOptions options;
    options.plainOps = plainOps;
    auto module = importModelFolder(model.folder.path, context, options);
    if (module)
      return std::move(*module);
    ADD_FAILURE() << llvm::toString(module.takeError());
    return ModuleOp::create(UnknownLoc::get(&context));
  }

  /// What import says of what must be refused; the folder's path is cut off.
  std::string refuse() {
    std::string message =
        getMessage(importModelFolder(model.folder.path, context, {}));
    llvm::StringRef rest = message;
    if (rest.consume_front(model.folder.path))
      rest.consume_front("/");
    return rest.str();
  }

  ModelFolder model;
  MLIRContext context;
  std::vector<std::string> warnings;
  ScopedDiagnosticHandler handler;
};

/// Each operation of the function as "name" or "name@location", without loads.
std::vector<std::string> listOps(ModuleOp module) {
  std::vector<std::string> ops;
  auto function = module.lookupSymbol<func::FuncOp>(kForwardName);
  for (Operation &op : function.getOps()) {
    if (isa<LoadOp>(op))
      continue;
    std::string text = op.getName().stripDialect().str();
    if (auto name = dyn_cast<NameLoc>(op.getLoc()))
      text += "@" + name.getName().str();
    ops.push_back(text);
  }
  return ops;
}

template <typename OpT> std::vector<OpT> collect(ModuleOp module) {
  std::vector<OpT> ops;
  module.walk([&](OpT op) { ops.push_back(op); });
  return ops;
}

TEST_F(ImportTest, WritesTheContractsForm) {
  model.write();
  OwningOpRef<ModuleOp> module = import();
  std::vector<std::string> expected = {"constant@rope",
                                       "embedding@embedding",
                                       "rms_norm@layers.0.attention_norm",
                                       "linear@layers.0.q",
                                       "linear@layers.0.k",
                                       "linear@layers.0.v",
                                       "rope@layers.0.rope",
                                       "rope@layers.0.rope",
                                       "attention@layers.0.attention",
                                       "linear@layers.0.o",
                                       "add@layers.0.o",
                                       "rms_norm@layers.0.mlp_norm",
                                       "linear@layers.0.gate",
                                       "linear@layers.0.up",
                                       "silu@layers.0.swiglu",
                                       "mul@layers.0.swiglu",
                                       "linear@layers.0.down",
                                       "add@layers.0.down",
                                       "rms_norm@norm",
                                       "linear@lm_head",
                                       "return@lm_head"};
  EXPECT_EQ(listOps(*module), expected);
  auto attention = collect<AttentionOp>(*module).front();
  EXPECT_EQ(attention.getHeads(), 2u);
  EXPECT_EQ(attention.getKvHeads(), 1u);
  EXPECT_EQ(attention.getScale().convertToFloat(), 0.5f);
  EXPECT_TRUE(attention.getCausal());
  EXPECT_EQ(collect<RmsNormOp>(*module).front().getEpsilon().convertToFloat(),
            1e-5f);
  EXPECT_TRUE(warnings.empty());
}

TEST_F(ImportTest, SpellsAttentionWithPlainOps) {
  model.write();
  OwningOpRef<ModuleOp> module = import(/*plainOps=*/true);
  std::vector<std::string> ops = listOps(*module);
  std::vector<std::string> expected = {
      "split_heads", "split_heads", "split_heads", "matmul",     "scale",
      "causal_mask", "softmax",     "matmul",      "merge_heads"};
  for (std::string &op : expected)
    op += "@layers.0.attention";
  ASSERT_GT(ops.size(), 17u);
  EXPECT_EQ(std::vector<std::string>(ops.begin() + 8, ops.begin() + 17),
            expected);
  EXPECT_TRUE(collect<AttentionOp>(*module).empty());
}

TEST_F(ImportTest, DescribesTheModel) {
  model.members = R"(, "bos_token_id": 3, "eos_token_id": 4)";
  model.write();
  model.folder.write("generation_config.json", R"({"eos_token_id": [5, 6]})");
  OwningOpRef<ModuleOp> module = import();
  auto description = (*module)->getAttrOfType<DictionaryAttr>(kModelAttr);
  auto get = [&](StringRef key) {
    return description.getAs<IntegerAttr>(key).getInt();
  };
  EXPECT_EQ(description.getAs<StringAttr>("architecture"), "llama");
  EXPECT_EQ(description.getAs<StringAttr>("name"),
            llvm::sys::path::filename(model.folder.path));
  EXPECT_EQ(get("vocabulary_size"), 10);
  EXPECT_EQ(get("hidden_size"), 8);
  EXPECT_EQ(get("layers"), 1);
  EXPECT_EQ(get("heads"), 2);
  EXPECT_EQ(get("kv_heads"), 1);
  EXPECT_EQ(get("head_dim"), 4);
  EXPECT_EQ(get("intermediate_size"), 6);
  EXPECT_EQ(get("context_length"), 32);
  EXPECT_EQ(get("parameters"), 2 * 80 + 3 * 8 + 2 * 64 + 2 * 32 + 3 * 48);
  EXPECT_EQ(get("bos_token_id"), 3);
  Builder builder(&context);
  EXPECT_EQ(description.get("eos_token_ids"),
            builder.getArrayAttr(
                {builder.getI64IntegerAttr(5), builder.getI64IntegerAttr(6)}));
  EXPECT_EQ((*module)->getAttrOfType<StringAttr>(kStageAttr), "import");
  EXPECT_EQ((*module)->getAttrOfType<StringAttr>(kSourceAttr),
            model.folder.path);
}

TEST_F(ImportTest, TiesTheHeadToTheTable) {
  model.members = R"(, "tie_word_embeddings": true)";
  model.tensors.erase("lm_head.weight");
  model.write();
  OwningOpRef<ModuleOp> module = import();
  auto load =
      collect<LinearOp>(*module).back().getWeight().getDefiningOp<LoadOp>();
  EXPECT_EQ(load.getParameter(), "model.embed_tokens.weight");
}

TEST_F(ImportTest, AddsBiases) {
  model.members = R"(, "attention_bias": true, "mlp_bias": true)";
  for (StringRef name : {"q", "o"})
    model.tensors[("model.layers.0.self_attn." + name + "_proj.bias").str()]
        .shape = {8};
  for (StringRef name : {"k", "v"})
    model.tensors[("model.layers.0.self_attn." + name + "_proj.bias").str()]
        .shape = {4};
  for (StringRef name : {"gate", "up"})
    model.tensors[("model.layers.0.mlp." + name + "_proj.bias").str()].shape = {
        6};
  model.tensors["model.layers.0.mlp.down_proj.bias"].shape = {8};
  model.write();
  OwningOpRef<ModuleOp> module = import();
  std::vector<LinearOp> linears = collect<LinearOp>(*module);
  ASSERT_EQ(linears.size(), 8u);
  for (size_t i = 0; i < 7; ++i)
    EXPECT_TRUE(linears[i].getBias()) << i;
  EXPECT_FALSE(linears.back().getBias());
}

TEST_F(ImportTest, KeepsEachTensorsType) {
  model.tensors["model.norm.weight"].type = "F32";
  model.tensors["lm_head.weight"].type = "F16";
  model.write();
  OwningOpRef<ModuleOp> module = import();
  auto getType = [&](StringRef name) {
    return cast<RankedTensorType>(
               module->lookupSymbol<ParameterOp>(name).getType())
        .getElementType();
  };
  EXPECT_TRUE(getType("model.norm.weight").isF32());
  EXPECT_TRUE(getType("lm_head.weight").isF16());
  EXPECT_TRUE(getType("model.embed_tokens.weight").isBF16());
}

TEST_F(ImportTest, ReadsShards) {
  std::map<std::string, StoredTensor> shards[2];
  std::string map;
  for (const auto &[name, tensor] : model.tensors) {
    size_t shard = name.size() % 2;
    shards[shard][name] = tensor;
    map += (map.empty() ? "\"" : ",\"") + name + "\":\"s" +
           std::to_string(shard) + ".safetensors\"";
  }
  model.writeConfig();
  model.folder.write("s0.safetensors", ModelFolder::encode(shards[0]));
  model.folder.write("s1.safetensors", ModelFolder::encode(shards[1]));
  model.folder.write("model.safetensors.index.json",
                     "{\"metadata\":{},\"weight_map\":{" + map + "}}");
  OwningOpRef<ModuleOp> module = import();
  for (ParameterOp parameter : collect<ParameterOp>(*module)) {
    EXPECT_EQ(parameter.getKey(), parameter.getSymName());
    EXPECT_EQ(parameter.getFile(),
              "s" + std::to_string(parameter.getKey().size() % 2) +
                  ".safetensors");
  }
}

TEST_F(ImportTest, WarnsOfUnknownTensorsOnly) {
  model.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"].shape = {2};
  model.write();
  import();
  EXPECT_TRUE(warnings.empty());
  model.tensors["model.layers.0.self_attn.q_proj.bias"].shape = {8};
  model.tensors["z.weight"].type = "I8";
  model.write();
  import();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_EQ(warnings.front(),
            model.folder.join("model.safetensors") +
                ": ignored 'model.layers.0.self_attn.q_proj.bias' and 1 more, "
                "which LlamaForCausalLM does not have");
}

TEST_F(ImportTest, RefusesFoldersWithoutFiles) {
  EXPECT_EQ(refuse(), "config.json: No such file or directory");
  model.writeConfig();
  EXPECT_EQ(refuse(), ": neither model.safetensors nor "
                      "model.safetensors.index.json is there; other formats "
                      "are not read");
  EXPECT_EQ(getMessage(importModelFolder("/nonexistent", context, {})),
            "/nonexistent: not a folder");
}

TEST_F(ImportTest, NamesTheConfigInErrors) {
  model.members = R"(, "hidden_act": "relu")";
  model.write();
  EXPECT_EQ(refuse(),
            "config.json: 'hidden_act': 'relu' is not supported, only silu");
  model.members = ", ";
  model.write();
  EXPECT_EQ(refuse().substr(0, 28), "config.json: malformed JSON:");
  model.members = "";
  model.write();
  model.folder.write("generation_config.json", R"({"bos_token_id": 10})");
  EXPECT_EQ(refuse(), "generation_config.json: 'bos_token_id': a token id must "
                      "be from 0 to 9, got 10");
  model.folder.write("generation_config.json", "{");
  EXPECT_EQ(refuse().substr(0, 39), "generation_config.json: malformed JSON:");
}

TEST_F(ImportTest, RefusesShapesThatDontMatch) {
  model.tensors["model.layers.0.self_attn.k_proj.weight"].shape = {8, 8};
  model.write();
  EXPECT_EQ(refuse(),
            "model.safetensors: tensor 'model.layers.0.self_attn.k_proj.weight'"
            ": config.json makes its shape [4, 8], the file holds BF16[8, 8]");
}

TEST_F(ImportTest, RefusesTypesThatAreNotFloats) {
  model.tensors["lm_head.weight"].type = "I8";
  model.write();
  EXPECT_EQ(refuse(), "model.safetensors: tensor 'lm_head.weight': type I8 is "
                      "not supported, only F32, F16 and BF16");
}

TEST_F(ImportTest, NamesMissingTensors) {
  model.tensors.erase("lm_head.weight");
  model.write();
  EXPECT_EQ(refuse(), "model.safetensors: missing tensor 'lm_head.weight'; "
                      "'tie_word_embeddings' is false in config.json");
  model.members = R"(, "attention_bias": true)";
  model.write();
  EXPECT_EQ(refuse(), "model.safetensors: missing tensors "
                      "'model.layers.0.self_attn.q_proj.bias', "
                      "'model.layers.0.self_attn.k_proj.bias', "
                      "'model.layers.0.self_attn.v_proj.bias' and 2 more");
}

TEST_F(ImportTest, RefusesTruncatedWeights) {
  model.write();
  std::string bytes = ModelFolder::encode(model.tensors);
  bytes.pop_back();
  model.folder.write("model.safetensors", bytes);
  EXPECT_NE(refuse().find("model.safetensors: tensor 'model.norm.weight': data "
                          "ends past the file's"),
            std::string::npos);
}

TEST_F(ImportTest, RefusesIndexesThatLie) {
  model.writeConfig();
  auto index = [&](StringRef text) {
    model.folder.write("model.safetensors.index.json", text);
    return refuse();
  };
  EXPECT_EQ(index("[]"),
            "model.safetensors.index.json: 'weight_map' must be an object");
  EXPECT_EQ(index(R"({"weight_map": {"a": 1}})"),
            "model.safetensors.index.json: tensor 'a': the file must be a name "
            "inside of the folder");
  for (StringRef path : {"../x", "/etc/passwd", "a/b", "..", ""})
    EXPECT_EQ(index(("{\"weight_map\": {\"a\": \"" + path + "\"}}").str()),
              ("model.safetensors.index.json: tensor 'a': the file must be a "
               "name inside of the folder, got '" +
               path + "'")
                  .str());
  EXPECT_EQ(index(R"({"weight_map": {"a": "s.safetensors"}})"),
            "s.safetensors: No such file or directory");
  model.folder.write("s.safetensors", ModelFolder::encode({}));
  EXPECT_EQ(index(R"({"weight_map": {"a": "s.safetensors"}})"),
            "s.safetensors: no tensor 'a', which model.safetensors.index.json "
            "puts there");
  EXPECT_EQ(index(R"({"weight_map": {}})").substr(0, 66),
            "model.safetensors.index.json: missing tensors "
            "'model.embed_tokens.");
}

// The shapes of LLaMA 2 7B in a file that is nearly all hole: what Import
// needs is the header alone.
TEST_F(ImportTest, KeepsWeightsOutsideOfTheIr) {
  constexpr int64_t kHidden = 4096, kInner = 11008, kVocabulary = 32000;
  model.tensors.clear();
  auto add = [&](std::string name, std::vector<int64_t> shape) {
    model.tensors[name + ".weight"].shape = std::move(shape);
  };
  add("model.embed_tokens", {kVocabulary, kHidden});
  add("lm_head", {kVocabulary, kHidden});
  add("model.norm", {kHidden});
  for (int i = 0; i < 32; ++i) {
    std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm", {kHidden});
    add(layer + "post_attention_layernorm", {kHidden});
    for (const char *name : {"q", "k", "v", "o"})
      add(layer + "self_attn." + name + "_proj", {kHidden, kHidden});
    add(layer + "mlp.gate_proj", {kInner, kHidden});
    add(layer + "mlp.up_proj", {kInner, kHidden});
    add(layer + "mlp.down_proj", {kHidden, kInner});
  }
  model.folder.write("config.json", R"({"architectures": ["LlamaForCausalLM"],
      "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
      "num_hidden_layers": 32, "num_attention_heads": 32})");
  std::string header = ModelFolder::encodeHeader(model.tensors);
  std::string path = model.folder.write("model.safetensors", header);
  int64_t parameters = 6738415616;
  ASSERT_EQ(::truncate(path.c_str(), header.size() + 2 * parameters), 0);

  OwningOpRef<ModuleOp> module = import();
  std::string text;
  llvm::raw_string_ostream stream(text);
  module->print(stream, OpPrintingFlags().enableDebugInfo());
  EXPECT_LT(text.size(), 1000000u);
  auto description = (*module)->getAttrOfType<DictionaryAttr>(kModelAttr);
  EXPECT_EQ(description.getAs<IntegerAttr>("parameters").getInt(), parameters);
}

} // namespace
