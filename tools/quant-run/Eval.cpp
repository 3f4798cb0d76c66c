//===- Eval.cpp - Measures perplexity and distance to a reference ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The text's tokens are cut into windows that don't overlap. Each window is fed
// behind one begin-of-sequence token, so that every token of the text is scored
// once, predicted from those before it in the window. A model without such a
// token can't predict the first one of a window, which isn't scored then.
//
//   perplexity      = exp(mean of -log p(token))
//   kl              = mean over positions of sum_v q(v) (log q(v) - log p(v)),
//                     q the reference's probabilities, p this package's
//   top1_agreement  = part of positions where both find the same token
//   likeliest
//
//===----------------------------------------------------------------------===//

#include "Commands.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

using namespace qlm;
using namespace qlm::tool;
using Json = nlohmann::ordered_json;

namespace {
struct EvalOptions {
  ModelOptions model;
  std::string text, reference;
  int64_t window = 256, maxTokens = 0;
  bool json = false;

  void declare(Arguments &arguments) {
    arguments.text("--text", text, "the file to measure on");
    arguments.text("--reference", reference,
                   "a package to compare the probabilities with");
    arguments.integer("--window", window, "tokens of a window (default: 256)");
    arguments.integer("--max-tokens", maxTokens,
                      "use the text's first tokens only");
    arguments.flag("--json", json, "print one JSON object");
    model.declare(arguments);
  }
};

/// Sums over the positions measured so far.
struct Totals {
  int64_t positions = 0;
  double negativeLogLikelihood = 0, divergence = 0;
  int64_t agreements = 0;

  double mean(double sum) const {
    return positions ? sum / static_cast<double>(positions) : 0;
  }
};
} // namespace

/// Turns logits into logarithms of probabilities in place.
static void logSoftmax(float *row, int64_t size) {
  float largest = *std::max_element(row, row + size);
  double sum = 0;
  for (int64_t i = 0; i < size; ++i)
    sum += std::exp(row[i] - largest);
  float normalizer = largest + static_cast<float>(std::log(sum));
  for (int64_t i = 0; i < size; ++i)
    row[i] -= normalizer;
}

/// Logarithms of the probabilities after each of \p inputs,
/// [inputs, vocabulary].
static Status predict(Model &model, const std::vector<int32_t> &inputs,
                      std::vector<float> &rows) {
  int64_t vocabulary = model.getManifest().model.vocabularySize;
  rows.resize(inputs.size() * static_cast<size_t>(vocabulary));
  return model.logits(inputs, /*chunk=*/0, [&](int64_t row, float *logits) {
    logSoftmax(logits, vocabulary);
    std::copy_n(logits, vocabulary, rows.begin() + row * vocabulary);
  });
}

static void compare(const float *mine, const float *reference,
                    int64_t vocabulary, Totals &totals) {
  double divergence = 0;
  for (int64_t v = 0; v < vocabulary; ++v)
    divergence +=
        std::exp(reference[v]) * (static_cast<double>(reference[v]) - mine[v]);
  totals.divergence += divergence;
  totals.agreements +=
      std::max_element(mine, mine + vocabulary) - mine ==
      std::max_element(reference, reference + vocabulary) - reference;
}

static Status measureWindow(Model &model, Model *reference,
                            const std::vector<int32_t> &window,
                            Totals &totals) {
  int64_t vocabulary = model.getManifest().model.vocabularySize;
  std::optional<int32_t> begin = model.getManifest().model.bosTokenId;
  std::vector<int32_t> inputs(window.begin(), window.end() - 1);
  if (begin)
    inputs.insert(inputs.begin(), *begin);
  if (inputs.empty())
    return Status();
  // Row t predicts window[t + unscored].
  size_t unscored = begin ? 0 : 1;
  std::vector<float> mine, other;
  QLM_RETURN_IF_ERROR(predict(model, inputs, mine));
  if (reference)
    QLM_RETURN_IF_ERROR(predict(*reference, inputs, other));
  for (size_t t = 0; t < inputs.size(); ++t) {
    const float *row = mine.data() + t * static_cast<size_t>(vocabulary);
    float logLikelihood = row[window[t + unscored]];
    if (!std::isfinite(logLikelihood))
      return Status(StatusCode::Internal,
                    "the model's logits are not finite numbers");
    totals.negativeLogLikelihood -= logLikelihood;
    if (reference)
      compare(row, other.data() + t * static_cast<size_t>(vocabulary),
              vocabulary, totals);
    ++totals.positions;
  }
  return Status();
}

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

static Status checkModels(const Model &model, const Model *reference,
                          int64_t window) {
  int64_t context = model.getManifest().plan.maxContext;
  if (reference) {
    context = std::min(context, reference->getManifest().plan.maxContext);
    int64_t mine = model.getManifest().model.vocabularySize;
    int64_t other = reference->getManifest().model.vocabularySize;
    if (mine != other)
      return Status(StatusCode::InvalidArgument,
                    "the vocabularies must be equal, have " +
                        std::to_string(mine) + " and " + std::to_string(other) +
                        " tokens");
  }
  if (window > context)
    return Status(StatusCode::InvalidArgument,
                  "window must be at most the context's " +
                      std::to_string(context) + " tokens, got " +
                      std::to_string(window));
  return Status();
}

static void print(const Totals &totals, bool hasReference, bool asJson) {
  double perplexity = std::exp(totals.mean(totals.negativeLogLikelihood));
  // Rounding may leave a sum of two equal distributions below zero.
  double divergence = std::max(0.0, totals.mean(totals.divergence));
  double agreement = totals.mean(static_cast<double>(totals.agreements));
  if (asJson) {
    Json output = {{"perplexity", perplexity},
                   {"kl", nullptr},
                   {"top1_agreement", nullptr},
                   {"tokens", totals.positions}};
    if (hasReference) {
      output["kl"] = divergence;
      output["top1_agreement"] = agreement;
    }
    return printJson(output);
  }
  std::printf("perplexity      %.4f\n", perplexity);
  if (hasReference)
    std::printf("kl              %.6f\ntop1 agreement  %.4f\n", divergence,
                agreement);
  std::printf("tokens          %lld\n",
              static_cast<long long>(totals.positions));
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
  if (Status status = checkModels(*model, reference.get(), options.window);
      !status.ok())
    return badInput(status.message());
  Result<std::vector<int32_t>> tokens = readTokens(*model, options);
  if (!tokens.ok())
    return badInput(tokens.status().message());

  Totals totals;
  Progress progress;
  size_t size = static_cast<size_t>(options.window);
  for (size_t first = 0; first < tokens->size(); first += size) {
    size_t end = std::min(first + size, tokens->size());
    std::vector<int32_t> window(tokens->begin() + first, tokens->begin() + end);
    progress.show(std::to_string(first) + " of " +
                  std::to_string(tokens->size()) + " tokens");
    Status status = measureWindow(*model, reference.get(), window, totals);
    if (!status.ok()) {
      progress.clear();
      return badInput(status.message());
    }
  }
  progress.clear();
  print(totals, reference != nullptr, options.json);
  return exitSuccess;
}
