//===- Judge.cpp - Measures a package before it is kept -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Judge.h"

#include "qlm/Archive/Errors.h"
#include "qlm/Calibrate/Accuracy.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

using namespace mlir::qlm;
namespace fs = llvm::sys::fs;

static llvm::Error makeError(const ::qlm::Status &status) {
  return makeError(status.message());
}

/// Compiles the reference: the model's own weights in f32, same limits.
static llvm::Error compileReference(const CompileOptions &options,
                                    const std::string &folder) {
  CompileOptions reference;
  reference.model = options.model;
  reference.tokenizer = options.tokenizer;
  reference.output = folder;
  reference.producer = options.producer;
  reference.threads = options.threads;
  reference.maxBatch = 1;
  reference.maxContext = options.maxContext;
  reference.maxStepTokens = options.maxStepTokens;
  reference.cancelled = options.cancelled;
  reference.allowNonfinite = options.allowNonfinite;
  return compileModel(reference).takeError();
}

/// The text's tokens, without what a tokenizer adds to a prompt.
static llvm::Expected<std::vector<int32_t>>
readTokens(const ::qlm::Model &model, const JudgeArguments &arguments) {
  auto text = ::qlm::readFile(arguments.text);
  if (!text.ok())
    return makeError(text.status());
  if (!model.getTokenizer())
    return makeError("the model has no tokenizer to measure a text with");
  auto tokens = model.getTokenizer()->encode(*text, /*addSpecialTokens=*/false);
  if (!tokens.ok())
    return makeError(arguments.text + ": " + tokens.status().message());
  if (arguments.maxTokens &&
      static_cast<int64_t>(tokens->size()) > arguments.maxTokens)
    tokens->resize(static_cast<size_t>(arguments.maxTokens));
  if (tokens->size() < 2)
    return makeError(arguments.text +
                     ": text must have at least 2 tokens, has " +
                     llvm::Twine(tokens->size()));
  return tokens.take();
}

llvm::Expected<llvm::json::Object>
judgePackage(const std::string &folder, const CompileOptions &options,
             const JudgeArguments &arguments) {
  std::string referenceFolder = folder + ".reference";
  llvm::scope_exit cleanup(
      [&] { (void)fs::remove_directories(referenceFolder); });
  if (llvm::Error error = compileReference(options, referenceFolder))
    return std::move(error);
  ::qlm::Model::Options load;
  load.threads = static_cast<int>(options.threads);
  auto model = ::qlm::Model::load(folder, load);
  if (!model.ok())
    return makeError(model.status());
  auto reference = ::qlm::Model::load(referenceFolder, load);
  if (!reference.ok())
    return makeError(reference.status());
  auto tokens = readTokens(**model, arguments);
  if (!tokens)
    return tokens.takeError();

  ::qlm::AccuracyOptions measure;
  measure.window =
      std::min<int64_t>(256, (*model)->getManifest().plan.maxContext);
  measure.progress = [&](int64_t done, int64_t all) {
    if (arguments.progress)
      arguments.progress("measure: " + std::to_string(done) + " of " +
                         std::to_string(all) + " tokens");
  };
  auto accuracy =
      ::qlm::measureAccuracy(**model, reference->get(), *tokens, measure);
  if (!accuracy.ok())
    return makeError(accuracy.status());
  auto plain = ::qlm::measureAccuracy(**reference, nullptr, *tokens, measure);
  if (!plain.ok())
    return makeError(plain.status());
  if (arguments.maxKl && !(accuracy->kl <= *arguments.maxKl)) {
    std::string message;
    llvm::raw_string_ostream(message)
        << "kl against float32 weights must be at most "
        << llvm::format("%g", *arguments.maxKl) << ", got "
        << llvm::format("%.6f", accuracy->kl) << " on " << arguments.text;
    return makeError(message);
  }
  return llvm::json::Object{
      {"reference", "f32"},
      {"text", llvm::sys::path::filename(arguments.text).str()},
      {"tokens", accuracy->positions},
      {"perplexity", accuracy->perplexity},
      {"reference_perplexity", plain->perplexity},
      {"kl", accuracy->kl},
      {"top1_agreement", accuracy->top1Agreement}};
}
