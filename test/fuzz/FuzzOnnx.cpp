//===- FuzzOnnx.cpp - Random bytes as ONNX models -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/OnnxFile.h"

#include "onnx-ml.pb.h"

#include <cstdlib>

using namespace mlir::qlm;

/// Reads every initializer and every constant's attribute; what is read must
/// be as long as its dimensions say.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  llvm::StringRef bytes(reinterpret_cast<const char *>(data), size);
  auto file = OnnxFile::parse(bytes, /*folder=*/"");
  if (!file) {
    llvm::consumeError(file.takeError());
    return 0;
  }
  unsigned sum = 0;
  auto read = [&](const onnx::TensorProto &tensor) {
    auto elements = (*file)->getData(tensor);
    if (!elements) {
      llvm::consumeError(elements.takeError());
      return;
    }
    uint64_t expected = getOnnxElementBytes(tensor.data_type());
    for (int64_t dimension : tensor.dims())
      expected *= static_cast<uint64_t>(dimension);
    if (elements->size() != expected)
      std::abort();
    for (char byte : *elements)
      sum += static_cast<unsigned char>(byte);
  };
  for (const auto &tensor : (*file)->getModel().graph().initializer())
    read(tensor);
  for (const auto &node : (*file)->getModel().graph().node())
    for (const auto &attribute : node.attribute())
      read(attribute.t());
  return sum == ~0u ? 1 : 0;
}
