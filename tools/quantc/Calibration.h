//===- Calibration.h - Statistics before compiling --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANTC_CALIBRATION_H
#define QLM_TOOLS_QUANTC_CALIBRATION_H

#include "qlm/Pipelines/Pipelines.h"

#include <functional>
#include <string>

/// How quantc calibrates.
struct CalibrationArguments {
  std::string text;       ///< empty: no calibration
  std::string statistics; ///< where they are kept; empty: beside the output
  int64_t window = 0;
  int64_t maxTokens = 0;
  int64_t memoryLimit = 0;    ///< bytes
  std::string device = "cpu"; ///< where the model runs
  /// Gets one line about the work.
  std::function<void(const std::string &)> progress;
};

/// Compiles the model of \p options with observers, runs it on the text, and
/// sets `options.statistics`. \p temporary becomes the statistics' file where
/// the caller should remove it in the end.
llvm::Error calibrateModel(mlir::qlm::CompileOptions &options,
                           const CalibrationArguments &arguments,
                           std::string &temporary);

/// Lets GPTQ of \p options factor its matrices on the GPU. Fails where there is
/// none that can.
llvm::Error factorOnGpu(mlir::qlm::CompileOptions &options);

/// Warns of inputs that one scale for all tokens spoils, by the statistics of
/// \p options, where nothing is done about them. Files that can't be read are
/// the compiler's to refuse.
void warnOfWideInputs(const mlir::qlm::CompileOptions &options);

#endif // QLM_TOOLS_QUANTC_CALIBRATION_H
