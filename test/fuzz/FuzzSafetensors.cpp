//===- FuzzSafetensors.cpp - Fuzzes the reader of weight files ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/Safetensors.h"

#include <cstdlib>

using namespace mlir::qlm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  auto tensors = parseSafetensors(llvm::ArrayRef(data, size), "fuzz");
  if (!tensors) {
    llvm::consumeError(tensors.takeError());
    return 0;
  }
  // What is accepted must lie within the file and cover its end.
  unsigned sum = 0;
  for (const ArchiveTensor &tensor : *tensors) {
    size_t bytes = getArchiveTypeBytes(tensor.type);
    for (int64_t dimension : tensor.shape)
      bytes *= static_cast<size_t>(dimension);
    if (bytes != tensor.data.size() || tensor.data.begin() < data ||
        tensor.data.end() > data + size)
      std::abort();
    for (uint8_t byte : tensor.data)
      sum += byte;
  }
  return sum == ~0u ? 1 : 0;
}
