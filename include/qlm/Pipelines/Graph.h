//===- Graph.h - From an ONNX file to a package -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PIPELINES_GRAPH_H
#define QLM_PIPELINES_GRAPH_H

#include "qlm/Import/Onnx.h"
#include "qlm/Pipelines/Pipelines.h"

#include <string>

namespace mlir::qlm {

/// What compileGraph can be told.
struct GraphOptions {
  /// The ONNX file.
  std::string model;
  /// The package, or the file for IR when `to` is an earlier stage; "-" or
  /// nothing stands for standard output then.
  std::string output;
  /// Import, Lower or Package.
  Stage to = Stage::Package;
  /// See CompileOptions.
  std::string targetCpu = "native";
  std::string producer = "qlm";
  /// Less work for the optimizer: for graphs that run once.
  bool quick = false;
  /// Inputs that become constants, by name.
  OnnxOptions import;
};

/// Whether \p model is one file of ONNX's format, by its name.
bool isOnnxPath(llvm::StringRef model);

/// Compiles an ONNX file to a package that `qlm::Graph` runs. Errors are one
/// line; they name the node. An existing package is replaced; nothing
/// half-written is left.
llvm::Expected<CompileSummary> compileGraph(const GraphOptions &options);

} // namespace mlir::qlm

#endif // QLM_PIPELINES_GRAPH_H
