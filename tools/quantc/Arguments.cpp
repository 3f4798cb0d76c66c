//===- Arguments.cpp - Checks and reads quantc's command line -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Arguments.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <utility>
#include <vector>

using namespace mlir::qlm;

namespace {

/// A choice of the command line: what is supported, and what the design names
/// but this version doesn't do yet.
struct Choice {
  llvm::StringRef option;
  llvm::StringRef value;
  std::vector<llvm::StringRef> supported;
};

} // namespace

/// Tokens of a page on a GPU, unless the user says it: attention loads 64 keys
/// at a time.
static constexpr int64_t kCudaPageTokens = 64;

int mlir::qlm::fail(const llvm::Twine &message, int code) {
  llvm::errs() << "quantc: error: " << message << "\n";
  return code;
}

/// Returns 0 if the value is supported; else says what is.
static int check(const Choice &choice) {
  if (llvm::is_contained(choice.supported, choice.value))
    return 0;
  std::string rule = " (supported: " + llvm::join(choice.supported, ", ") + ")";
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

static int checkChoices(const Arguments &arguments) {
  const Choice choices[] = {
      {"target",
       llvm::StringRef(arguments.target).split(':').first,
       {"cpu", "cuda"}},
      {"target-cpu",
       arguments.targetCpu,
       {"native", "x86-64-v3", "alderlake", "x86-64-v4", "icelake-server",
        "sapphirerapids"}},
      {"weights",
       arguments.weights,
       {"f32", "bf16", "f16", "int8", "int4", "nf4", "fp8"}},
      {"granularity",
       arguments.granularity,
       {"default", "tensor", "channel", "group"}},
      {"method",
       arguments.method,
       {"rtn", "gptq", "awq", "awq-gptq", "keep", "llm.int8"}},
      {"range",
       arguments.range,
       {"minmax", "average", "percentile", "entropy"}},
      {"calibrate-on", arguments.calibrateOn, {"cpu", "cuda"}},
      {"activations",
       arguments.activations,
       {"none", "bf16", "int8-dynamic", "int8-static", "fp8-dynamic"}},
      {"kv-cache", arguments.kvCache, {"f32", "f16", "bf16", "int8", "fp8"}},
      {"to",
       arguments.to,
       {"import", "optimize", "quantize", "lower", "package"}},
  };
  for (const Choice &choice : choices)
    if (int code = check(choice))
      return code;
  return 0;
}

static int checkCounts(const Arguments &arguments) {
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
  return 0;
}

static int checkNumbers(const Arguments &arguments) {
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
  double damping = 0;
  if (!llvm::to_float(llvm::StringRef(arguments.damping), damping) ||
      !(damping >= 0 && damping <= 1))
    return fail("--damping must be a number from 0 to 1, got '" +
                    arguments.damping + "'",
                kWrongUsage);
  return 0;
}

int mlir::qlm::checkArguments(const Arguments &arguments) {
  if (int code = checkChoices(arguments))
    return code;
  if (!arguments.batch.empty() && arguments.model.empty())
    return 0;
  if (arguments.model.empty())
    return fail("a model's folder is needed: quantc MODEL -o PKG", kWrongUsage);
  if (arguments.output.empty() && arguments.to == "package")
    return fail("an output is needed: quantc MODEL -o PKG", kWrongUsage);
  for (auto *rule : {checkCounts, checkNumbers, checkOutliers})
    if (int code = rule(arguments))
      return code;
  return 0;
}

int64_t mlir::qlm::getNumber(const NumberOption &option) {
  int64_t value = 0;
  (void)llvm::StringRef(option.getValue()).getAsInteger(10, value);
  return value;
}

CompileOptions mlir::qlm::makeOptions(const Arguments &arguments) {
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

int mlir::qlm::checkGraphArguments(const Arguments &arguments) {
  const std::pair<std::string, bool> given[] = {
      {"--target", arguments.target != "cpu"},
      {"--activations " + arguments.activations,
       arguments.activations != "none" &&
           arguments.activations != "int8-dynamic" &&
           arguments.activations != "int8-static"},
      {"--method", arguments.method != "rtn"},
      {"--kv-cache", arguments.kvCache != "f32"},
      {"--range without --activations int8-static",
       arguments.range != "minmax" && arguments.activations != "int8-static"},
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
