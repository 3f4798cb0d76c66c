//===- FuzzOnnx.cpp - Random bytes as ONNX models -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Functions.h"
#include "PackedWeights.h"
#include "qlm/Archive/OnnxFile.h"

#include "onnx-ml.pb.h"

#include <cstdlib>

using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;

/// Writes out calls of functions, in the graph and in the branches of its
/// nodes, and unpacks the weights of MatMulNBits.
static void readNodes(OnnxFile &file) {
  const onnx::GraphProto &graph = file.getModel().graph();
  FunctionInliner inliner(file.getModel());
  if (llvm::Error error = inliner.initialize()) {
    llvm::consumeError(std::move(error));
    return;
  }
  auto nodes = inliner.inlineCalls(graph.node(), inliner.getMain());
  if (!nodes) {
    llvm::consumeError(nodes.takeError());
    return;
  }
  auto find = [&](const std::string &name) -> const onnx::TensorProto * {
    for (const auto &tensor : graph.initializer())
      if (tensor.name() == name)
        return &tensor;
    return nullptr;
  };
  for (const InlinedNode &node : *nodes) {
    for (const auto &attribute : node.proto->attribute())
      if (auto inner = inliner.inlineCalls(attribute.g().node(), *node.scope);
          !inner)
        llvm::consumeError(inner.takeError());
    if (node.proto->op_type() != "MatMulNBits")
      continue;
    auto weight = PackedWeight::read(*node.proto, file, find);
    if (!weight)
      llvm::consumeError(weight.takeError());
    else if (weight->dequantize(/*turned=*/false).size() !=
             static_cast<size_t>(weight->rows * weight->columns))
      std::abort();
  }
}

/// Reads every initializer and every constant's attribute; what is read must
/// be as long as its dimensions say. Then the nodes.
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
  readNodes(**file);
  return sum == ~0u ? 1 : 0;
}
