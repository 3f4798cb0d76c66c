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

/// What the names of observed results begin with.
inline constexpr llvm::StringLiteral kGraphObserved = "observed:";

/// What compileGraph can be told.
struct GraphOptions {
  /// The ONNX file.
  std::string model;
  /// The package, or the file for IR when `to` is an earlier stage; "-" or
  /// nothing stands for standard output then.
  std::string output;
  /// Import, Quantize, Lower or Package.
  Stage to = Stage::Package;
  /// See CompileOptions.
  std::string targetCpu = "native";
  std::string producer = "qlm";
  /// How weights and inputs of linears are stored; see CompileOptions.
  std::string weights = "f32";
  std::string activations = "none";
  /// How int8-static finds ranges: minmax, average, percentile or entropy.
  std::string range = "minmax";
  /// What int8-static reads: `LABEL.absmax`, `.average_range` and
  /// `.thresholds` of the input of the linear that LABEL calls, as
  /// qlm/Calibrate/Calibrate.h describes them.
  std::string statistics;
  /// Whether the inputs of linears are results too, called by
  /// `kGraphObserved` and the linear's label: for calibration.
  bool observe = false;
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
