//===- LlamaWeights.cpp - The tensors that a LLaMA must have --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LlamaWeights.h"
#include "qlm/Archive/Json.h"

#include "llvm/ADT/StringSet.h"
#include "llvm/Support/raw_ostream.h"

namespace mlir::qlm {

std::vector<ExpectedWeight> listLlamaWeights(const LlamaConfig &config) {
  const int64_t hidden = config.hiddenSize;
  const int64_t query = config.heads * config.headDim;
  const int64_t key = config.kvHeads * config.headDim;
  const int64_t inner = config.intermediateSize;
  std::vector<ExpectedWeight> weights;
  auto vector = [&](const llvm::Twine &name, int64_t features) {
    weights.push_back({name.str(), {features}});
  };
  auto linear = [&](const llvm::Twine &name, int64_t rows, int64_t columns,
                    bool bias) {
    weights.push_back({(name + ".weight").str(), {rows, columns}});
    if (bias)
      vector(name + ".bias", rows);
  };
  linear("model.embed_tokens", config.vocabularySize, hidden, /*bias=*/false);
  for (int64_t i = 0; i < config.layers; ++i) {
    std::string layer = ("model.layers." + llvm::Twine(i) + ".").str();
    std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    vector(layer + "input_layernorm.weight", hidden);
    linear(attention + "q_proj", query, hidden, config.attentionBias);
    linear(attention + "k_proj", key, hidden, config.attentionBias);
    linear(attention + "v_proj", key, hidden, config.attentionBias);
    linear(attention + "o_proj", hidden, query, config.outputBias);
    vector(layer + "post_attention_layernorm.weight", hidden);
    linear(mlp + "gate_proj", inner, hidden, config.mlpBias);
    linear(mlp + "up_proj", inner, hidden, config.mlpBias);
    linear(mlp + "down_proj", hidden, inner, config.mlpBias);
  }
  vector("model.norm.weight", hidden);
  if (!config.tiedEmbeddings)
    linear("lm_head", config.vocabularySize, hidden, /*bias=*/false);
  return weights;
}

/// One line that names what \p missing lacks, the first few by name.
static llvm::Error refuseMissing(llvm::ArrayRef<llvm::StringRef> missing,
                                 const WeightFiles &files) {
  constexpr size_t kNamed = 3;
  std::string text;
  llvm::raw_string_ostream stream(text);
  stream << files.getListing() << ": missing ";
  stream << (missing.size() == 1 ? "tensor " : "tensors ");
  llvm::interleaveComma(
      missing.take_front(kNamed), stream,
      [&](llvm::StringRef name) { stream << quoteName(name); });
  if (missing.size() > kNamed)
    stream << " and " << missing.size() - kNamed << " more";
  if (missing.size() == 1 && missing.front() == "lm_head.weight")
    stream << "; 'tie_word_embeddings' is false in config.json";
  return llvm::createStringError(text);
}

llvm::Error checkWeights(llvm::ArrayRef<ExpectedWeight> expected,
                         const WeightFiles &files) {
  std::vector<llvm::StringRef> missing;
  for (const ExpectedWeight &weight : expected) {
    const WeightFiles::Entry *entry = files.lookup(weight.name);
    if (!entry) {
      missing.push_back(weight.name);
      continue;
    }
    const ArchiveTensor &tensor = *entry->tensor;
    std::string where = entry->file + ": tensor " + quoteName(weight.name);
    if (tensor.type != ArchiveType::F32 && tensor.type != ArchiveType::F16 &&
        tensor.type != ArchiveType::BF16)
      return llvm::createStringError(where + ": type " +
                                     getArchiveTypeName(tensor.type) +
                                     " is not supported, only F32, F16 and "
                                     "BF16");
    if (llvm::ArrayRef<int64_t>(tensor.shape) !=
        llvm::ArrayRef<int64_t>(weight.shape)) {
      std::string wanted;
      llvm::raw_string_ostream stream(wanted);
      llvm::interleaveComma(weight.shape, stream);
      return llvm::createStringError(where + ": config.json makes its shape [" +
                                     wanted + "], the file holds " +
                                     tensor.getTypeString());
    }
  }
  return missing.empty() ? llvm::Error::success()
                         : refuseMissing(missing, files);
}

std::vector<llvm::StringRef>
findUnusedWeights(llvm::ArrayRef<ExpectedWeight> expected,
                  const WeightFiles &files) {
  llvm::StringSet<> used;
  for (const ExpectedWeight &weight : expected)
    used.insert(weight.name);
  std::vector<llvm::StringRef> unused;
  for (llvm::StringRef name : files.getNames())
    if (!used.contains(name) && !name.ends_with(".rotary_emb.inv_freq") &&
        name != "lm_head.weight")
      unused.push_back(name);
  return unused;
}

} // namespace mlir::qlm
