//===- LlamaBuilder.cpp - Writes a LLaMA as IR ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LlamaBuilder.h"

#include <cmath>

namespace mlir::qlm {

LlamaBuilder::LlamaBuilder(ModuleOp module, const LlamaConfig &config,
                           const ImportOptions &options)
    : builder(OpBuilder::atBlockEnd(module.getBody())), config(config),
      options(options),
      // As transformers computes it: in f64, rounded where it meets a tensor.
      scale(static_cast<float>(1.0 /
                               std::sqrt(static_cast<double>(config.headDim)))),
      location(module.getLoc()) {}

void LlamaBuilder::setLocation(StringRef part) {
  location = NameLoc::get(builder.getStringAttr(layerLabel + part));
}

RankedTensorType LlamaBuilder::getActivationType(int64_t features) {
  return RankedTensorType::get({ShapedType::kDynamic, features},
                               builder.getF32Type());
}

static Type getElementType(ArchiveType type, Builder &builder) {
  return type == ArchiveType::F32   ? Type(builder.getF32Type())
         : type == ArchiveType::F16 ? Type(builder.getF16Type())
                                    : Type(builder.getBF16Type());
}

void LlamaBuilder::buildParameters(ArrayRef<ExpectedWeight> weights,
                                   const WeightFiles &files) {
  for (const ExpectedWeight &weight : weights) {
    const WeightFiles::Entry *entry = files.lookup(weight.name);
    auto type = RankedTensorType::get(
        weight.shape, getElementType(entry->tensor->type, builder));
    types[weight.name] = type;
    ParameterOp::create(builder, location, weight.name, type, entry->file,
                        entry->tensor->name);
  }
}

Value LlamaBuilder::load(StringRef name) {
  return LoadOp::create(builder, location, types.lookup(name), name);
}

Value LlamaBuilder::buildLinear(StringRef part, StringRef name, Value input,
                                bool hasBias) {
  setLocation(part);
  Value weight = load((name + ".weight").str());
  Value bias = hasBias ? load((name + ".bias").str()) : Value();
  int64_t features = cast<RankedTensorType>(weight.getType()).getDimSize(0);
  return LinearOp::create(builder, location, getActivationType(features), input,
                          weight, bias, /*residual=*/Value());
}

Value LlamaBuilder::buildNorm(StringRef part, StringRef name, Value input) {
  setLocation(part);
  Value weight = load(name);
  return RmsNormOp::create(
      builder, location, input.getType(), input, weight,
      builder.getF32FloatAttr(static_cast<float>(config.epsilon)));
}

Value LlamaBuilder::buildAttention(Value query, Value key, Value value) {
  return AttentionOp::create(builder, location, query.getType(), query, key,
                             value, builder.getI64IntegerAttr(config.heads),
                             builder.getI64IntegerAttr(config.kvHeads),
                             builder.getF32FloatAttr(scale),
                             builder.getUnitAttr(), window);
}

Value LlamaBuilder::buildPlainAttention(Value query, Value key, Value value) {
  auto headsType = RankedTensorType::get(
      {config.heads, ShapedType::kDynamic, config.headDim},
      builder.getF32Type());
  auto scoresType = RankedTensorType::get(
      {config.heads, ShapedType::kDynamic, ShapedType::kDynamic},
      builder.getF32Type());
  auto split = [&](Value input, int64_t repeat) -> Value {
    return SplitHeadsOp::create(builder, location, headsType, input,
                                builder.getI64IntegerAttr(repeat));
  };
  const int64_t repeat = config.heads / config.kvHeads;
  Value queryHeads = split(query, 1);
  Value keyHeads = split(key, repeat);
  Value valueHeads = split(value, repeat);
  Value scores = MatmulOp::create(builder, location, scoresType, queryHeads,
                                  keyHeads, builder.getUnitAttr());
  scores = ScaleOp::create(builder, location, scoresType, scores,
                           builder.getF32FloatAttr(scale));
  scores = CausalMaskOp::create(builder, location, scoresType, scores, window);
  scores = SoftmaxOp::create(builder, location, scoresType, scores);
  Value mixed = MatmulOp::create(builder, location, headsType, scores,
                                 valueHeads, /*transposeRhs=*/UnitAttr());
  return MergeHeadsOp::create(builder, location, query.getType(), mixed);
}

Value LlamaBuilder::buildMlp(Value input, StringRef prefix) {
  std::string mlp = (prefix + "mlp.").str();
  Value gate = buildLinear("gate", mlp + "gate_proj", input, config.mlpBias);
  Value up = buildLinear("up", mlp + "up_proj", input, config.mlpBias);
  setLocation("swiglu");
  Value activated = SiluOp::create(builder, location, gate.getType(), gate);
  Value gated = MulOp::create(builder, location, gate.getType(), activated, up);
  return buildLinear("down", mlp + "down_proj", gated, config.mlpBias);
}

Value LlamaBuilder::buildLayer(int64_t layer, Value input) {
  layerLabel = ("layers." + Twine(layer) + ".").str();
  std::string prefix = "model." + layerLabel;
  std::string attention = prefix + "self_attn.";
  const bool bias = config.attentionBias;

  Value normed =
      buildNorm("attention_norm", prefix + "input_layernorm.weight", input);
  Value query = buildLinear("q", attention + "q_proj", normed, bias);
  Value key = buildLinear("k", attention + "k_proj", normed, bias);
  Value value = buildLinear("v", attention + "v_proj", normed, bias);
  setLocation("rope");
  query = RopeOp::create(builder, location, query.getType(), query, positions,
                         frequencies);
  key = RopeOp::create(builder, location, key.getType(), key, positions,
                       frequencies);
  setLocation("attention");
  int64_t keys = config.windowOf(layer);
  window = keys ? builder.getI64IntegerAttr(keys) : IntegerAttr();
  Value mixed = options.plainOps ? buildPlainAttention(query, key, value)
                                 : buildAttention(query, key, value);
  Value output =
      buildLinear("o", attention + "o_proj", mixed, config.outputBias);
  Value middle =
      AddOp::create(builder, location, input.getType(), input, output);

  normed =
      buildNorm("mlp_norm", prefix + "post_attention_layernorm.weight", middle);
  Value down = buildMlp(normed, prefix);
  Value result =
      AddOp::create(builder, location, middle.getType(), middle, down);
  layerLabel.clear();
  return result;
}

void LlamaBuilder::buildForward() {
  OpBuilder::InsertionGuard guard(builder);
  auto indices =
      RankedTensorType::get({ShapedType::kDynamic}, builder.getI32Type());
  Type logitsType = getActivationType(config.vocabularySize);
  auto function = func::FuncOp::create(
      builder, location, kForwardName,
      builder.getFunctionType({indices, indices}, {logitsType}));
  builder.setInsertionPointToStart(function.addEntryBlock());
  Value tokens = function.getArgument(0);
  positions = function.getArgument(1);

  setLocation("rope");
  std::vector<float> angles =
      computeInverseFrequencies(config.rope, config.headDim);
  auto anglesType = RankedTensorType::get({static_cast<int64_t>(angles.size())},
                                          builder.getF32Type());
  frequencies = arith::ConstantOp::create(
      builder, location,
      DenseElementsAttr::get(anglesType, ArrayRef<float>(angles)));

  setLocation("embedding");
  Value table = load("model.embed_tokens.weight");
  Value state = EmbeddingOp::create(
      builder, location, getActivationType(config.hiddenSize), tokens, table);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    state = buildLayer(layer, state);
  state = buildNorm("norm", "model.norm.weight", state);
  Value logits = buildLinear(
      "lm_head", config.tiedEmbeddings ? "model.embed_tokens" : "lm_head",
      state, /*hasBias=*/false);
  func::ReturnOp::create(builder, location, logits);
}

} // namespace mlir::qlm
