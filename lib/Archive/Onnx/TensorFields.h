//===- TensorFields.h - Finds tensors' bytes in a serialized model *- C++ -*-=//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A parser of messages copies what they hold. So the bytes of a graph's
// initializers are cut out before, and stay in the mapped file.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_ARCHIVE_ONNX_TENSORFIELDS_H
#define QLM_LIB_ARCHIVE_ONNX_TENSORFIELDS_H

#include "llvm/ADT/StringRef.h"

#include <optional>
#include <string>
#include <vector>

namespace mlir::qlm {

/// A serialized model in parts that together mean the same.
struct ModelParts {
  struct Initializer {
    /// The tensor without `raw_data`, if that was cut out.
    std::string message;
    /// `raw_data`, in the model's bytes; a null pointer where it wasn't cut.
    llvm::StringRef bytes;
  };
  /// The model without its graph, the graph without its initializers.
  std::string model, graph;
  bool hasGraph = false;
  std::vector<Initializer> initializers;
};

/// Cuts \p bytes, a serialized onnx.ModelProto. Initializers of less than
/// \p leastBytes stay whole. Nothing where the bytes are malformed.
std::optional<ModelParts> cutModel(llvm::StringRef bytes, size_t leastBytes);

} // namespace mlir::qlm

#endif // QLM_LIB_ARCHIVE_ONNX_TENSORFIELDS_H
