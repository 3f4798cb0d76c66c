//===- LlamaConfig.h - What config.json says of a LLaMA ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_IMPORT_LLAMACONFIG_H
#define QLM_IMPORT_LLAMACONFIG_H

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace mlir::qlm {

/// How rotary frequencies are stretched for long contexts.
struct RopeScaling {
  enum class Kind { Default, Linear, Llama3 };
  Kind kind = Kind::Default;
  double theta = 10000.0;
  /// Linear and Llama3: what frequencies are divided by, at least 1.
  double factor = 1.0;
  /// Llama3: wavelengths over `originalContextLength / lowFrequencyFactor` are
  /// scaled, those under `originalContextLength / highFrequencyFactor` kept.
  double lowFrequencyFactor = 1.0;
  double highFrequencyFactor = 4.0;
  int64_t originalContextLength = 0;
};

/// The shape of a model of LLaMA's kind, checked: all sizes are positive and
/// small enough that products of three of them fit 63 bits.
struct LlamaConfig {
  /// LlamaForCausalLM, MistralForCausalLM or Qwen2ForCausalLM.
  llvm::StringRef architecture;
  int64_t vocabularySize = 0;
  int64_t hiddenSize = 0;
  int64_t intermediateSize = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kvHeads = 0;
  int64_t headDim = 0;
  int64_t contextLength = 2048;
  double epsilon = 1e-6;
  bool tiedEmbeddings = false;
  bool attentionBias = false; ///< of queries, keys and values
  bool outputBias = false;    ///< of the attention's output
  bool mlpBias = false;
  /// Each layer's keys that a token sees, its own and those before it; 0: all.
  /// Empty where all layers see all.
  llvm::SmallVector<int64_t, 0> windows;
  RopeScaling rope;
  std::optional<int64_t> bosToken;
  llvm::SmallVector<int64_t, 2> eosTokens;

  int64_t windowOf(int64_t layer) const {
    return windows.empty() ? 0 : windows[layer];
  }
};

/// Reads the object of a `config.json`. Keys that are absent have the values
/// that transformers gives them, except sizes, which must be there. Errors name
/// the key; unsupported architectures, activations, rotary scalings, kinds of
/// layers and quantized weights are refused by name.
llvm::Expected<LlamaConfig> parseLlamaConfig(const llvm::json::Value &config);

/// Overrides the token ids of \p config with those of a
/// `generation_config.json`, where it has them.
llvm::Error applyGenerationConfig(const llvm::json::Value &generation,
                                  LlamaConfig &config);

/// The headDim / 2 angles a position, in f32 with the roundings of
/// transformers: `1 / theta^(2i / headDim)`, scaled.
std::vector<float> computeInverseFrequencies(const RopeScaling &rope,
                                             int64_t headDim);

} // namespace mlir::qlm

#endif // QLM_IMPORT_LLAMACONFIG_H
