//===- LowerGraph.h - Lowers a whole graph to one host function -*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// For graphs of any kind (ONNX), whose shapes may depend on data: no step plan,
// no kernels of ours, but a function from tensors to tensors.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_LOWERGRAPH_H
#define QLM_LOWER_LOWERGRAPH_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/StringRef.h"

namespace mlir::qlm {

/// Attribute of a graph's module whose code should be small
/// (qlm/Package/ObjectFile.h).
inline constexpr llvm::StringLiteral kSmallCodeAttr = "qlm.small_code";

/// Registers what buildLowerGraphPipeline's passes need to know of dialects.
void registerGraphDialects(DialectRegistry &registry);

/// Lowers `func @graph` (tensors in, tensors out) to the LLVM dialect, with a
/// wrapper `_mlir_ciface_graph` that takes pointers to descriptors. Its packed
/// linears run as kernels for \p targetCpu.
void buildLowerGraphPipeline(OpPassManager &pm, llvm::StringRef targetCpu);

/// Adds to \p module, as the pipeline left it, the entry that the runtime calls
/// (qlm/Package/GraphFormat.h) and what the code is compiled for: \p targetCpu,
/// a processor's name as qlm-emit-cpu-kernels takes it. `qlm.stage` becomes
/// "lower". Emits an error and fails for an unknown processor.
LogicalResult emitGraphEntry(ModuleOp module, llvm::StringRef targetCpu);

} // namespace mlir::qlm

#endif // QLM_LOWER_LOWERGRAPH_H
