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

#include "Calibration.h"
#include "Graphs.h"
#include "Judge.h"
#include "QuantizeCommand.h"
#include "qlm/Pipelines/Pipelines.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/raw_ostream.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <string>
#include <vector>

using namespace mlir::qlm;
namespace cl = llvm::cl;

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

namespace {

/// A choice of the command line: what is supported, and what the design names
/// but this version doesn't do yet.
struct Choice {
  llvm::StringRef option;
  llvm::StringRef value;
  std::vector<llvm::StringRef> supported;
  std::vector<llvm::StringRef> planned;
};

/// A whole number, kept as text: LLVM's parser would print its own message.
using NumberOption = cl::opt<std::string>;

/// The options; made after LLVM's own have been taken off the command line.
struct Arguments {
  cl::OptionCategory category{"quantc options"};
  cl::opt<std::string> model{cl::Positional, cl::desc("MODEL"),
                             cl::cat(category)};
  cl::opt<std::string> output{
      "o", cl::value_desc("PATH"), cl::cat(category),
      cl::desc("The package to write; with --to, the file for IR (default: "
               "standard output)")};
  cl::opt<std::string> target{
      "target", cl::init("cpu"), cl::cat(category), cl::value_desc("NAME"),
      cl::desc("What runs the package: cpu, or cuda[:CHIP,...] "
               "with chips sm_80, sm_89 and sm_90a "
               "(default: sm_90a)")};
  cl::opt<std::string> targetCpu{
      "target-cpu", cl::init("native"), cl::cat(category),
      cl::value_desc("NAME"),
      cl::desc("native, x86-64-v3, x86-64-v4, icelake-server or "
               "sapphirerapids")};
  cl::opt<bool> tune{"tune", cl::cat(category),
                     cl::desc("Times choices of kernels on this machine and "
                              "keeps the best")};
  cl::opt<std::string> weights{
      "weights", cl::init("f32"), cl::cat(category), cl::value_desc("TYPE"),
      cl::desc("Weights of linears: f32, bf16, f16, int8, int4, nf4 or fp8")};
  NumberOption groupSize{
      "group-size", cl::init("0"), cl::cat(category), cl::value_desc("N"),
      cl::desc("Columns that share a scale, with granularity group (default: "
               "64 of nf4, else 128)")};
  cl::opt<std::string> granularity{
      "granularity", cl::init("default"), cl::cat(category),
      cl::value_desc("NAME"),
      cl::desc("What shares a scale: tensor, channel or group (default: "
               "channel of int8 and fp8, group of int4 and nf4)")};
  cl::opt<bool> doubleQuant{"double-quant", cl::cat(category),
                            cl::desc("Quantizes the scales of nf4 too")};
  cl::opt<bool> zeroPoints{"zero-points", cl::cat(category),
                           cl::desc("Gives each scale a zero point")};
  cl::opt<std::string> method{"method", cl::init("rtn"), cl::cat(category),
                              cl::value_desc("NAME"),
                              cl::desc("How codes are found: rtn, gptq, awq, "
                                       "awq-gptq (awq's scales, then gptq), "
                                       "keep (a checkpoint's own) or llm.int8 "
                                       "(int8, outliers of inputs kept)")};
  cl::opt<std::string> outlierThreshold{
      "outlier-threshold", cl::value_desc("X"), cl::cat(category),
      cl::desc("int8 weights, int8-dynamic: inputs whose magnitude reaches X "
               "stay float32 (default: of llm.int8 6, else none)")};
  cl::opt<std::string> smooth{
      "smooth", cl::value_desc("ALPHA"), cl::cat(category),
      cl::desc("SmoothQuant: how much of the inputs' ranges goes to the "
               "weights, 0 to 1 (default: none)")};
  cl::opt<std::string> range{
      "range", cl::init("minmax"), cl::cat(category), cl::value_desc("NAME"),
      cl::desc("int8-static: minmax, average, percentile or entropy")};
  cl::opt<bool> searchScales{
      "search-scales", cl::cat(category),
      cl::desc("gptq: shrinks the range of each scale where that loses less")};
  NumberOption refine{
      "refine", cl::init("0"), cl::cat(category), cl::value_desc("N"),
      cl::desc("gptq: how often codes and scales are gone over once more")};
  cl::opt<std::string> calibration{
      "calibration", cl::cat(category), cl::value_desc("FILE"),
      cl::desc("Text, or JSON lines with \"text\", to calibrate on: what gptq, "
               "awq, --smooth and int8-static need")};
  cl::opt<std::string> statistics{
      "statistics", cl::cat(category), cl::value_desc("FILE"),
      cl::desc("Where calibration keeps its statistics; without "
               "--calibration, where they are read from")};
  cl::opt<bool> observe{
      "observe", cl::cat(category),
      cl::desc("Keeps observers in the package, for quant-run eval --layers")};
  cl::opt<std::string> evaluation{
      "evaluation", cl::cat(category), cl::value_desc("FILE"),
      cl::desc("Text to measure the package on, against float32 weights: the "
               "manifest's accuracy card")};
  cl::opt<std::string> maxKl{
      "max-kl", cl::cat(category), cl::value_desc("X"),
      cl::desc("With --evaluation: refuses to write a package whose KL is "
               "above this")};
  NumberOption evaluationTokens{"evaluation-tokens", cl::init("8192"),
                                cl::cat(category), cl::value_desc("N"),
                                cl::desc("Most tokens to measure on")};
  NumberOption calibrationTokens{"calibration-tokens", cl::init("32768"),
                                 cl::cat(category), cl::value_desc("N"),
                                 cl::desc("Most tokens to calibrate on")};
  NumberOption calibrationWindow{
      "calibration-window", cl::init("0"), cl::cat(category),
      cl::value_desc("N"),
      cl::desc("Tokens that calibration sees together (default: those of a "
               "step)")};
  cl::opt<std::string> calibrateOn{
      "calibrate-on", cl::init("cpu"), cl::cat(category),
      cl::value_desc("NAME"),
      cl::desc(
          "Where second moments are summed: cpu, or cuda, by cuBLAS (their "
          "last bits differ)")};
  NumberOption memoryLimit{
      "memory-limit", cl::init("0"), cl::cat(category), cl::value_desc("MB"),
      cl::desc("Most memory for statistics; more passes are made where it is "
               "less than all take (default: 4096)")};
  cl::opt<std::string> damping{
      "damping", cl::init("0.01"), cl::cat(category), cl::value_desc("X"),
      cl::desc("gptq: part of the mean second moment added to each")};
  cl::opt<bool> actOrder{
      "act-order", cl::cat(category),
      cl::desc("gptq: columns with the largest second moments first")};
  cl::opt<bool> staticGroups{
      "static-groups", cl::cat(category),
      cl::desc("gptq: scales of groups from the weight as given")};
  cl::opt<std::string> activations{
      "activations", cl::init("none"), cl::cat(category),
      cl::value_desc("TYPE"),
      cl::desc("Inputs of linears: none, bf16, int8-dynamic or int8-static")};
  cl::opt<std::string> kvCache{
      "kv-cache", cl::init("f32"), cl::cat(category), cl::value_desc("TYPE"),
      cl::desc("Keys and values: f32, f16, bf16, int8 or fp8 (default: f32, "
               "on cuda f16)")};
  cl::opt<bool> keepLmHead{"keep-lm-head", cl::cat(category),
                           cl::desc("Leaves the weight of the last linear as "
                                    "it is")};
  cl::opt<bool> allowNonfinite{
      "allow-nonfinite", cl::cat(category),
      cl::desc("Takes infinities and NaN in weights as 0, and names them")};
  NumberOption maxBatch{"max-batch", cl::init("8"), cl::cat(category),
                        cl::value_desc("N"),
                        cl::desc("Most sequences of a step")};
  NumberOption maxContext{
      "max-context", cl::init("0"), cl::cat(category), cl::value_desc("N"),
      cl::desc("Most tokens of a sequence (default: the model's)")};
  NumberOption maxStepTokens{"max-step-tokens", cl::init("512"),
                             cl::cat(category), cl::value_desc("N"),
                             cl::desc("Most tokens of a step")};
  NumberOption pageTokens{"page-tokens", cl::init("16"), cl::cat(category),
                          cl::value_desc("N"),
                          cl::desc("Tokens of a page of the cache (default: "
                                   "16, on cuda 64)")};
  cl::opt<bool> batchInvariant{
      "batch-invariant", cl::cat(category),
      cl::desc("On cuda: sums in an order that doesn't depend on the step")};
  cl::opt<std::string> to{
      "to", cl::init("package"), cl::cat(category), cl::value_desc("STAGE"),
      cl::desc("Stops after import, optimize, quantize, lower or package")};
  cl::opt<std::string> dumpStages{
      "dump-stages", cl::cat(category), cl::value_desc("DIR"),
      cl::desc("Writes the IR after each stage to 1-import.mlir, ...")};
  cl::opt<bool> plainOps{"plain-ops", cl::cat(category),
                         cl::desc("Imports attention as plain operations")};
  NumberOption threads{"threads", cl::init("0"), cl::cat(category),
                       cl::value_desc("N"),
                       cl::desc("Threads (default: all of the machine's)")};
  cl::list<std::string> fixed{
      "fix", cl::cat(category), cl::value_desc("NAME=FILE.npy"),
      cl::desc("ONNX: makes an input a constant; an .npz gives several")};
  cl::opt<std::string> tokenizer{
      "tokenizer", cl::cat(category), cl::value_desc("FOLDER"),
      cl::desc("ONNX: compiles a decoder's graph as a language model, with the "
               "tokenizer's files and config.json of FOLDER")};
  cl::opt<std::string> batch{
      "batch", cl::cat(category), cl::value_desc("FILE"),
      cl::desc("Compiles many ONNX files: lines of MODEL, PKG and, where "
               "inputs are constants, an .npz, with tabs between")};
  cl::opt<bool> quick{"quick", cl::cat(category),
                      cl::desc("ONNX: compiles faster, to slower code")};
  cl::opt<bool> quiet{"quiet", cl::cat(category),
                      cl::desc("Prints errors only")};
};

} // namespace

static constexpr int kBadInput = 1;
static constexpr int kWrongUsage = 2;
/// Tokens of a page on a GPU, unless the user says it: attention loads 64 keys
/// at a time.
static constexpr int64_t kCudaPageTokens = 64;

static int fail(const llvm::Twine &message, int code) {
  llvm::errs() << "quantc: error: " << message << "\n";
  return code;
}

/// Returns 0 if the value is supported; else says what is.
static int check(const Choice &choice) {
  if (llvm::is_contained(choice.supported, choice.value))
    return 0;
  std::string rule = " (supported: " + llvm::join(choice.supported, ", ") + ")";
  if (llvm::is_contained(choice.planned, choice.value))
    return fail("--" + choice.option + " " + choice.value +
                    " is not supported yet" + rule,
                kBadInput);
  return fail("--" + choice.option + " has no value '" + choice.value + "'" +
                  rule,
              kWrongUsage);
}

/// What `--target` says, and the defaults that depend on it.
static void setTarget(const Arguments &arguments, CompileOptions &options) {
  auto [kind, chips] = llvm::StringRef(arguments.target).split(':');
  options.target = kind.str();
  if (!chips.empty())
    options.chips = chips.str();
  options.batchInvariant = arguments.batchInvariant;
  if (kind != "cuda")
    return;
  if (!arguments.kvCache.getNumOccurrences())
    options.kvCache = "f16";
  if (!arguments.pageTokens.getNumOccurrences())
    options.pageTokens = kCudaPageTokens;
}

/// `--method llm.int8`, and the threshold that it stands for.
static constexpr llvm::StringLiteral kLlmInt8 = "llm.int8";
static constexpr double kOutlierThreshold = 6;

static int checkOutliers(const Arguments &arguments) {
  double threshold = 0;
  llvm::StringRef text = arguments.outlierThreshold.getValue();
  if (!text.empty() && (!llvm::to_float(text, threshold) || !(threshold > 0) ||
                        std::isinf(threshold)))
    return fail("--outlier-threshold must be a positive number, got '" + text +
                    "'",
                kWrongUsage);
  bool isShort = arguments.method == kLlmInt8;
  if (isShort && arguments.weights.getNumOccurrences() &&
      arguments.weights != "int8")
    return fail("--method llm.int8 needs --weights int8, got " +
                    arguments.weights,
                kWrongUsage);
  if (isShort && arguments.activations.getNumOccurrences() &&
      arguments.activations != "int8-dynamic")
    return fail("--method llm.int8 needs --activations int8-dynamic, got " +
                    arguments.activations,
                kWrongUsage);
  return 0;
}

/// LLM.int8 is weights rounded to nearest, inputs rounded but for outliers.
static void setOutliers(const Arguments &arguments, CompileOptions &options) {
  llvm::StringRef text = arguments.outlierThreshold.getValue();
  if (arguments.method == kLlmInt8) {
    options.weights = "int8";
    options.method = "rtn";
    options.activations = "int8-dynamic";
    options.outlierThreshold = kOutlierThreshold;
  }
  if (!text.empty())
    (void)llvm::to_float(text, options.outlierThreshold);
}

static int checkArguments(const Arguments &arguments) {
  const Choice choices[] = {
      {"target",
       llvm::StringRef(arguments.target).split(':').first,
       {"cpu", "cuda"},
       {}},
      {"target-cpu",
       arguments.targetCpu,
       {"native", "x86-64-v3", "x86-64-v4", "icelake-server", "sapphirerapids"},
       {}},
      {"weights",
       arguments.weights,
       {"f32", "bf16", "f16", "int8", "int4", "nf4", "fp8"},
       {}},
      {"granularity",
       arguments.granularity,
       {"default", "tensor", "channel", "group"},
       {}},
      {"method",
       arguments.method,
       {"rtn", "gptq", "awq", "awq-gptq", "keep", "llm.int8"},
       {}},
      {"range",
       arguments.range,
       {"minmax", "average", "percentile", "entropy"},
       {}},
      {"calibrate-on", arguments.calibrateOn, {"cpu", "cuda"}, {}},
      {"activations",
       arguments.activations,
       {"none", "bf16", "int8-dynamic", "int8-static"},
       {"fp8"}},
      {"kv-cache",
       arguments.kvCache,
       {"f32", "f16", "bf16", "int8", "fp8"},
       {}},
      {"to",
       arguments.to,
       {"import", "optimize", "quantize", "lower", "package"},
       {}},
  };
  for (const Choice &choice : choices)
    if (int code = check(choice))
      return code;
  if (!arguments.batch.empty() && arguments.model.empty())
    return 0;
  if (arguments.model.empty())
    return fail("a model's folder is needed: quantc MODEL -o PKG", kWrongUsage);
  if (arguments.output.empty() && arguments.to == "package")
    return fail("an output is needed: quantc MODEL -o PKG", kWrongUsage);
  for (const NumberOption *option :
       {&arguments.groupSize, &arguments.maxBatch, &arguments.maxContext,
        &arguments.maxStepTokens, &arguments.pageTokens, &arguments.threads,
        &arguments.calibrationTokens, &arguments.calibrationWindow,
        &arguments.evaluationTokens, &arguments.memoryLimit,
        &arguments.refine}) {
    int64_t value = 0;
    bool given = option->getNumOccurrences() > 0;
    llvm::StringRef text = option->getValue();
    if (given && (text.getAsInteger(10, value) || value <= 0))
      return fail("--" + option->ArgStr + " must be a positive number, got '" +
                      text + "'",
                  kWrongUsage);
  }
  double maxKl = 0;
  if (!arguments.maxKl.empty() &&
      (!llvm::to_float(llvm::StringRef(arguments.maxKl), maxKl) ||
       !(maxKl >= 0)))
    return fail("--max-kl must be a number that is not negative, got '" +
                    arguments.maxKl + "'",
                kWrongUsage);
  if (!arguments.maxKl.empty() && arguments.evaluation.empty())
    return fail("--max-kl needs a text: --evaluation FILE", kWrongUsage);
  double smooth = 0;
  if (!arguments.smooth.empty() &&
      (!llvm::to_float(llvm::StringRef(arguments.smooth), smooth) ||
       !(smooth >= 0 && smooth <= 1)))
    return fail("--smooth must be a number from 0 to 1, got '" +
                    arguments.smooth + "'",
                kWrongUsage);
  if (!arguments.smooth.empty() &&
      llvm::StringRef(arguments.method).starts_with("awq"))
    return fail("--smooth does not go with --method " + arguments.method +
                    ", which chooses scales itself",
                kWrongUsage);
  if (int code = checkOutliers(arguments))
    return code;
  double damping = 0;
  if (!llvm::to_float(llvm::StringRef(arguments.damping), damping) ||
      !(damping >= 0 && damping <= 1))
    return fail("--damping must be a number from 0 to 1, got '" +
                    arguments.damping + "'",
                kWrongUsage);
  return 0;
}

/// The number of an option that checkArguments has seen.
static int64_t getNumber(const NumberOption &option) {
  int64_t value = 0;
  (void)llvm::StringRef(option.getValue()).getAsInteger(10, value);
  return value;
}

/// The first line of what LLVM's parser says, without its prefix.
static std::string cleanUsageError(llvm::StringRef text, llvm::StringRef tool) {
  llvm::StringRef line = text.trim().split('\n').first;
  line.consume_front(llvm::sys::path::filename(tool));
  line.consume_front(": ");
  line = line.split("  Try: ").first;
  return (line.rtrim(".! ") + ", see quantc --help").str();
}

//===----------------------------------------------------------------------===//
// Progress
//===----------------------------------------------------------------------===//

static std::atomic<bool> interrupted{false};

static std::string formatBytes(int64_t bytes) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (bytes >= 1000000000)
    stream << llvm::format("%.2f GB", bytes / 1e9);
  else if (bytes >= 1000000)
    stream << llvm::format("%.1f MB", bytes / 1e6);
  else
    stream << llvm::format("%.1f kB", bytes / 1e3);
  return text;
}

namespace {

/// One line on a terminal, rewritten at most ten times a second.
class ProgressLine {
public:
  ProgressLine(bool enabled) : enabled(enabled) {}
  ~ProgressLine() { clear(); }

  void show(const CompileProgress &progress) {
    auto now = std::chrono::steady_clock::now();
    bool isNewStage = progress.stage != stage || !shown;
    if (!enabled ||
        (!isNewStage && now - last < std::chrono::milliseconds(100)))
      return;
    last = now;
    stage = progress.stage;
    shown = true;
    llvm::errs() << "\r\033[K" << getStageName(stage);
    if (progress.bytesTotal)
      llvm::errs() << ": " << formatBytes(progress.bytesDone) << " of "
                   << formatBytes(progress.bytesTotal) << ", " << progress.item;
  }

  void show(const std::string &text) {
    auto now = std::chrono::steady_clock::now();
    if (!enabled || (shown && now - last < std::chrono::milliseconds(100)))
      return;
    last = now;
    shown = true;
    llvm::errs() << "\r\033[K" << text;
  }

  void clear() {
    if (shown)
      llvm::errs() << "\r\033[K";
    shown = false;
  }

private:
  bool enabled;
  bool shown = false;
  Stage stage = Stage::Import;
  std::chrono::steady_clock::time_point last;
};

} // namespace

//===----------------------------------------------------------------------===//
// Main
//===----------------------------------------------------------------------===//

static CompileOptions makeOptions(const Arguments &arguments) {
  CompileOptions options;
  options.model = arguments.model;
  options.tokenizer = arguments.tokenizer;
  options.output = arguments.output;
  options.to = *parseStage(arguments.to);
  options.tune = arguments.tune;
  options.dumpStages = arguments.dumpStages;
  options.producer = "quantc " QLM_VERSION;
  options.plainOps = arguments.plainOps;
  options.weights = arguments.weights;
  options.groupSize = getNumber(arguments.groupSize);
  options.granularity = arguments.granularity;
  options.doubleQuant = arguments.doubleQuant;
  options.zeroPoints = arguments.zeroPoints;
  options.method = arguments.method;
  options.statistics = arguments.statistics;
  (void)llvm::to_float(llvm::StringRef(arguments.damping), options.damping);
  if (!arguments.smooth.empty())
    (void)llvm::to_float(llvm::StringRef(arguments.smooth), options.smooth);
  options.range = arguments.range;
  options.searchScales = arguments.searchScales;
  options.refine = getNumber(arguments.refine);
  options.observe = arguments.observe;
  options.actOrder = arguments.actOrder;
  options.staticGroups = arguments.staticGroups;
  options.activations = arguments.activations;
  setOutliers(arguments, options);
  options.keepLmHead = arguments.keepLmHead;
  options.allowNonfinite = arguments.allowNonfinite;
  options.targetCpu = arguments.targetCpu;
  options.kvCache = arguments.kvCache;
  options.pageTokens = getNumber(arguments.pageTokens);
  setTarget(arguments, options);
  options.maxBatch = getNumber(arguments.maxBatch);
  options.maxContext = getNumber(arguments.maxContext);
  options.maxStepTokens = getNumber(arguments.maxStepTokens);
  options.threads = getNumber(arguments.threads);
  return options;
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

/// Options that mean nothing to a graph must not be dropped in silence.
static int checkGraphArguments(const Arguments &arguments) {
  const std::pair<std::string, bool> given[] = {
      {"--target", arguments.target != "cpu"},
      {"--activations " + arguments.activations,
       arguments.activations != "none" &&
           arguments.activations != "int8-dynamic" &&
           arguments.activations != "int8-static"},
      {"--method", arguments.method != "rtn"},
      {"--kv-cache", arguments.kvCache != "f32"},
      {"--range", arguments.range != "minmax"},
      {"--evaluation", !arguments.evaluation.empty()},
      {"--tune", arguments.tune},
      {"--observe", arguments.observe},
      {"--dump-stages", !arguments.dumpStages.empty()},
      {"--to optimize", arguments.to == "optimize"}};
  for (const auto &[name, isGiven] : given)
    if (isGiven)
      return fail(name + " is not supported for ONNX files", kBadInput);
  return 0;
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
  if (!arguments.calibration.empty())
    if (llvm::Error error = calibrateModel(
            options, makeCalibration(arguments, line), temporary)) {
      line.clear();
      return fail(llvm::toString(std::move(error)), kBadInput);
    }
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
