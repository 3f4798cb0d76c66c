//===- Evaluator.h - What a graph's small values are ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Exporters spell shapes, positions and masks in ever new ways, of dozens of
// nodes. What such nodes mean is found by computing them: for a probe, a
// sequence of given sizes, every value has a shape, and those that depend on
// no weight have elements too.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_OPTIMIZE_ONNX_EVALUATOR_H
#define QLM_LIB_OPTIMIZE_ONNX_EVALUATOR_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "qlm/Dialect/Onnx.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SmallVector.h"

#include <memory>
#include <optional>
#include <vector>

namespace mlir::qlm::onnxir {

/// The sizes that an evaluation supposes: sequences of `past` tokens that a
/// cache holds and `tokens` new ones, none of them padding.
struct Probe {
  int64_t tokens = 5;
  int64_t past = 0;
  /// Sequences, all of the same sizes.
  int64_t batch = 1;
};

/// What an evaluation knows of a value.
struct Known {
  SmallVector<int64_t> shape;
  /// Elements in order, where they are known: f32 rounded to f32, booleans 0
  /// and 1.
  std::optional<std::vector<double>> values;
  /// Null where it isn't known; integers and booleans are never null.
  Type element;

  int64_t rank() const { return static_cast<int64_t>(shape.size()); }
  int64_t count() const;
  bool isInteger() const { return element && element.isIntOrIndex(); }
};

/// What an input of a decoder is, by its name.
enum class InputRole { Tokens, Positions, Mask, Past, Other };
InputRole getRole(StringRef name);

/// Evaluates values of one graph. Results stay valid as long as it lives.
class Evaluator {
public:
  Evaluator(func::FuncOp graph, Probe probe) : graph(graph), probe(probe) {}

  /// Null where nothing is known: an operator that isn't understood, or one
  /// whose result's shape depends on weights.
  const Known *get(Value value);
  /// The elements too, or null.
  const Known *getElements(Value value) {
    const Known *known = get(value);
    return known && known->values ? known : nullptr;
  }

  const Probe &getProbe() const { return probe; }

private:
  std::optional<Known> evaluate(Value value);
  std::optional<Known> evaluateInput(BlockArgument argument);

  func::FuncOp graph;
  Probe probe;
  llvm::DenseMap<Value, std::unique_ptr<Known>> results;
};

/// One node's first result; \p inputs has a null pointer for each absent one.
/// Nothing where the operator isn't understood.
std::optional<Known> evaluateNode(NodeOp node, unsigned result,
                                  ArrayRef<const Known *> inputs);
/// Two probes that differ in every size, for \p graph with a cache or without.
std::pair<Probe, Probe> getProbes(func::FuncOp graph);
/// Whether the graph has inputs for a cache.
bool hasCache(func::FuncOp graph);

/// The elements of a constant; nothing for types that aren't numbers.
std::optional<Known> readConstant(ElementsAttr elements);

} // namespace mlir::qlm::onnxir

#endif // QLM_LIB_OPTIMIZE_ONNX_EVALUATOR_H
