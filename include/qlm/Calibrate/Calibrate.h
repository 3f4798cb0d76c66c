//===- Calibrate.h - What a model's linears see -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Runs a package that was compiled with observers (`qlm.observe`) on a text and
// writes what they saw as a safetensors file. For each label, such as
// "layers.0.qkv", over the rows x[K] of the inputs seen:
//
//   LABEL.second_moments  f32 [K, K]   mean of x xᵀ
//   LABEL.absmax          f32 [K]      largest magnitude of each column
//   LABEL.mean_magnitude  f32 [K]      mean magnitude of each column
//   LABEL.range           f32 [2]      smallest and largest value
//   LABEL.average_range   f32 [2]      the same, averaged over windows with a
//                                      momentum of 0.99
//   LABEL.histogram       f32 [2048]   counts of magnitudes in equal bins up to
//                                      the absmax of the first look; what is
//                                      larger counts in the last bin
//   LABEL.thresholds      f32 [3]      magnitudes that 99.9 % and 99.99 % of
//                                      the values stay below, and the one that
//                                      clips with least entropy lost (Migacz,
//                                      "8-bit inference with TensorRT")
//
// The file's metadata holds "tokens" and "window".
//
//===----------------------------------------------------------------------===//

#ifndef QLM_CALIBRATE_CALIBRATE_H
#define QLM_CALIBRATE_CALIBRATE_H

#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace qlm {

struct CalibrationProgress {
  std::string labels;      ///< first label of the pass
  int64_t tokensDone = 0;  ///< of all passes
  int64_t tokensTotal = 0; ///< of all passes
};

struct CalibrationOptions {
  std::string package; ///< compiled with observers
  std::string text;    ///< a text file, or JSON lines with "text"
  std::string output;  ///< the safetensors file
  /// Tokens of a window; 0 takes the largest step.
  int64_t window = 0;
  /// Most tokens of the text; 0 takes all.
  int64_t maxTokens = 0;
  /// Most bytes of second moments held at a time. More than those take more
  /// passes over the text, each for some of the linears.
  int64_t memoryLimit = int64_t(4) << 30;
  int threads = 0; ///< 0 takes all cores
  /// Where statistics are found: cpu, or cuda, for a package of that target,
  /// with second moments by cuBLAS. On cpu a GPU's rows are brought here.
  std::string device = "cpu";
  std::string cudaDriver = "libcuda.so.1";
  std::vector<std::string> blas; ///< cuBLAS's library; empty: as it is named
  std::function<void(const CalibrationProgress &)> progress;
  std::function<bool()> cancelled;
};

struct CalibrationSummary {
  int64_t tokens = 0;
  int64_t labels = 0;
  int64_t passes = 0;
  bool resumed = false; ///< some passes were done before
};

/// Runs the calibration. While at work it keeps OUTPUT.partial and
/// OUTPUT.partial.json; a run that was stopped goes on after the last finished
/// pass when called again with the same package, text and window.
/// Errors: those of Model::load and encode; InvalidArgument (a text shorter
/// than one window, a package without observers, a bad option); Io.
Result<CalibrationSummary> calibrate(const CalibrationOptions &options);

/// The texts of \p content: of each line's "text" if \p isLines, else itself.
/// Errors: InvalidArgument, naming the line.
Result<std::string> readCalibrationText(const std::string &path);

} // namespace qlm

#endif // QLM_CALIBRATE_CALIBRATE_H
