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

} // namespace mlir::qlm

#endif // QLM_TOOLS_QUANTC_GRAPHS_H
