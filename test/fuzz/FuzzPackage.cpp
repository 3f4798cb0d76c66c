//===- FuzzPackage.cpp - Fuzzes what is read of a package -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The input is taken as a manifest and as a safetensors file. What is accepted
// must hold what the code behind relies on.
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Manifest.h"
#include "qlm/Runtime/TensorTable.h"

#include <cstdint>
#include <cstdlib>
#include <vector>

static void check(bool holds) {
  if (!holds)
    std::abort();
}

static void readManifest(std::string_view text) {
  qlm::Result<qlm::Manifest> manifest = qlm::parseManifest(text, "fuzz");
  if (!manifest.ok()) {
    check(!manifest.status().message().empty());
    return;
  }
  const qlm::MemoryPlan &plan = manifest->plan;
  const qlm::KvPlan &kv = plan.kv;
  check(plan.maxBatch * plan.maxPagesPerSequence() <= kv.pages);
  check(kv.poolBytes / kv.pages / kv.layers == kv.pageBytes);
  check(plan.logitsBytes / manifest->model.vocabularySize / 4 >= plan.maxBatch);
  for (const qlm::Launch &launch : manifest->launches)
    for (const qlm::LaunchArgument &argument : launch.arguments) {
      if (argument.kind == qlm::LaunchArgumentKind::Arena)
        check(argument.value >= 0 && argument.value < plan.arenaBytes);
      if (argument.kind == qlm::LaunchArgumentKind::Cache)
        check(argument.value >= 0 && argument.value < kv.layers);
    }
}

static void readTensors(const uint8_t *data, size_t size) {
  qlm::Result<qlm::TensorTable> table =
      qlm::parseTensorTable(data, size, "fuzz");
  if (!table.ok()) {
    check(!table.status().message().empty());
    return;
  }
  for (const auto &[name, entry] : *table)
    check(entry.offset <= size && entry.bytes <= size - entry.offset);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  readManifest(std::string_view(reinterpret_cast<const char *>(data), size));
  readTensors(data, size);
  return 0;
}
