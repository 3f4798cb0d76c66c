//===- Eval.cpp - Measures perplexity and distance to a reference ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The formulas are in qlm/Calibrate/Accuracy.h.
//
//===----------------------------------------------------------------------===//

#include "Commands.h"

#include "qlm/Calibrate/Accuracy.h"

#include <cstdio>
#include <nlohmann/json.hpp>

using namespace qlm;
using namespace qlm::tool;
using Json = nlohmann::ordered_json;

namespace {
struct EvalOptions {
  ModelOptions model;
  std::string text, reference;
  int64_t window = 256, maxTokens = 0;
  bool json = false, layers = false;

  void declare(Arguments &arguments) {
    arguments.text("--text", text, "the file to measure on");
    arguments.text("--reference", reference,
                   "a package to compare the probabilities with");
    arguments.integer("--window", window, "tokens of a window (default: 256)");
    arguments.integer("--max-tokens", maxTokens,
                      "use the text's first tokens only");
    arguments.flag("--layers", layers,
                   "also the error of each layer's inputs against the "
                   "reference; both packages made with quantc --observe");
    arguments.flag("--json", json, "print one JSON object");
    model.declare(arguments);
  }
};
} // namespace

/// The text's tokens, without what a tokenizer adds to a prompt.
static Result<std::vector<int32_t>> readTokens(const Model &model,
                                               const EvalOptions &options) {
  if (!model.getTokenizer())
    return Status(StatusCode::Unsupported, "the package has no tokenizer");
  Result<std::string> text = readFile(options.text);
  if (!text.ok())
    return text.status();
  Result<std::vector<int32_t>> tokens =
      model.getTokenizer()->encode(*text, /*addSpecialTokens=*/false);
  if (!tokens.ok())
    return Status(tokens.status().getCode(),
                  options.text + ": " + tokens.status().message());
  if (options.maxTokens > 0 &&
      options.maxTokens < static_cast<int64_t>(tokens->size()))
    tokens->resize(static_cast<size_t>(options.maxTokens));
  if (tokens->size() < 2)
    return Status(StatusCode::InvalidArgument,
                  options.text + ": text must have at least 2 tokens, has " +
                      std::to_string(tokens->size()));
  return tokens;
}

static void print(const Accuracy &accuracy, bool hasReference, bool asJson) {
  if (asJson) {
    Json output = {{"perplexity", accuracy.perplexity},
                   {"kl", nullptr},
                   {"top1_agreement", nullptr},
                   {"tokens", accuracy.positions}};
    if (hasReference) {
      output["kl"] = accuracy.kl;
      output["top1_agreement"] = accuracy.top1Agreement;
    }
    for (const auto &[label, error] : accuracy.layerErrors)
      output["layers"][label] = error;
    return printJson(output);
  }
  std::printf("perplexity      %.4f\n", accuracy.perplexity);
  if (hasReference)
    std::printf("kl              %.6f\ntop1 agreement  %.4f\n", accuracy.kl,
                accuracy.top1Agreement);
  std::printf("tokens          %lld\n",
              static_cast<long long>(accuracy.positions));
  for (const auto &[label, error] : accuracy.layerErrors)
    std::printf("%-24s %.5f\n", label.c_str(), error);
}

int qlm::tool::runEval(int argc, char **argv) {
  EvalOptions options;
  Arguments arguments("eval", "PKG",
                      "Measures perplexity, and distance to a reference.");
  options.declare(arguments);
  std::string package;
  int exitCode;
  if (!arguments.parse(argc, argv, package, exitCode))
    return exitCode;
  if (options.text.empty())
    return arguments.wrongUsage("give --text");
  if (options.window < 2)
    return arguments.wrongUsage("--window must be at least 2, got " +
                                std::to_string(options.window));
  if (options.maxTokens < 0)
    return arguments.wrongUsage("--max-tokens must not be negative");

  std::unique_ptr<Model> model = options.model.load(package), reference;
  if (!model)
    return exitBadInput;
  if (!options.reference.empty() &&
      !(reference = options.model.load(options.reference)))
    return exitBadInput;
  Result<std::vector<int32_t>> tokens = readTokens(*model, options);
  if (!tokens.ok())
    return badInput(tokens.status().message());

  Progress progress;
  AccuracyOptions measure;
  measure.window = options.window;
  measure.layers = options.layers;
  measure.progress = [&](int64_t done, int64_t all) {
    progress.show(std::to_string(done) + " of " + std::to_string(all) +
                  " tokens");
  };
  Result<Accuracy> accuracy =
      measureAccuracy(*model, reference.get(), *tokens, measure);
  progress.clear();
  if (!accuracy.ok())
    return badInput(accuracy.status().message());
  print(*accuracy, reference != nullptr, options.json);
  return exitSuccess;
}
