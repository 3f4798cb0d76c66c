//===- RotaryTables.h - Frequencies behind cosines and sines ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_OPTIMIZE_ONNX_ROTARYTABLES_H
#define QLM_LIB_OPTIMIZE_ONNX_ROTARYTABLES_H

#include "Evaluator.h"

#include <string>

namespace mlir::qlm::onnxir {

/// Frequencies, or why there are none.
struct Frequencies {
  std::vector<float> values;
  std::string problem;
};

/// The angles of a RotaryEmbedding by position and dimension, as numbers that
/// positions are multiplied by. Tables that are computed from angles give them
/// exactly; of others, the numbers are fitted.
Frequencies findFrequencies(func::FuncOp graph, NodeOp rotary);

/// The numbers `f` with `cos(p f)` and `sin(p f)` in row `p` of tables
/// `[positions, count]`.
Frequencies fitFrequencies(ArrayRef<double> cosines, ArrayRef<double> sines,
                           int64_t count, double tolerance);

} // namespace mlir::qlm::onnxir

#endif // QLM_LIB_OPTIMIZE_ONNX_ROTARYTABLES_H
