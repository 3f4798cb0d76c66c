//===- ManifestRules.cpp - What a manifest's numbers must agree on --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ManifestRules.h"

#include "qlm/Package/Format.h"

using namespace qlm;

namespace {
/// Products of sizes, exact or -1. Factors were range-checked to be positive.
int64_t multiply(int64_t a, int64_t b) {
  int64_t product;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product))
    return -1;
  return product;
}

Status mustEqual(const std::string &name, const char *field, int64_t is,
                 int64_t must, const char *rule) {
  if (is == must)
    return Status();
  return Status(StatusCode::Corrupt,
                name + ": plan." + field + " must be " + rule + " = " +
                    (must < 0 ? "more than 2^63" : std::to_string(must)) +
                    ", is " + std::to_string(is));
}

Status mustHold(const std::string &name, const char *field, int64_t is,
                int64_t least, const char *rule) {
  if (least >= 0 && is >= least)
    return Status();
  return Status(StatusCode::Corrupt,
                name + ": plan." + field + " must be at least " + rule + " = " +
                    std::to_string(least) + ", is " + std::to_string(is));
}
} // namespace

/// Bytes of one token's key or value of \p headDim features; 0 for a type
/// that isn't known.
static int64_t headRowBytes(const std::string &type, int64_t headDim) {
  if (type == "f32")
    return multiply(headDim, 4);
  if (type == "f16" || type == "bf16")
    return multiply(headDim, 2);
  // A byte a code, and an f32 scale.
  return type == "int8" || type == "fp8" ? headDim + 4 : 0;
}

Status qlm::checkPlan(const Manifest &manifest, const std::string &name) {
  const MemoryPlan &plan = manifest.plan;
  const KvPlan &kv = plan.kv;
  const ModelInfo &model = manifest.model;
  int64_t headRow = headRowBytes(kv.type, model.headDim);
  if (!headRow)
    return Status(StatusCode::Unsupported,
                  name + ": plan.kv.type '" + kv.type +
                      "' is not f32, f16, bf16, int8 or fp8");
  QLM_RETURN_IF_ERROR(mustHold(name, "max_logit_rows", plan.maxLogitRows,
                               plan.maxBatch, "max_batch"));
  QLM_RETURN_IF_ERROR(mustEqual(name, "kv.layers", kv.layers, model.layers,
                                "the model's layers"));
  int64_t unit = static_cast<int64_t>(format::kDeviceAlignment);
  if (manifest.target.isCuda() && kv.pageBytes % unit)
    return Status(StatusCode::Corrupt,
                  name + ": plan.kv.page_bytes must be a multiple of " +
                      std::to_string(unit) + " on cuda, is " +
                      std::to_string(kv.pageBytes));
  int64_t rowBytes = multiply(model.kvHeads, headRow);
  QLM_RETURN_IF_ERROR(
      mustEqual(name, "kv.page_bytes", kv.pageBytes,
                multiply(multiply(2, rowBytes), kv.pageTokens),
                "2 * kv_heads * bytes of a head * page_tokens"));
  QLM_RETURN_IF_ERROR(mustEqual(name, "kv.bytes_per_token", kv.bytesPerToken,
                                multiply(multiply(2, rowBytes), kv.layers),
                                "2 * kv_heads * bytes of a head * layers"));
  QLM_RETURN_IF_ERROR(
      mustEqual(name, "kv.pool_bytes", kv.poolBytes,
                multiply(multiply(kv.layers, kv.pages), kv.pageBytes),
                "layers * pages * page_bytes"));
  QLM_RETURN_IF_ERROR(
      mustHold(name, "kv.pages", kv.pages,
               multiply(plan.maxBatch, plan.maxPagesPerSequence()),
               "max_batch * ceil(max_context / page_tokens)"));
  return mustHold(
      name, "logits_bytes", plan.logitsBytes,
      multiply(multiply(plan.maxLogitRows, model.vocabularySize), 4),
      "max_logit_rows * vocabulary_size * 4");
}

/// Whether a buffer's \p offset lies inside \p bytes and is aligned.
static Status checkOffset(int64_t offset, int64_t bytes, const char *field,
                          bool isCuda, const std::string &where) {
  int64_t alignment = static_cast<int64_t>(isCuda ? format::kDeviceAlignment
                                                  : format::kAlignment);
  if (offset >= bytes)
    return Status(StatusCode::Corrupt, where + "offset must be below " + field +
                                           " " + std::to_string(bytes) +
                                           ", is " + std::to_string(offset));
  if (offset % alignment)
    return Status(StatusCode::Corrupt, where + "offset must be a multiple of " +
                                           std::to_string(alignment) + ", is " +
                                           std::to_string(offset));
  return Status();
}

static Status checkArgument(const LaunchArgument &argument,
                            const Manifest &manifest, bool isSampling,
                            const std::string &where) {
  auto mustBeBelow = [&](const char *what, int64_t limit) {
    if (argument.value < limit)
      return Status();
    return Status(StatusCode::Corrupt, where + what + " must be below " +
                                           std::to_string(limit) + ", is " +
                                           std::to_string(argument.value));
  };
  auto mustBeZero = [&](const char *what, bool isAllowed,
                        const char *otherwise) {
    if (isAllowed && argument.value == 0)
      return Status();
    return Status(StatusCode::Corrupt,
                  where + what +
                      (isAllowed
                           ? " takes 0, is " + std::to_string(argument.value)
                           : std::string(otherwise)));
  };
  const MemoryPlan &plan = manifest.plan;
  bool isCuda = manifest.target.isCuda();
  switch (argument.kind) {
  case LaunchArgumentKind::Weight:
    return Status();
  case LaunchArgumentKind::Arena:
    return checkOffset(argument.value, plan.arenaBytes, "arena_bytes", isCuda,
                       where);
  case LaunchArgumentKind::Workspace:
    return checkOffset(argument.value, plan.workspaceBytes, "workspace_bytes",
                       isCuda, where);
  case LaunchArgumentKind::Step:
    return mustBeBelow("step argument", format::kStepArgumentCount);
  case LaunchArgumentKind::Cache:
    return mustBeBelow("layer", plan.kv.layers);
  case LaunchArgumentKind::Logits:
    return mustBeZero("logits", true, "");
  case LaunchArgumentKind::Sampling:
    return mustBeZero("sampling", isSampling,
                      " is an argument of sampling launches only");
  case LaunchArgumentKind::Sampled:
    return mustBeZero("sampled", isSampling,
                      " is an argument of sampling launches only");
  }
  return Status();
}

/// Each chip must find a variant for the largest step, and with one row a
/// sequence or more.
static Status checkVariants(const Launch &launch, const Manifest &manifest,
                            const std::string &where) {
  const MemoryPlan &plan = manifest.plan;
  format::StepSizes largest = {plan.maxStepTokens, plan.maxBatch,
                               plan.maxLogitRows, 0};
  int64_t rows = sizeOf(launch.rows, largest);
  std::vector<std::string> chips;
  for (const GpuModule &module : manifest.target.chips)
    chips.push_back(module.chip);
  if (manifest.target.ptx)
    chips.push_back(manifest.target.ptx->chip);
  for (const std::string &chip : chips) {
    bool isCovered = false;
    for (const LaunchVariant &variant : launch.variants)
      isCovered |= (variant.chip.empty() || variant.chip == chip) &&
                   !variant.isDecodeOnly && variant.maxRows >= rows;
    if (!isCovered)
      return Status(StatusCode::Corrupt, where + "no variant runs " +
                                             std::to_string(rows) +
                                             " rows on " + chip);
  }
  return Status();
}

/// Checks the launches of the list \p key; whether one of them has an argument
/// of \p wanted goes to \p found.
static Status checkList(const std::vector<Launch> &launches, const char *key,
                        LaunchArgumentKind wanted, const Manifest &manifest,
                        const std::string &name, bool &found) {
  bool isSampling = &launches == &manifest.sampling;
  for (size_t i = 0; i < launches.size(); ++i) {
    const Launch &launch = launches[i];
    std::string where = name + ": " + key + "[" + std::to_string(i) + "]";
    for (size_t j = 0; j < launch.arguments.size(); ++j) {
      const LaunchArgument &argument = launch.arguments[j];
      QLM_RETURN_IF_ERROR(
          checkArgument(argument, manifest, isSampling,
                        where + ".args[" + std::to_string(j) + "]: "));
      found |= argument.kind == wanted;
    }
    if (manifest.target.isCuda())
      QLM_RETURN_IF_ERROR(checkVariants(launch, manifest, where + ": "));
  }
  return Status();
}

Status qlm::checkLaunches(const Manifest &manifest, const std::string &name) {
  bool writesLogits = false, writesSampled = manifest.sampling.empty();
  QLM_RETURN_IF_ERROR(checkList(manifest.launches, "launches",
                                LaunchArgumentKind::Logits, manifest, name,
                                writesLogits));
  QLM_RETURN_IF_ERROR(checkList(manifest.sampling, "sampling",
                                LaunchArgumentKind::Sampled, manifest, name,
                                writesSampled));
  if (!writesLogits)
    return Status(StatusCode::Corrupt, name + ": no launch writes the logits");
  if (!writesSampled)
    return Status(StatusCode::Corrupt,
                  name + ": no launch writes the sampled tokens");
  return Status();
}
