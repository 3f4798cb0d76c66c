//===- GraphPackage.h - Writes a lowered graph as a package -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_GRAPHPACKAGE_H
#define QLM_PACKAGE_GRAPHPACKAGE_H

#include "mlir/IR/BuiltinOps.h"
#include "qlm/Archive/OnnxFile.h"
#include "qlm/Package/GraphParameters.h"
#include "qlm/Package/ObjectFile.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace mlir::qlm {

/// A tensor that goes in or out of a graph; -1 for open sizes.
struct GraphValue {
  std::string name;
  std::string type; ///< NumPy's name of the element type
  std::vector<int64_t> shape;
};

/// What a graph takes and gives.
struct GraphSignature {
  std::vector<GraphValue> inputs, weights, outputs;
};

/// Bytes of a package's files.
struct GraphSizes {
  int64_t weightBytes = 0;
  int64_t moduleBytes = 0;
};

/// The signature of `@graph` in \p module, before it is lowered.
GraphSignature getGraphSignature(ModuleOp module);

/// Writes \p module, lowered by buildLowerGraphPipeline, as the package
/// \p output; weights are evaluated by \p parameters or copied from
/// \p onnxFile. The folder appears complete or not at all. Errors are one line.
llvm::Expected<GraphSizes>
writeGraphPackage(ModuleOp module, const GraphSignature &signature,
                  OnnxFile &onnxFile, GraphParameters &parameters,
                  llvm::StringRef output, llvm::StringRef producer,
                  Effort effort);

} // namespace mlir::qlm

#endif // QLM_PACKAGE_GRAPHPACKAGE_H
