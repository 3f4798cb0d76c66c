//===- Calibration.cpp - Statistics before compiling ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Calibration.h"

#include "qlm/Archive/Errors.h"
#include "qlm/Calibrate/Calibrate.h"
#include "qlm/Calibrate/GpuCholesky.h"
#include "qlm/Calibrate/WideInputs.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <chrono>

using namespace mlir::qlm;
namespace fs = llvm::sys::fs;

/// The package that calibration runs. On this processor weights are as stored,
/// which takes half of float32's memory for most models; only where it has AMX
/// do bf16 weights mean inputs rounded to bf16 too. On a GPU both are bf16.
static CompileOptions makeObserved(const CompileOptions &options,
                                   const std::string &folder,
                                   const std::string &device, int64_t window) {
  CompileOptions observed;
  observed.target = device;
  observed.chips = options.chips;
  observed.model = options.model;
  observed.tokenizer = options.tokenizer;
  observed.output = folder;
  observed.producer = options.producer;
  // Of a GPU's matrix units; observers see the inputs before they are rounded.
  bool onGpu = device == "cuda";
  observed.weights = onGpu ? "bf16" : "source";
  observed.activations = onGpu ? "bf16" : "none";
  observed.observe = true;
  observed.threads = options.threads;
  observed.maxBatch = 1;
  observed.maxContext = options.maxContext;
  observed.maxStepTokens = window ? window : options.maxStepTokens;
  observed.cancelled = options.cancelled;
  observed.allowNonfinite = options.allowNonfinite;
  return observed;
}

/// "calibrate: layers.0.qkv, 1024 of 4096 tokens, 12 s left".
static std::string describe(const ::qlm::CalibrationProgress &progress,
                            double seconds) {
  std::string line;
  llvm::raw_string_ostream stream(line);
  stream << "calibrate: from " << progress.labels << ", " << progress.tokensDone
         << " of " << progress.tokensTotal << " tokens";
  if (progress.tokensDone > 0) {
    double part =
        static_cast<double>(progress.tokensTotal - progress.tokensDone) /
        static_cast<double>(progress.tokensDone);
    stream << ", " << llvm::format("%.0f s left", seconds * part);
  }
  return line;
}

llvm::Error factorOnGpu(CompileOptions &options) {
  ::qlm::Result<::qlm::numerics::CholeskyFunction> opened =
      ::qlm::openGpuCholesky();
  if (!opened.ok())
    return makeError(opened.status().message());
  options.cholesky = opened.take();
  return llvm::Error::success();
}

void warnOfWideInputs(const CompileOptions &options) {
  bool isCut = options.range == "percentile" || options.range == "entropy";
  if (options.activations != "int8-static" || options.smooth >= 0 || isCut)
    return;
  auto found = ::qlm::findWideInputs(options.statistics);
  if (!found.ok() || found->empty())
    return;
  const ::qlm::WideInput &worst = found->front();
  std::string text;
  llvm::raw_string_ostream stream(text);
  stream << "inputs of " << worst.label;
  if (found->size() > 1)
    stream << " and " << found->size() - 1 << " other linears";
  stream
      << " reach " << llvm::format("%.0f", worst.largest / worst.mean)
      << (found->size() > 1 ? " times (the first) " : " times ")
      << "their mean magnitude, so that most round to 0 with one int8 scale: "
         "try --smooth 0.8, --range percentile or --activations "
         "int8-dynamic";
  options.warning(text);
}

llvm::Error calibrateModel(CompileOptions &options,
                           const CalibrationArguments &arguments,
                           std::string &temporary) {
  std::string suffix = std::to_string(llvm::sys::Process::getProcessId());
  std::string base = options.output.empty() ? "quantc" : options.output;
  while (base.size() > 1 && base.back() == '/')
    base.pop_back();
  std::string folder = base + ".calibration-" + suffix;
  std::string statistics = arguments.statistics;
  if (statistics.empty())
    temporary = statistics = base + ".statistics-" + suffix + ".safetensors";
  llvm::scope_exit cleanup([&] { (void)fs::remove_directories(folder); });
  auto compiled = compileModel(
      makeObserved(options, folder, arguments.device, arguments.window));
  if (!compiled)
    return compiled.takeError();

  ::qlm::CalibrationOptions calibration;
  calibration.package = folder;
  calibration.text = arguments.text;
  calibration.output = statistics;
  calibration.window = arguments.window;
  calibration.maxTokens = arguments.maxTokens;
  calibration.device = arguments.device;
  if (arguments.memoryLimit)
    calibration.memoryLimit = arguments.memoryLimit;
  calibration.threads = static_cast<int>(options.threads);
  calibration.cancelled = options.cancelled;
  auto start = std::chrono::steady_clock::now();
  calibration.progress = [&](const ::qlm::CalibrationProgress &progress) {
    std::chrono::duration<double> spent =
        std::chrono::steady_clock::now() - start;
    if (arguments.progress)
      arguments.progress(describe(progress, spent.count()));
  };
  ::qlm::Result<::qlm::CalibrationSummary> summary =
      ::qlm::calibrate(calibration);
  if (!summary.ok())
    return makeError(summary.status().message());
  options.statistics = statistics;
  return llvm::Error::success();
}
