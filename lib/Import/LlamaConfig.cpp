//===- LlamaConfig.cpp - What config.json says of a LLaMA -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Import/LlamaConfig.h"
#include "JsonFields.h"
#include "qlm/Archive/Json.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/Twine.h"

#include <cmath>

namespace mlir::qlm {

// Limits are far above any model and keep products of sizes within 63 bits.
static constexpr int64_t kMaxFeatures = 1 << 24;
static constexpr int64_t kMaxLayers = 1 << 12;
static constexpr int64_t kMaxHeads = 1 << 12;
static constexpr int64_t kMaxHeadDim = 1 << 12;
static constexpr int64_t kMaxContext = 1 << 30;
static constexpr size_t kMaxEosTokens = 64;

namespace {
/// What transformers gives an architecture where `config.json` doesn't say.
struct Architecture {
  llvm::StringLiteral name;
  int64_t kvHeads; ///< 0: as many as heads
  int64_t contextLength;
  bool hasBiasKeys; ///< `attention_bias` and `mlp_bias` count
  bool hasBeginAndEnd;
};
} // namespace

static constexpr Architecture kArchitectures[] = {
    {"LlamaForCausalLM", 0, 2048, true, true},
    {"MistralForCausalLM", 8, 131072, false, true},
    {"Qwen2ForCausalLM", 32, 32768, false, false},
};
/// Of `sliding_window` and `max_window_layers` where they are absent.
static constexpr int64_t kAbsentWindow = 4096, kAbsentWindowLayers = 28;

static llvm::Expected<const Architecture *>
findArchitecture(const JsonFields &fields) {
  const llvm::json::Value *value = fields.find("architectures");
  const llvm::json::Array *names = value ? value->getAsArray() : nullptr;
  if (!names || names->size() != 1 || !names->front().getAsString())
    return llvm::createStringError(
        "'architectures' must name one architecture");
  llvm::StringRef name = *names->front().getAsString();
  for (const Architecture &each : kArchitectures)
    if (name == each.name)
      return &each;
  return llvm::createStringError(
      "architecture " + quoteName(name) +
      " is not supported, only LlamaForCausalLM, MistralForCausalLM and "
      "Qwen2ForCausalLM");
}

/// Refuses what changes the computation and isn't implemented.
static llvm::Error checkFeatures(const JsonFields &fields) {
  if (const llvm::json::Value *value = fields.find("quantization_config")) {
    llvm::StringRef method = "unknown";
    if (const llvm::json::Object *object = value->getAsObject())
      method = object->getString("quant_method").value_or(method);
    return llvm::createStringError(
        "'quantization_config': weights quantized by " + quoteName(method) +
        " are not supported; import the unquantized model");
  }
  llvm::Expected<std::string> activation =
      fields.getString("hidden_act", "silu");
  if (!activation)
    return activation.takeError();
  if (*activation != "silu")
    return llvm::createStringError("'hidden_act': " + quoteName(*activation) +
                                   " is not supported, only silu");
  return llvm::Error::success();
}

static llvm::Error parseSizes(const JsonFields &fields,
                              const Architecture &architecture,
                              LlamaConfig &config) {
  struct Size {
    llvm::StringLiteral key;
    int64_t limit;
    int64_t &size;
  } sizes[] = {
      {"vocab_size", kMaxFeatures, config.vocabularySize},
      {"hidden_size", kMaxFeatures, config.hiddenSize},
      {"intermediate_size", kMaxFeatures, config.intermediateSize},
      {"num_hidden_layers", kMaxLayers, config.layers},
      {"num_attention_heads", kMaxHeads, config.heads},
  };
  for (const Size &entry : sizes)
    if (llvm::Error error =
            fields.getSize(entry.key, std::nullopt, entry.limit, entry.size))
      return error;
  // Null means as many as heads, whatever the architecture.
  bool isAbsent = !fields.has("num_key_value_heads");
  int64_t kvHeads =
      isAbsent && architecture.kvHeads ? architecture.kvHeads : config.heads;
  if (llvm::Error error = fields.getSize("num_key_value_heads", kvHeads,
                                         kMaxHeads, config.kvHeads))
    return error;
  if (config.heads % config.kvHeads != 0)
    return llvm::createStringError(
        "'num_key_value_heads' must divide 'num_attention_heads', got " +
        llvm::Twine(config.kvHeads) + " and " + llvm::Twine(config.heads));
  if (!fields.find("head_dim")) {
    if (config.hiddenSize % config.heads != 0)
      return llvm::createStringError(
          "'num_attention_heads' must divide 'hidden_size' where 'head_dim' "
          "is absent, got " +
          llvm::Twine(config.heads) + " and " + llvm::Twine(config.hiddenSize));
    config.headDim = config.hiddenSize / config.heads;
  }
  if (llvm::Error error = fields.getSize("head_dim", config.headDim,
                                         kMaxHeadDim, config.headDim))
    return error;
  if (config.headDim % 2 != 0)
    return llvm::createStringError("the head dimension must be even, got " +
                                   llvm::Twine(config.headDim));
  return fields.getSize("max_position_embeddings", architecture.contextLength,
                        kMaxContext, config.contextLength);
}

/// Biases: `attention_bias` and `mlp_bias` of LLaMA, fixed in the others.
static llvm::Error parseBiases(const JsonFields &fields,
                               const Architecture &architecture,
                               LlamaConfig &config) {
  if (!architecture.hasBiasKeys) {
    config.attentionBias = architecture.name == "Qwen2ForCausalLM";
    return llvm::Error::success();
  }
  if (llvm::Error error =
          fields.getBool("attention_bias", config.attentionBias))
    return error;
  config.outputBias = config.attentionBias;
  return fields.getBool("mlp_bias", config.mlpBias);
}

//===----------------------------------------------------------------------===//
// Windows
//===----------------------------------------------------------------------===//

/// Whether each layer has a window, by `layer_types`.
static llvm::Expected<llvm::SmallVector<bool>>
parseLayerTypes(const llvm::json::Value &value, int64_t layers) {
  const llvm::json::Array *types = value.getAsArray();
  if (!types || static_cast<int64_t>(types->size()) != layers)
    return llvm::createStringError(
        "'layer_types' must name a type for each of " + llvm::Twine(layers) +
        " layers, got " + printValue(value));
  llvm::SmallVector<bool> slides;
  for (const llvm::json::Value &type : *types) {
    llvm::StringRef name = type.getAsString().value_or("");
    if (name != "sliding_attention" && name != "full_attention")
      return llvm::createStringError(
          "'layer_types': " + printValue(type) +
          " is not supported, only full_attention and sliding_attention");
    slides.push_back(name == "sliding_attention");
  }
  return slides;
}

/// Qwen2: the layers from `max_window_layers` on, or those of `layer_types`.
static llvm::Expected<llvm::SmallVector<bool>>
findSlidingLayers(const JsonFields &fields, const LlamaConfig &config) {
  if (const llvm::json::Value *types = fields.find("layer_types"))
    return parseLayerTypes(*types, config.layers);
  int64_t first = kAbsentWindowLayers;
  if (const llvm::json::Value *value = fields.find("max_window_layers")) {
    std::optional<int64_t> number = value->getAsInteger();
    if (!number || *number < 0 || *number > kMaxLayers)
      return llvm::createStringError(
          "'max_window_layers' must be an integer from 0 to " +
          llvm::Twine(kMaxLayers) + ", got " + printValue(*value));
    first = *number;
  }
  llvm::SmallVector<bool> slides(config.layers);
  for (int64_t layer = first; layer < config.layers; ++layer)
    slides[layer] = true;
  return slides;
}

/// `sliding_window`: all layers of Mistral, some of Qwen2 if
/// `use_sliding_window` says so. LLaMA has none.
static llvm::Error parseWindows(const JsonFields &fields,
                                const Architecture &architecture,
                                LlamaConfig &config) {
  bool isMistral = architecture.name == "MistralForCausalLM";
  bool isQwen = architecture.name == "Qwen2ForCausalLM";
  bool isUsed = isMistral;
  if (isQwen)
    if (llvm::Error error = fields.getBool("use_sliding_window", isUsed))
      return error;
  // Null means none.
  if (fields.has("sliding_window") && !fields.find("sliding_window"))
    isUsed = false;
  int64_t window = 0;
  if (isUsed)
    if (llvm::Error error = fields.getSize("sliding_window", kAbsentWindow,
                                           kMaxContext, window))
      return error;
  llvm::SmallVector<bool> slides(config.layers, isMistral);
  if (isQwen) {
    llvm::Expected<llvm::SmallVector<bool>> layers =
        findSlidingLayers(fields, config);
    if (!layers)
      return layers.takeError();
    slides = std::move(*layers);
    if (!isUsed && fields.find("layer_types") &&
        llvm::is_contained(slides, true))
      return llvm::createStringError(
          "'layer_types' names sliding_attention, but there is no window: "
          "'use_sliding_window' is false or 'sliding_window' null");
  } else if (isMistral && fields.find("layer_types")) {
    // The architecture ignores them in transformers; elsewhere they count.
    llvm::Expected<llvm::SmallVector<bool>> layers =
        parseLayerTypes(*fields.find("layer_types"), config.layers);
    if (!layers)
      return layers.takeError();
    if (llvm::is_contained(*layers, !isUsed))
      return llvm::createStringError(
          "'layer_types' of MistralForCausalLM must all be " +
          llvm::Twine(isUsed ? "sliding_attention" : "full_attention") +
          ", as 'sliding_window' says");
  }
  if (!isUsed || !llvm::is_contained(slides, true))
    return llvm::Error::success();
  for (bool has : slides)
    config.windows.push_back(has ? window : 0);
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Tokens
//===----------------------------------------------------------------------===//

static llvm::Error parseTokenIds(const JsonFields &fields,
                                 LlamaConfig &config) {
  auto check = [&](llvm::StringRef key, const llvm::json::Value &value,
                   int64_t &token) -> llvm::Error {
    std::optional<int64_t> integer = value.getAsInteger();
    if (!integer || *integer < 0 || *integer >= config.vocabularySize)
      return llvm::createStringError("'" + key +
                                     "': a token id must be from 0 to " +
                                     llvm::Twine(config.vocabularySize - 1) +
                                     ", got " + printValue(value));
    token = *integer;
    return llvm::Error::success();
  };
  if (const llvm::json::Value *bos = fields.find("bos_token_id")) {
    int64_t token = 0;
    if (llvm::Error error = check("bos_token_id", *bos, token))
      return error;
    config.bosToken = token;
  }
  const llvm::json::Value *eos = fields.find("eos_token_id");
  if (!eos)
    return llvm::Error::success();
  llvm::json::Array single;
  const llvm::json::Array *tokens = eos->getAsArray();
  if (!tokens) {
    single.push_back(*eos);
    tokens = &single;
  }
  if (tokens->size() > kMaxEosTokens)
    return llvm::createStringError("'eos_token_id': more than " +
                                   llvm::Twine(kMaxEosTokens) + " token ids");
  config.eosTokens.clear();
  for (const llvm::json::Value &value : *tokens) {
    int64_t token = 0;
    if (llvm::Error error = check("eos_token_id", value, token))
      return error;
    config.eosTokens.push_back(token);
  }
  return llvm::Error::success();
}

/// The object that describes the scaling, in the old or the new spelling. As in
/// transformers, `rope_scaling` wins over `rope_parameters`.
static llvm::Expected<const llvm::json::Object *>
findRopeObject(const JsonFields &fields) {
  for (llvm::StringRef key : {"rope_scaling", "rope_parameters"}) {
    const llvm::json::Value *value = fields.find(key);
    if (!value)
      continue;
    const llvm::json::Object *object = value->getAsObject();
    if (!object)
      return llvm::createStringError("'" + key + "' must be an object, got " +
                                     printValue(*value));
    if (!object->empty())
      return object;
  }
  return nullptr;
}

static llvm::Error parseScaling(const JsonFields &fields,
                                const JsonFields &ropeFields,
                                LlamaConfig &config) {
  RopeScaling &rope = config.rope;
  llvm::Expected<std::string> oldType = ropeFields.getString("type", "default");
  if (!oldType)
    return oldType.takeError();
  llvm::Expected<std::string> type =
      ropeFields.getString("rope_type", *oldType);
  if (!type)
    return type.takeError();
  if (*type == "default")
    return llvm::Error::success();
  if (*type != "linear" && *type != "llama3")
    return llvm::createStringError(
        "rotary scaling " + quoteName(*type) +
        " is not supported, only default, linear and llama3");
  if (llvm::Error error =
          ropeFields.getReal("factor", std::nullopt, 1.0, 1e6, rope.factor))
    return error;
  if (*type == "linear") {
    rope.kind = RopeScaling::Kind::Linear;
    return llvm::Error::success();
  }
  rope.kind = RopeScaling::Kind::Llama3;
  if (llvm::Error error = ropeFields.getReal(
          "low_freq_factor", std::nullopt, 1e-3, 1e6, rope.lowFrequencyFactor))
    return error;
  if (llvm::Error error =
          ropeFields.getReal("high_freq_factor", std::nullopt, 1e-3, 1e6,
                             rope.highFrequencyFactor))
    return error;
  if (rope.highFrequencyFactor <= rope.lowFrequencyFactor)
    return llvm::createStringError(
        "'high_freq_factor' must be over 'low_freq_factor', got " +
        printNumber(rope.highFrequencyFactor) + " and " +
        printNumber(rope.lowFrequencyFactor));
  // The top level wins over the object, which wins over the context length.
  llvm::StringRef key = "original_max_position_embeddings";
  const JsonFields &source = fields.find(key) ? fields : ropeFields;
  return source.getSize(key, config.contextLength, kMaxContext,
                        rope.originalContextLength);
}

static llvm::Error parseRope(const JsonFields &fields, LlamaConfig &config) {
  static const llvm::json::Object none;
  llvm::Expected<const llvm::json::Object *> object = findRopeObject(fields);
  if (!object)
    return object.takeError();
  const JsonFields ropeFields(*object ? **object : none);
  if (llvm::Error error =
          fields.getReal("rope_theta", 10000.0, 1.0, 1e12, config.rope.theta))
    return error;
  if (llvm::Error error = ropeFields.getReal("rope_theta", config.rope.theta,
                                             1.0, 1e12, config.rope.theta))
    return error;
  for (const JsonFields *place : {&fields, &ropeFields}) {
    double partial = 1.0;
    if (llvm::Error error =
            place->getReal("partial_rotary_factor", 1.0, 0.0, 1.0, partial))
      return error;
    if (partial != 1.0)
      return llvm::createStringError(
          "'partial_rotary_factor' other than 1 is not supported, got " +
          printNumber(partial));
  }
  return parseScaling(fields, ropeFields, config);
}

llvm::Expected<LlamaConfig> parseLlamaConfig(const llvm::json::Value &value) {
  const llvm::json::Object *object = value.getAsObject();
  if (!object)
    return llvm::createStringError("expected an object");
  JsonFields fields(*object);
  LlamaConfig config;
  llvm::Expected<const Architecture *> found = findArchitecture(fields);
  if (!found)
    return found.takeError();
  const Architecture &architecture = **found;
  config.architecture = architecture.name;
  if (llvm::Error error = checkFeatures(fields))
    return std::move(error);
  if (llvm::Error error = parseSizes(fields, architecture, config))
    return std::move(error);
  if (llvm::Error error = parseBiases(fields, architecture, config))
    return std::move(error);
  if (llvm::Error error = parseWindows(fields, architecture, config))
    return std::move(error);
  // The lower bound keeps the epsilon positive when it is rounded to f32.
  if (llvm::Error error =
          fields.getReal("rms_norm_eps", 1e-6, 1e-30, 1.0, config.epsilon))
    return std::move(error);
  if (llvm::Error error =
          fields.getBool("tie_word_embeddings", config.tiedEmbeddings))
    return std::move(error);
  if (llvm::Error error = parseRope(fields, config))
    return std::move(error);
  // Absent ids are those that transformers gives; null means none.
  bool hasIds = architecture.hasBeginAndEnd;
  if (hasIds && !fields.has("bos_token_id") && config.vocabularySize > 1)
    config.bosToken = 1;
  if (hasIds && !fields.has("eos_token_id") && config.vocabularySize > 2)
    config.eosTokens = {2};
  if (llvm::Error error = parseTokenIds(fields, config))
    return std::move(error);
  return config;
}

llvm::Error applyGenerationConfig(const llvm::json::Value &generation,
                                  LlamaConfig &config) {
  const llvm::json::Object *object = generation.getAsObject();
  if (!object)
    return llvm::createStringError("expected an object");
  return parseTokenIds(JsonFields(*object), config);
}

} // namespace mlir::qlm
