//===- FuzzConfig.cpp - Fuzzes the reader of config.json ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/Json.h"
#include "qlm/Import/LlamaConfig.h"

#include <cmath>
#include <cstdlib>

using namespace mlir::qlm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  auto json = parseBoundedJson(
      llvm::StringRef(reinterpret_cast<const char *>(data), size));
  if (!json) {
    llvm::consumeError(json.takeError());
    return 0;
  }
  auto config = parseLlamaConfig(*json);
  if (!config) {
    llvm::consumeError(config.takeError());
    return 0;
  }
  if (config->heads < 1 || config->heads % config->kvHeads != 0 ||
      config->headDim % 2 != 0)
    std::abort();
  for (float frequency :
       computeInverseFrequencies(config->rope, config->headDim))
    if (!std::isfinite(frequency) || frequency < 0)
      std::abort();
  llvm::consumeError(applyGenerationConfig(*json, *config));
  return 0;
}
