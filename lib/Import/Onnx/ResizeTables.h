//===- ResizeTables.h - Which elements a resized one is made of -*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_RESIZETABLES_H
#define QLM_LIB_IMPORT_ONNX_RESIZETABLES_H

#include "llvm/ADT/StringRef.h"

#include <cstdint>
#include <vector>

namespace mlir::qlm::onnx_import {

/// How Resize changes one axis. Names and formulas are the standard's
/// (Resize-19).
struct ResizeAxis {
  int64_t input = 0, output = 0; ///< sizes
  double scale = 1;              ///< of the coordinates; output may be rounded
  double start = 0, end = 1;     ///< of the region, for tf_crop_and_resize
  llvm::StringRef mode;          ///< nearest, linear, cubic
  llvm::StringRef coordinates;   ///< coordinate_transformation_mode
  llvm::StringRef nearest;       ///< nearest_mode
  double cubic = -0.75;          ///< cubic_coeff_a
  bool antialias = false, excludesOutside = false;
};

/// `result[o] = sum over t of weights[o, t] * data[places[o, t]] + added[o]`,
/// where only elements whose place is outside of the region have what is added
/// (1, times the node's extrapolation_value).
struct ResizeTable {
  int64_t taps = 1;
  std::vector<int64_t> places; ///< [output, taps]
  std::vector<float> weights;  ///< [output, taps]
  std::vector<float> added;    ///< [output]; empty where nothing is
};

ResizeTable makeResizeTable(const ResizeAxis &axis);

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_RESIZETABLES_H
