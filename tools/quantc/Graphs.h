//===- Graphs.h - ONNX files of quantc's command line -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANTC_GRAPHS_H
#define QLM_TOOLS_QUANTC_GRAPHS_H

#include "qlm/Pipelines/Graph.h"

namespace mlir::qlm {

/// Adds what `--fix [NAME=]FILE` gives: an .npy needs the name, an .npz has
/// one for each of its arrays.
llvm::Error readFixedInputs(llvm::StringRef text, OnnxOptions &options);

struct BatchOptions {
  /// The list of models.
  std::string path;
  std::string targetCpu;
  std::string producer;
  /// See GraphOptions.
  bool quick = false;
  /// 0 means all of the machine's.
  int64_t threads = 0;
};

/// Compiles the models that the file lists, "MODEL<tab>PKG[<tab>FIXED.npz]" a
/// line, some at a time. Prints for each a line on standard output: "ok" or
/// "error", a tab, the model and, after another tab, the error. A model that
/// fails stops no other. Fails when the list can't be read.
llvm::Error compileBatch(const BatchOptions &options);

/// Runs the float graph that \p options compile on the inputs in the file
/// \p calibration, an .npz by their names (an array for a graph of one input),
/// and writes what int8-static needs to a temporary file, whose path it gives.
/// An array whose first dimension is a multiple of the one that the graph
/// takes is run in parts.
llvm::Expected<std::string> calibrateGraph(const GraphOptions &options,
                                           const std::string &calibration);

} // namespace mlir::qlm

#endif // QLM_TOOLS_QUANTC_GRAPHS_H
