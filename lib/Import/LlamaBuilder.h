//===- LlamaBuilder.h - Writes a LLaMA as IR --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_LLAMABUILDER_H
#define QLM_LIB_IMPORT_LLAMABUILDER_H

#include "LlamaWeights.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Import/Import.h"

#include "mlir/IR/Builders.h"

namespace mlir::qlm {

/// Writes the parameters and the forward function of one model at the end of a
/// module's body. The weights were checked before.
class LlamaBuilder {
public:
  LlamaBuilder(ModuleOp module, const LlamaConfig &config,
               const ImportOptions &options);

  /// Declares `qlm.parameter`s for \p weights, found in \p files.
  void buildParameters(llvm::ArrayRef<ExpectedWeight> weights,
                       const WeightFiles &files);
  /// Writes `func @forward`.
  void buildForward();

private:
  /// All take and return activations `[tokens, features]`; \p part names the
  /// location inside of the layer.
  Value buildLayer(int64_t layer, Value input);
  Value buildAttention(Value query, Value key, Value value);
  Value buildPlainAttention(Value query, Value key, Value value);
  Value buildMlp(Value input, llvm::StringRef prefix);
  Value buildLinear(llvm::StringRef part, llvm::StringRef name, Value input,
                    bool hasBias);
  Value buildNorm(llvm::StringRef part, llvm::StringRef name, Value input);

  /// Makes \p part, with the prefix of the current layer, the location of what
  /// comes next.
  void setLocation(llvm::StringRef part);
  Value load(llvm::StringRef name);
  /// `[tokens, features]` f32.
  RankedTensorType getActivationType(int64_t features);

  OpBuilder builder;
  const LlamaConfig &config;
  const ImportOptions &options;
  float scale;
  Location location;
  std::string layerLabel;
  llvm::StringMap<RankedTensorType> types;
  Value positions, frequencies;
  /// Of the current layer, or null.
  IntegerAttr window;
};

} // namespace mlir::qlm

#endif // QLM_LIB_IMPORT_LLAMABUILDER_H
