//===- ReadDecoder.cpp - A decoder from JSON ------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/Decoder.h"
#include "qlm/Runtime/Tokenizer/Normalizer.h"

namespace qlm::tokenizer {

Decoder::Decoder() {
  DecoderStep join;
  join.kind = DecoderStep::Kind::Join;
  steps.push_back(std::move(join));
}

Result<Decoder> Decoder::read(const JsonNode &node) {
  Decoder decoder;
  decoder.steps.clear();
  QLM_RETURN_IF_ERROR(decoder.readInto(node));
  bool fused = false;
  for (DecoderStep &step : decoder.steps) {
    step.fused = fused;
    fused = fused || step.kind == DecoderStep::Kind::Fuse ||
            step.kind == DecoderStep::Kind::ByteLevel;
  }
  return decoder;
}

static Status readStrip(const JsonNode &node, DecoderStep &step) {
  Result<std::string> content = node.getString("content");
  if (!content.ok())
    return content.status();
  step.content = content.take();
  if (step.content.empty() ||
      scalarLength(step.content[0]) != step.content.size())
    return node.error("content must be one character, is '" + step.content +
                      "'");
  Result<int64_t> start = node.getInteger("start", INT32_MAX);
  if (!start.ok())
    return start.status();
  Result<int64_t> stop = node.getInteger("stop", INT32_MAX);
  if (!stop.ok())
    return stop.status();
  step.stripStart = *start;
  step.stripStop = *stop;
  return Status();
}

Status Decoder::readInto(const JsonNode &node) {
  Result<std::string> type = node.getType();
  if (!type.ok())
    return type.status();
  DecoderStep step;
  if (*type == "Sequence") {
    Result<std::vector<JsonNode>> list = node.getList("decoders");
    if (!list.ok())
      return list.status();
    for (const JsonNode &inner : *list)
      QLM_RETURN_IF_ERROR(readInto(inner));
    return Status();
  }
  if (*type == "ByteLevel") {
    step.kind = DecoderStep::Kind::ByteLevel;
  } else if (*type == "ByteFallback") {
    step.kind = DecoderStep::Kind::ByteFallback;
  } else if (*type == "Fuse") {
    step.kind = DecoderStep::Kind::Fuse;
  } else if (*type == "Strip") {
    step.kind = DecoderStep::Kind::Strip;
    QLM_RETURN_IF_ERROR(readStrip(node, step));
  } else if (*type == "Replace") {
    step.kind = DecoderStep::Kind::Replace;
    QLM_RETURN_IF_ERROR(readReplace(node, step.pattern, step.content, growth));
  } else if (*type == "Metaspace") {
    step.kind = DecoderStep::Kind::Metaspace;
    PrependScheme scheme;
    QLM_RETURN_IF_ERROR(readMetaspace(node, step.content, scheme));
    step.dropsFirst = scheme != PrependScheme::Never;
  } else {
    return node.error("decoder '" + *type + "' is not handled",
                      StatusCode::Unsupported);
  }
  steps.push_back(std::move(step));
  return Status();
}

} // namespace qlm::tokenizer
