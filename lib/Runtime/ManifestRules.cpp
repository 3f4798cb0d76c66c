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

static int64_t elementBytes(const std::string &type) {
  if (type == "f32")
    return 4;
  return type == "f16" || type == "bf16" ? 2 : 0;
}

Status qlm::checkPlan(const Manifest &manifest, const std::string &name) {
  const MemoryPlan &plan = manifest.plan;
  const KvPlan &kv = plan.kv;
  const ModelInfo &model = manifest.model;
  int64_t element = elementBytes(kv.type);
  if (!element)
    return Status(StatusCode::Unsupported, name + ": plan.kv.type '" + kv.type +
                                               "' is not f32, f16 or bf16");
  QLM_RETURN_IF_ERROR(mustHold(name, "max_logit_rows", plan.maxLogitRows,
                               plan.maxBatch, "max_batch"));
  QLM_RETURN_IF_ERROR(mustEqual(name, "kv.layers", kv.layers, model.layers,
                                "the model's layers"));
  int64_t rowBytes = multiply(multiply(model.kvHeads, model.headDim), element);
  QLM_RETURN_IF_ERROR(
      mustEqual(name, "kv.page_bytes", kv.pageBytes,
                multiply(multiply(2, rowBytes), kv.pageTokens),
                "2 * kv_heads * head_dim * page_tokens * element size"));
  QLM_RETURN_IF_ERROR(
      mustEqual(name, "kv.bytes_per_token", kv.bytesPerToken,
                multiply(multiply(2, rowBytes), kv.layers),
                "2 * kv_heads * head_dim * layers * element size"));
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

static Status checkArgument(const LaunchArgument &argument,
                            const Manifest &manifest,
                            const std::string &where) {
  auto error = [&](const std::string &what) {
    return Status(StatusCode::Corrupt, where + what);
  };
  int64_t value = argument.value;
  switch (argument.kind) {
  case LaunchArgumentKind::Weight:
    return Status();
  case LaunchArgumentKind::Arena:
    if (value >= manifest.plan.arenaBytes)
      return error("offset must be below arena_bytes " +
                   std::to_string(manifest.plan.arenaBytes) + ", is " +
                   std::to_string(value));
    if (value % static_cast<int64_t>(format::kAlignment))
      return error("offset must be a multiple of " +
                   std::to_string(format::kAlignment) + ", is " +
                   std::to_string(value));
    return Status();
  case LaunchArgumentKind::Step:
    if (value >= format::kStepArgumentCount)
      return error("step argument must be below " +
                   std::to_string(format::kStepArgumentCount) + ", is " +
                   std::to_string(value));
    return Status();
  case LaunchArgumentKind::Cache:
    if (value >= manifest.plan.kv.layers)
      return error("layer must be below " +
                   std::to_string(manifest.plan.kv.layers) + ", is " +
                   std::to_string(value));
    return Status();
  case LaunchArgumentKind::Logits:
    if (value != 0)
      return error("logits takes 0, is " + std::to_string(value));
    return Status();
  }
  return Status();
}

Status qlm::checkLaunches(const Manifest &manifest, const std::string &name) {
  bool writesLogits = false;
  for (size_t i = 0; i < manifest.launches.size(); ++i) {
    const Launch &launch = manifest.launches[i];
    for (size_t j = 0; j < launch.arguments.size(); ++j) {
      const LaunchArgument &argument = launch.arguments[j];
      std::string where = name + ": launches[" + std::to_string(i) + "].args[" +
                          std::to_string(j) + "]: ";
      QLM_RETURN_IF_ERROR(checkArgument(argument, manifest, where));
      writesLogits |= argument.kind == LaunchArgumentKind::Logits;
    }
  }
  if (!writesLogits)
    return Status(StatusCode::Corrupt, name + ": no launch writes the logits");
  return Status();
}
