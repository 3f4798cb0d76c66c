//===- DecoderBuilder.h - Writes a graph's nodes as a model -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_OPTIMIZE_ONNX_DECODERBUILDER_H
#define QLM_LIB_OPTIMIZE_ONNX_DECODERBUILDER_H

#include "Evaluator.h"
#include "Matching.h"
#include "qlm/Dialect/Qlm.h"

#include "llvm/ADT/StringMap.h"

namespace mlir::qlm::onnxir {

/// How a value of the graph stands to the matrix `[tokens, features]` that it
/// becomes.
enum class Form {
  Matrix, ///< [batch, tokens, features], or [tokens, features]
  Split,  ///< [batch, tokens, heads, headDim]
  Heads,  ///< [batch, heads, tokens, headDim]
};

/// Translates nodes from the tokens to the logits. Each value becomes a matrix
/// of one sequence; reshapes between forms vanish.
class DecoderBuilder {
public:
  DecoderBuilder(ModuleOp module, func::FuncOp graph)
      : module(module), graph(graph), b(module.getContext()),
        evaluator(graph, getProbes(graph).first) {}

  /// Writes `func @forward` and the parameters; fails with a diagnostic.
  LogicalResult build();
  /// The folder's part of `qlm.model`.
  DictionaryAttr getConfig();

private:
  struct Raised {
    Value value;
    Form form = Form::Matrix;
    int64_t heads = 0;
  };

  FailureOr<Value> findLogits();
  SmallVector<Value> getOperands(NodeOp node);
  LogicalResult translateAll(Value last);
  LogicalResult translate(Value value);
  /// One function a group of operators; each fails with a diagnostic.
  FailureOr<Raised> translateNode(NodeOp node, Value result);
  FailureOr<Raised> translateEmbedding(NodeOp node);
  FailureOr<Raised> translateNorm(NodeOp node);
  FailureOr<Raised> translateProduct(NodeOp node);
  FailureOr<Raised> translateSum(NodeOp node);
  FailureOr<Raised> translateShape(NodeOp node, Value result);
  FailureOr<Raised> translateSplit(NodeOp node, Value result);
  FailureOr<Raised> translateRotary(NodeOp node);
  FailureOr<Raised> translateAttention(NodeOp node);

  /// The parameter behind \p value, loaded; null when it is none.
  Value loadWeight(Value value);
  FailureOr<Value> getFrequencies(NodeOp rotary);
  Raised *get(Value value);
  RankedTensorType getMatrixType(int64_t features);
  LogicalResult fail(NodeOp node, const Twine &message);
  /// Sizes that the probe gives \p value; empty when it gives none.
  ArrayRef<int64_t> getShape(Value value);

  ModuleOp module;
  func::FuncOp graph, forward;
  OpBuilder b;
  Evaluator evaluator;
  Value positions;
  llvm::DenseMap<Value, Raised> done;
  llvm::DenseMap<Operation *, ParameterOp> parameters;
  llvm::DenseMap<Operation *, SplitOp> splits;
  llvm::DenseMap<std::pair<Value, Value>, Value> frequencies;
  llvm::DenseSet<Value> caches;
};

/// Gives the operations of `func @forward` the labels of their layers and
/// parts, and the module its `qlm.model`. Fails, naming the layer, where the
/// operations aren't arranged as in a LLaMA.
LogicalResult labelDecoder(ModuleOp module, DictionaryAttr config);

/// Module attribute that Import makes of the folder beside the graph.
inline constexpr llvm::StringLiteral kConfigAttr = "qlm.config";

} // namespace mlir::qlm::onnxir

#endif // QLM_LIB_OPTIMIZE_ONNX_DECODERBUILDER_H
