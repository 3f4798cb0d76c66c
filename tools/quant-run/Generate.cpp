//===- Generate.cpp - Continues prompts -----------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

using namespace qlm;
using namespace qlm::tool;
using Json = nlohmann::ordered_json;

namespace {
struct GenerateOptions {
  ModelOptions model;
  std::vector<std::string> prompts, promptFiles, stops;
  std::vector<std::string> tokenLists;
  int64_t maxNewTokens = 128;
  SamplingOptions sampling;
  bool stream = false, json = false, ignoreEos = false,
       logProbabilities = false;

  void declare(Arguments &arguments) {
    arguments.texts("--prompt", prompts, "a text to continue; may be repeated");
    arguments.texts("--prompt-file", promptFiles,
                    "a file whose text to continue; may be repeated");
    arguments.texts("--tokens", tokenLists,
                    "token ids 1,2,3 to continue; may be repeated");
    arguments.integer("--max-new-tokens", maxNewTokens,
                      "tokens to generate at most (default: 128)");
    arguments.number("--temperature", sampling.temperature,
                     "0 takes the most likely token (default: 0)");
    arguments.integer("--top-k", sampling.topK,
                      "draw from the k most likely tokens");
    arguments.number("--top-p", sampling.topP,
                     "draw from the fewest tokens that reach this probability");
    arguments.number("--min-p", sampling.minP,
                     "drop tokens below this part of the most likely one's");
    arguments.number("--repetition-penalty", sampling.repetitionPenalty,
                     "above 1 makes tokens seen before less likely");
    arguments.seed("--seed", sampling.seed, "of the draws (default: 0)");
    arguments.texts("--stop", stops,
                    "end a text before this string; may be repeated");
    arguments.flag("--ignore-eos", ignoreEos,
                   "go on past end-of-sequence tokens");
    arguments.flag("--logprobs", logProbabilities,
                   "add each token's log probability to --json");
    arguments.flag("--stream", stream, "print the text while it is generated");
    arguments.flag("--json", json, "print one JSON object");
    model.declare(arguments);
  }
};
} // namespace

/// The prompts as token ids: texts, then files, then token lists.
static Result<std::vector<std::vector<int32_t>>>
readPrompts(const GenerateOptions &options, const Model &model) {
  std::vector<std::string> texts = options.prompts;
  for (const std::string &path : options.promptFiles) {
    Result<std::string> text = readFile(path);
    if (!text.ok())
      return text.status();
    texts.push_back(text.take());
  }
  std::vector<std::vector<int32_t>> prompts;
  for (const std::string &text : texts) {
    Result<std::vector<int32_t>> tokens = model.encode(text);
    if (!tokens.ok())
      return tokens.status();
    prompts.push_back(tokens.take());
  }
  return prompts;
}

static bool readTokenLists(const Arguments &arguments,
                           const std::vector<std::string> &lists,
                           std::vector<std::vector<int32_t>> &prompts) {
  for (const std::string &list : lists) {
    std::vector<int64_t> values;
    Arguments reader("generate", "", "");
    reader.integers("--tokens", values, "");
    std::string word = "--tokens=" + list, package;
    char *argv[] = {word.data(), const_cast<char *>("PKG")};
    int exitCode;
    prompts.emplace_back();
    if (!reader.parse(2, argv, package, exitCode))
      return false;
    if (!toTokens(values, prompts.back())) {
      arguments.wrongUsage("--tokens takes 32-bit token ids, got '" + list +
                           "'");
      return false;
    }
  }
  return true;
}

static Json toJson(const GenerationResult &result, bool logProbabilities) {
  Json json = {{"text", result.text},
               {"tokens", result.tokens},
               {"finish_reason", finishReasonName(result.reason)}};
  if (logProbabilities)
    json["logprobs"] = result.logProbabilities;
  if (!result.status.ok())
    json["error"] = result.status.message();
  return json;
}

static void printTexts(const GenerateOptions &options,
                       const std::vector<GenerationResult> &results) {
  for (size_t i = 0; i < results.size(); ++i) {
    if (results.size() > 1)
      std::printf("%s--- prompt %zu (%s)\n", i ? "\n" : "", i + 1,
                  finishReasonName(results[i].reason));
    if (!options.stream)
      std::printf("%s", results[i].text.c_str());
    std::printf("\n");
  }
}

int qlm::tool::runGenerate(int argc, char **argv) {
  GenerateOptions options;
  Arguments arguments("generate", "PKG", "Continues prompts, all at once.");
  options.declare(arguments);
  std::string package;
  int exitCode;
  if (!arguments.parse(argc, argv, package, exitCode))
    return exitCode;
  size_t count = options.prompts.size() + options.promptFiles.size() +
                 options.tokenLists.size();
  if (count == 0)
    return arguments.wrongUsage("give --prompt, --prompt-file or --tokens");
  if (options.stream && (count != 1 || options.json))
    return arguments.wrongUsage("--stream takes one prompt, and no --json");
  std::vector<std::vector<int32_t>> listed;
  if (!readTokenLists(arguments, options.tokenLists, listed))
    return exitWrongUsage;

  std::unique_ptr<Model> model = options.model.load(package);
  if (!model)
    return exitBadInput;
  Result<std::vector<std::vector<int32_t>>> prompts =
      readPrompts(options, *model);
  if (!prompts.ok())
    return badInput(prompts.status().message());
  prompts->insert(prompts->end(), listed.begin(), listed.end());

  Progress progress;
  int64_t generated = 0, promptTokens = 0;
  std::vector<Request> requests;
  for (std::vector<int32_t> &prompt : *prompts) {
    Request request;
    request.prompt = std::move(prompt);
    request.maxNewTokens = options.maxNewTokens;
    request.sampling = options.sampling;
    request.stops = options.stops;
    request.ignoreEos = options.ignoreEos;
    request.logProbabilities = options.logProbabilities;
    request.onToken = [&](int32_t, std::string_view text) {
      ++generated;
      if (options.stream) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
      } else {
        progress.show(std::to_string(generated) + " tokens");
      }
      return true;
    };
    promptTokens += static_cast<int64_t>(request.prompt.size());
    requests.push_back(std::move(request));
  }
  auto begin = std::chrono::steady_clock::now();
  Result<std::vector<GenerationResult>> results = model->generate(requests);
  double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
          .count();
  progress.clear();
  if (!results.ok())
    return badInput(results.status().message());

  if (options.json) {
    Json list = Json::array();
    for (const GenerationResult &result : *results)
      list.push_back(toJson(result, options.logProbabilities));
    printJson({{"results", list},
               {"prompt_tokens", promptTokens},
               {"generated_tokens", generated},
               {"tokens_per_second",
                seconds > 0 ? static_cast<double>(generated) / seconds : 0.0},
               {"peak_memory_bytes", peakMemoryBytes(*model)}});
  } else {
    printTexts(options, *results);
  }
  for (const GenerationResult &result : *results)
    if (!result.status.ok())
      return badInput(result.status.message());
  return exitSuccess;
}
