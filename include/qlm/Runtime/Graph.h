//===- Graph.h - Runs the package of a graph --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What `quantc FILE.onnx` writes: one host function from tensors to tensors.
//
//   auto graph = qlm::Graph::load("mlp.qlm");
//   auto results = (*graph)->run({array});
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_GRAPH_H
#define QLM_RUNTIME_GRAPH_H

#include "qlm/Runtime/MappedMemory.h"
#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qlm {

/// Name, element type (NumPy's name, "float32") and shape of an input or
/// output; -1 for sizes known only at run time.
struct GraphTensor {
  std::string name;
  std::string type;
  std::vector<int64_t> shape;
};

/// A dense array in row-major order.
struct GraphArray {
  std::string type;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

/// Bytes of an element by its type's name; 0 for an unknown one.
int64_t graphElementBytes(std::string_view type);

class GraphThreads;

/// A loaded graph. Runs don't disturb each other, from any thread.
class Graph {
public:
  /// Loads the package at \p path; a run has \p threads threads, the caller's
  /// among them, or the caller's alone while another run has them. Errors:
  /// NotFound, Corrupt, Unsupported (a version, or a processor without the
  /// features), Io, InvalidArgument (no threads).
  static Result<std::unique_ptr<Graph>> load(const std::string &path,
                                             int threads = 1);
  ~Graph();

  const std::vector<GraphTensor> &inputs() const { return inputList; }
  const std::vector<GraphTensor> &outputs() const { return outputList; }

  /// Computes the outputs of \p inputs, in the order of inputs().
  /// Errors: InvalidArgument (another number, type, rank or size; bytes that
  /// don't fit the shape).
  Result<std::vector<GraphArray>>
  run(const std::vector<GraphArray> &inputs) const;

private:
  explicit Graph(int threads);
  Status readManifest(const std::string &path);
  Status openModule(const std::string &file, int64_t bytes,
                    const std::string &checksum);
  Status mapWeights(const std::string &file, int64_t bytes,
                    const std::string &checksum);

  struct Weight {
    std::string key;
    std::vector<int64_t> shape;
  };
  std::vector<GraphTensor> inputList, outputList;
  std::vector<Weight> weights;
  MappedMemory weightMemory;
  /// What the code is told of each weight; it only reads it.
  std::vector<std::vector<int64_t>> weightDescriptors;
  std::unique_ptr<GraphThreads> threads;
  void *module = nullptr;
  void (*function)(void **) = nullptr;
};

} // namespace qlm

#endif // QLM_RUNTIME_GRAPH_H
