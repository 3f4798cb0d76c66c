//===- ModelFolder.h - Small LLaMA folders of tests -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_IMPORT_MODELFOLDER_H
#define QLM_TEST_IMPORT_MODELFOLDER_H

#include "../Archive/TemporaryFolder.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/raw_ostream.h"

#include <map>
#include <string>
#include <vector>

namespace mlir::qlm::test {

/// Type and shape of one stored tensor; its bytes don't matter to Import.
struct StoredTensor {
  std::string type = "BF16";
  std::vector<int64_t> shape;
};

/// A folder with a LLaMA of one layer: vocabulary 10, hidden 8, two heads of
/// 4 over one key head, 6 inner features. Tests change members before `write`.
struct ModelFolder {
  ModelFolder() {
    auto add = [&](llvm::StringRef name, std::vector<int64_t> shape) {
      tensors[name.str()].shape = std::move(shape);
    };
    add("model.embed_tokens.weight", {10, 8});
    add("model.layers.0.input_layernorm.weight", {8});
    add("model.layers.0.self_attn.q_proj.weight", {8, 8});
    add("model.layers.0.self_attn.k_proj.weight", {4, 8});
    add("model.layers.0.self_attn.v_proj.weight", {4, 8});
    add("model.layers.0.self_attn.o_proj.weight", {8, 8});
    add("model.layers.0.post_attention_layernorm.weight", {8});
    add("model.layers.0.mlp.gate_proj.weight", {6, 8});
    add("model.layers.0.mlp.up_proj.weight", {6, 8});
    add("model.layers.0.mlp.down_proj.weight", {8, 6});
    add("model.norm.weight", {8});
    add("lm_head.weight", {10, 8});
  }

  /// The bytes of a file with the tensors of \p stored.
  static std::string encode(const std::map<std::string, StoredTensor> &stored) {
    int64_t dataBytes = 0;
    std::string bytes = encodeHeader(stored, &dataBytes);
    return bytes + std::string(dataBytes, '\0');
  }

  /// The same without the data; sets \p dataBytes to its size.
  static std::string
  encodeHeader(const std::map<std::string, StoredTensor> &stored,
               int64_t *dataBytes = nullptr) {
    std::string header = "{";
    int64_t offset = 0;
    for (const auto &[name, tensor] : stored) {
      int64_t bytes = tensor.type == "F32" ? 4 : tensor.type == "I8" ? 1 : 2;
      std::string sizes;
      for (int64_t size : tensor.shape) {
        bytes *= size;
        sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
      }
      header += (header.size() > 1 ? ",\"" : "\"") + name + "\":{\"dtype\":\"" +
                tensor.type + "\",\"shape\":[" + sizes +
                "],\"data_offsets\":[" + std::to_string(offset) + "," +
                std::to_string(offset + bytes) + "]}";
      offset += bytes;
    }
    if (dataBytes)
      *dataBytes = offset;
    return makeSafetensors(header + "}", 0);
  }

  /// Writes config.json and model.safetensors.
  void write() const {
    writeConfig();
    folder.write("model.safetensors", encode(tensors));
  }

  void writeConfig() const {
    folder.write("config.json", R"({"architectures": ["LlamaForCausalLM"],
      "vocab_size": 10, "hidden_size": 8, "intermediate_size": 6,
      "num_hidden_layers": 1, "num_attention_heads": 2,
      "num_key_value_heads": 1, "max_position_embeddings": 32,
      "rms_norm_eps": 1e-05)" + members +
                                    "}");
  }

  TemporaryFolder folder;
  /// More members of config.json, each after a comma.
  std::string members;
  std::map<std::string, StoredTensor> tensors;
};

} // namespace mlir::qlm::test

#endif // QLM_TEST_IMPORT_MODELFOLDER_H
