//===- Manifest.cpp - What a package says of itself -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Manifest.h"

#include "FieldReader.h"
#include "ManifestLaunches.h"
#include "ManifestRules.h"
#include "qlm/Package/Format.h"

#include <algorithm>

using namespace qlm;
using tokenizer::Json;
using tokenizer::JsonNode;

/// A checksum's 16 lower-case hex digits.
static std::string readChecksum(FieldReader &reader, const char *key) {
  std::string text = reader.string(key);
  bool wellFormed =
      text.size() == 16 &&
      text.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (reader.ok() && !wellFormed)
    reader.fail(std::string(key) + " must be 16 hex digits, is '" + text + "'");
  return text;
}

/// A file name without a folder: a package refers to nothing outside itself.
static void checkFileName(FieldReader &reader, const std::string &name) {
  if (reader.ok() && (name.empty() || name == "." || name == ".." ||
                      name.find('/') != std::string::npos ||
                      name.find('\0') != std::string::npos))
    reader.fail("'" + name + "' is not the name of a file in the package");
}

static int32_t readTokenId(FieldReader &reader, const Json &value,
                           int64_t vocabularySize) {
  std::optional<int32_t> id = tokenizer::readTokenId(value);
  if (id && *id < vocabularySize)
    return *id;
  reader.fail("token id must be below the vocabulary size " +
              std::to_string(vocabularySize) + ", is " + value.dump());
  return 0;
}

static ModelInfo readModel(FieldReader reader) {
  ModelInfo model;
  model.architecture = reader.string("architecture");
  model.name = reader.string("name");
  model.vocabularySize =
      reader.integer("vocabulary_size", 1, tokenizer::maxTokenId);
  model.hiddenSize = reader.integer("hidden_size", 1, maxDimension);
  model.layers = reader.integer("layers", 1, 10000);
  model.heads = reader.integer("heads", 1, 65536);
  model.kvHeads = reader.integer("kv_heads", 1, 65536);
  model.headDim = reader.integer("head_dim", 1, 65536);
  model.intermediateSize = reader.integer("intermediate_size", 1, maxDimension);
  model.contextLength = reader.integer("context_length", 1, int64_t{1} << 30);
  model.parameters = reader.integer("parameters", 0, maxBytes);
  if (reader.has("bos_token_id"))
    model.bosTokenId =
        readTokenId(reader, (*reader)["bos_token_id"], model.vocabularySize);
  for (FieldReader &id : reader.list("eos_token_ids"))
    model.eosTokenIds.push_back(readTokenId(id, *id, model.vocabularySize));
  return model;
}

static QuantizationInfo readQuantization(FieldReader reader) {
  QuantizationInfo info;
  info.weights = reader.string("weights");
  info.scheme = reader.string("scheme");
  info.activations = reader.string("activations");
  info.method = reader.string("method");
  return info;
}

/// A file of the package with its size and checksum.
static FileInfo readFileInfo(FieldReader &reader, int64_t leastBytes) {
  FileInfo info;
  info.file = reader.string("file");
  checkFileName(reader, info.file);
  info.bytes = reader.integer("bytes", leastBytes, maxBytes);
  info.checksum = readChecksum(reader, "checksum");
  return info;
}

/// "sm_90" or "sm_90a".
static std::string readChip(FieldReader &reader) {
  std::string chip = reader.string("chip");
  size_t digits = chip.find_first_not_of("0123456789", 3);
  std::string suffix = digits == std::string::npos ? "" : chip.substr(digits);
  size_t count = chip.size() - suffix.size();
  if (reader.ok() && (chip.rfind("sm_", 0) != 0 || count < 5 || count > 6 ||
                      (!suffix.empty() && suffix != "a" && suffix != "f")))
    reader.fail("chip '" + chip + "' is not like sm_80 or sm_90a");
  return chip;
}

static GpuModule readGpuModule(FieldReader &reader) {
  GpuModule module;
  module.chip = readChip(reader);
  module.file = readFileInfo(reader, 1);
  if (!reader.ok() || !reader.has("kernels"))
    return module;
  FieldReader kernels = reader.object("kernels");
  if (!reader.ok())
    return module;
  for (const auto &member : (*kernels).items()) {
    FieldReader took = kernels.object(member.key().c_str());
    KernelResources resources;
    resources.kernel = member.key();
    resources.registers = took.integer("registers", 0, 65536);
    resources.spillBytes = took.integer("spill_bytes", 0, maxBytes);
    resources.stackBytes = took.integer("stack_bytes", 0, maxBytes);
    resources.sharedBytes = took.integer("shared_bytes", 0, maxBytes);
    module.kernels.push_back(std::move(resources));
  }
  return module;
}

static void readGpuModules(FieldReader &reader, TargetInfo &target) {
  for (FieldReader &chip : reader.list("chips"))
    target.chips.push_back(readGpuModule(chip));
  if (reader.has("ptx")) {
    FieldReader ptx = reader.object("ptx");
    target.ptx = readGpuModule(ptx);
    target.ptx->ptxVersion = ptx.integer("version", 10, 999);
  }
  if (reader.ok() && target.chips.empty() && !target.ptx)
    reader.fail("a cuda package needs code for some chip, or PTX");
}

static TargetInfo readTarget(FieldReader reader) {
  TargetInfo target;
  target.kind = reader.string("kind");
  if (target.isCuda()) {
    readGpuModules(reader, target);
    return target;
  }
  if (reader.ok() && target.kind != "cpu")
    reader.fail("target kind '" + target.kind +
                    "' is not handled, this runtime runs cpu and cuda",
                StatusCode::Unsupported);
  target.cpu = reader.string("cpu");
  for (FieldReader &feature : reader.list("features")) {
    if (!(*feature).is_string())
      feature.fail("must be a string");
    else
      target.features.push_back((*feature).get<std::string>());
  }
  target.module = reader.string("module");
  checkFileName(reader, target.module);
  target.moduleChecksum = readChecksum(reader, "module_checksum");
  target.moduleBytes = reader.integer("module_bytes", 1, maxBytes);
  return target;
}

static std::vector<FileInfo> readFiles(FieldReader reader) {
  std::vector<FileInfo> files;
  if (!reader.ok())
    return files;
  for (const auto &member : (*reader).items()) {
    FileInfo info;
    info.file = member.key();
    checkFileName(reader, info.file);
    info.checksum = readChecksum(reader, member.key().c_str());
    files.push_back(std::move(info));
  }
  return files;
}

static KvPlan readKvPlan(FieldReader reader) {
  KvPlan kv;
  kv.type = reader.string("type");
  kv.pageTokens = reader.integer("page_tokens", 1, 65536);
  kv.layers = reader.integer("layers", 1, 10000);
  kv.pages = reader.integer("pages", 1, INT32_MAX);
  kv.pageBytes = reader.integer("page_bytes", 1, maxBytes);
  kv.poolBytes = reader.integer("pool_bytes", 1, maxBytes);
  kv.bytesPerToken = reader.integer("bytes_per_token", 1, maxBytes);
  return kv;
}

static MemoryPlan readPlan(FieldReader reader, bool isCuda) {
  MemoryPlan plan;
  plan.maxBatch = reader.integer("max_batch", 1, 65536);
  plan.maxContext = reader.integer("max_context", 1, int64_t{1} << 30);
  plan.maxStepTokens = reader.integer("max_step_tokens", 1, maxDimension);
  plan.maxLogitRows = reader.integer("max_logit_rows", 1, maxDimension);
  plan.arenaBytes = reader.integer("arena_bytes", 0, maxBytes);
  if (!isCuda || reader.has("scratch_bytes"))
    plan.scratchBytes = reader.integer("scratch_bytes", 0, maxBytes);
  if (isCuda || reader.has("workspace_bytes"))
    plan.workspaceBytes = reader.integer("workspace_bytes", 0, maxBytes);
  plan.kv = readKvPlan(reader.object("kv"));
  plan.logitsBytes = reader.integer("logits_bytes", 1, maxBytes);
  plan.peakBytes = reader.integer("peak_bytes", 1, INT64_MAX);
  return plan;
}

Result<Manifest> qlm::parseManifest(std::string_view json,
                                    const std::string &name) {
  Result<Json> document = tokenizer::parseJson(json, name);
  if (!document.ok())
    return document.status();
  Status status;
  FieldReader root(JsonNode(*document, name + ":"), status);
  if (!(*root).is_object())
    root.fail(std::string("must be an object, is ") + (*root).type_name());
  root.checkFormat(format::kFormatName);

  Manifest manifest;
  if (root.has("checksum"))
    manifest.checksum = root.string("checksum");
  manifest.producer = root.string("producer");
  manifest.model = readModel(root.object("model"));
  manifest.quantization = readQuantization(root.object("quantization"));
  manifest.target = readTarget(root.object("target"));
  FieldReader weights = root.object("weights");
  manifest.weights = readFileInfo(weights, 8);
  manifest.files = readFiles(root.object("files"));
  bool isCuda = manifest.target.isCuda();
  manifest.plan = readPlan(root.object("plan"), isCuda);
  manifest.launches = readLaunches(root, "launches", isCuda);
  if (isCuda && root.has("sampling"))
    manifest.sampling = readLaunches(root, "sampling", isCuda);
  if (!status.ok())
    return status;
  QLM_RETURN_IF_ERROR(checkPlan(manifest, name));
  QLM_RETURN_IF_ERROR(checkLaunches(manifest, name));
  return manifest;
}
