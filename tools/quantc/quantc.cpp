//===- quantc.cpp - Compiles a model's folder to a package ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Arguments in, qlm::compileModel, one line out. Exit code 0: done; 1: bad
// input; 2: wrong usage.
//
//===----------------------------------------------------------------------===//

#include "Arguments.h"
#include "Calibration.h"
#include "Graphs.h"
#include "Judge.h"
#include "Progress.h"
#include "QuantizeCommand.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/raw_ostream.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <string>

using namespace mlir::qlm;

static std::atomic<bool> interrupted{false};

/// The first line of what LLVM's parser says, without its prefix.
static std::string cleanUsageError(llvm::StringRef text, llvm::StringRef tool) {
  llvm::StringRef line = text.trim().split('\n').first;
  line.consume_front(llvm::sys::path::filename(tool));
  line.consume_front(": ");
  line = line.split("  Try: ").first;
  return (line.rtrim(".! ") + ", see quantc --help").str();
}
static CalibrationArguments makeCalibration(const Arguments &arguments,
                                            ProgressLine &line) {
  CalibrationArguments calibration;
  calibration.text = arguments.calibration;
  calibration.statistics = arguments.statistics;
  calibration.window = getNumber(arguments.calibrationWindow);
  calibration.maxTokens = getNumber(arguments.calibrationTokens);
  calibration.device = arguments.calibrateOn;
  calibration.memoryLimit = getNumber(arguments.memoryLimit) * 1000000;
  calibration.progress = [&](const std::string &text) { line.show(text); };
  return calibration;
}

static JudgeArguments makeJudge(const Arguments &arguments,
                                ProgressLine &line) {
  JudgeArguments judge;
  judge.text = arguments.evaluation;
  judge.maxTokens = getNumber(arguments.evaluationTokens);
  double limit = 0;
  if (!arguments.maxKl.empty() &&
      llvm::to_float(llvm::StringRef(arguments.maxKl), limit))
    judge.maxKl = limit;
  judge.progress = [&](const std::string &text) { line.show(text); };
  return judge;
}

static int compileOneGraph(const Arguments &arguments) {
  if (int code = checkGraphArguments(arguments))
    return code;
  GraphOptions options;
  options.model = arguments.model;
  options.output = arguments.output;
  options.to = *parseStage(arguments.to);
  options.targetCpu = arguments.targetCpu;
  options.producer = "quantc " QLM_VERSION;
  options.quick = arguments.quick;
  options.weights = arguments.weights;
  options.activations = arguments.activations;
  options.range = arguments.range;
  for (const std::string &text : arguments.fixed)
    if (llvm::Error error = readFixedInputs(text, options.import))
      return fail(llvm::toString(std::move(error)), kBadInput);
  auto start = std::chrono::steady_clock::now();
  std::string statistics;
  llvm::scope_exit cleanup([&] {
    if (!statistics.empty())
      (void)llvm::sys::fs::remove(statistics);
  });
  if (arguments.activations == "int8-static") {
    auto found = calibrateGraph(options, arguments.calibration);
    if (!found)
      return fail(llvm::toString(found.takeError()), kBadInput);
    statistics = options.statistics = *found;
  } else if (!arguments.calibration.empty()) {
    return fail("--calibration of an ONNX file needs --activations int8-static",
                kBadInput);
  }
  llvm::Expected<CompileSummary> summary = compileGraph(options);
  if (!summary)
    return fail(llvm::toString(summary.takeError()), kBadInput);
  std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  if (!arguments.quiet && options.to == Stage::Package)
    llvm::errs() << "quantc: wrote " << options.output << ": weights "
                 << formatBytes(summary->weightBytes) << ", code "
                 << formatBytes(summary->moduleBytes) << ", "
                 << llvm::format("%.1f s", seconds.count()) << "\n";
  return 0;
}

static int compile(const Arguments &arguments) {
  CompileOptions options = makeOptions(arguments);
  bool quiet = arguments.quiet;
  ProgressLine line(!quiet && llvm::sys::Process::StandardErrIsDisplayed());
  options.progress = [&](const CompileProgress &progress) {
    line.show(progress);
  };
  options.warning = [&](llvm::StringRef text) {
    line.clear();
    if (!quiet)
      llvm::errs() << "quantc: warning: " << text << "\n";
  };
  options.cancelled = [] { return interrupted.load(); };
  std::signal(SIGINT, [](int) { interrupted = true; });
  std::signal(SIGTERM, [](int) { interrupted = true; });

  auto start = std::chrono::steady_clock::now();
  if (!arguments.evaluation.empty())
    options.judge = [&](llvm::StringRef folder) {
      return judgePackage(folder.str(), options, makeJudge(arguments, line));
    };
  std::string temporary;
  llvm::scope_exit cleanup([&] {
    if (!temporary.empty())
      (void)llvm::sys::fs::remove(temporary);
  });
  // First, since it tells a missing GPU at once.
  bool isGptq = options.method == "gptq" || options.method == "awq-gptq";
  if (isGptq && arguments.calibrateOn == "cuda")
    if (llvm::Error error = factorOnGpu(options))
      return fail(llvm::toString(std::move(error)), kBadInput);
  if (!arguments.calibration.empty())
    if (llvm::Error error = calibrateModel(
            options, makeCalibration(arguments, line), temporary)) {
      line.clear();
      return fail(llvm::toString(std::move(error)), kBadInput);
    }
  warnOfWideInputs(options);
  llvm::Expected<CompileSummary> summary = compileModel(options);
  line.clear();
  if (!summary)
    return fail(llvm::toString(summary.takeError()), kBadInput);
  if (quiet || options.to != Stage::Package)
    return 0;
  std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  llvm::errs() << "quantc: wrote " << options.output << ": weights "
               << formatBytes(summary->weightBytes) << ", code "
               << formatBytes(summary->moduleBytes) << ", memory when running "
               << formatBytes(summary->peakBytes) << ", "
               << llvm::format("%.1f s", seconds.count()) << "\n";
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 1 && llvm::StringRef(argv[1]) == "quantize")
    return runQuantizeCommand(argv[0], llvm::ArrayRef(argv + 2, argc - 2));
  // LLVM registers hundreds of options of its own, which are none of ours.
  cl::ResetCommandLineParser();
  Arguments arguments;
  std::string messages;
  llvm::raw_string_ostream stream(messages);
  if (!cl::ParseCommandLineOptions(
          argc, argv,
          "Compiles a language model's folder, or an ONNX file, to a "
          "package\n\n  quantc quantize MODEL --format FORMAT -o FOLDER "
          "[options]\n\nwrites a checkpoint for other tools (quantc quantize "
          "--help).\n",
          &stream)) {
    // About a flag's value the parser has printed its own line already.
    if (messages.empty())
      return kWrongUsage;
    return fail(cleanUsageError(messages, argv[0]), kWrongUsage);
  }
  if (int code = checkArguments(arguments))
    return code;
  if (!arguments.batch.empty()) {
    if (int code = checkGraphArguments(arguments))
      return code;
    BatchOptions options{arguments.batch, arguments.targetCpu,
                         "quantc " QLM_VERSION, arguments.quick,
                         getNumber(arguments.threads)};
    if (llvm::Error error = compileBatch(options))
      return fail(llvm::toString(std::move(error)), kBadInput);
    return 0;
  }
  bool isOnnx = isOnnxPath(arguments.model);
  if (isOnnx && arguments.tokenizer.empty())
    return compileOneGraph(arguments);
  if (!isOnnx && !arguments.tokenizer.empty())
    return fail("--tokenizer is for ONNX files", kWrongUsage);
  if (!arguments.fixed.empty() || arguments.quick)
    return fail("--fix and --quick are for ONNX files", kWrongUsage);
  return compile(arguments);
}
