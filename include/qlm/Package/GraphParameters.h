//===- GraphParameters.h - Parameters of a graph's linears ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A graph's weights lie in an ONNX file, in whatever order its operators want
// them. Those of linears become `qlm.parameter`s, so that Quantize and Package
// do with them what they do with a decoder's:
//
//   auto parameters = GraphParameters::extract(module, file);
//   ... the Quantize pipeline ...
//   (*parameters)->bind(module);       // packed weights become arguments
//   ... lowering, writeGraphPackage(..., **parameters) ...
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_GRAPHPARAMETERS_H
#define QLM_PACKAGE_GRAPHPARAMETERS_H

#include "mlir/IR/BuiltinOps.h"
#include "qlm/Archive/OnnxFile.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <string>

namespace mlir::qlm {

class GraphParameters {
public:
  /// Evaluates the weight and bias of each `qlm.linear` of @graph (weights of
  /// \p file and constants, permuted, reshaped or dequantized), keeps them in
  /// a temporary file, and puts `qlm.load`s in their place.
  static llvm::Expected<std::unique_ptr<GraphParameters>>
  extract(ModuleOp module, OnnxFile &file);
  /// Removes the temporary file.
  ~GraphParameters();

  /// Makes an argument of @graph of each parameter program that an operation
  /// other than a parameter's uses. Errors: two programs with one key.
  llvm::Error bind(ModuleOp module);

  /// What bind() found, to be evaluated; private to Package.
  struct Plan;
  Plan &getPlan() { return *plan; }

private:
  GraphParameters();

  std::string path;
  std::unique_ptr<Plan> plan;
};

} // namespace mlir::qlm

#endif // QLM_PACKAGE_GRAPHPARAMETERS_H
