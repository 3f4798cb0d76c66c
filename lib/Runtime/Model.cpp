//===- Model.cpp - A package, ready to generate ---------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Model.h"

#include "FieldReader.h"
#include "qlm/Runtime/CpuCores.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sys/stat.h>
#include <thread>

using namespace qlm;

Model::~Model() = default;

Status qlm::checkTokens(const std::vector<int32_t> &tokens,
                        int64_t vocabularySize) {
  for (int32_t token : tokens)
    if (token < 0 || token >= vocabularySize)
      return Status(StatusCode::InvalidArgument,
                    "token id must be from 0 to " +
                        std::to_string(vocabularySize - 1) + ", got " +
                        std::to_string(token));
  return Status();
}

int64_t qlm::peakResidentBytes() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("VmHWM:", 0) == 0)
      return std::strtoll(line.c_str() + 6, nullptr, 10) * 1024;
  return 0;
}

static bool exists(const std::string &path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

/// End-of-sequence ids: those of generation_config.json where it names any,
/// as it overrides the model's config; else the manifest's.
static Result<std::vector<int32_t>> readEosTokenIds(const Package &package) {
  std::vector<int32_t> fallback = package.getManifest().model.eosTokenIds;
  std::string path = package.getPath() + "/" + format::kGenerationConfigFile;
  if (!exists(path))
    return fallback;
  Result<std::string> text = readFile(path);
  if (!text.ok())
    return text.status();
  Result<tokenizer::Json> config = tokenizer::parseJson(*text, path);
  if (!config.ok())
    return config.status();
  if (!config->is_object() || !config->contains("eos_token_id") ||
      (*config)["eos_token_id"].is_null())
    return fallback;
  tokenizer::Json ids = (*config)["eos_token_id"];
  if (!ids.is_array())
    ids = tokenizer::Json::array({ids});
  std::vector<int32_t> result;
  for (const tokenizer::Json &id : ids) {
    std::optional<int32_t> value = tokenizer::readTokenId(id);
    if (!value)
      return Status(StatusCode::Corrupt,
                    path + ": eos_token_id must be a token id or a list of "
                           "them");
    result.push_back(*value);
  }
  return result;
}

Result<std::unique_ptr<Model>> Model::load(const std::string &path,
                                           const Options &options) {
  std::unique_ptr<Model> model(new Model());
  Result<int> threads =
      chooseThreads(options.threads, getCoreLimits(), model->notes);
  if (!threads.ok())
    return threads.status();

  // Both take long for a big model, and neither needs the other.
  std::string tokenizerPath = path + "/" + format::kTokenizerFile;
  bool hasTokenizer = exists(tokenizerPath);
  Result<std::unique_ptr<Tokenizer>> tokenizer = Status();
  std::thread tokenizerLoader;
  if (hasTokenizer)
    tokenizerLoader =
        std::thread([&] { tokenizer = Tokenizer::load(tokenizerPath); });
  Result<std::unique_ptr<Package>> package = Package::load(
      path, {options.verifyWeights, options.weightsMemory, *threads,
             /*copyWhileLoading=*/options.reserveMemory});
  if (tokenizerLoader.joinable())
    tokenizerLoader.join();
  if (!package.ok())
    return package.status();
  if (hasTokenizer && !tokenizer.ok())
    return tokenizer.status();
  model->package = package.take();
  if (const std::string &note = model->package->note(); !note.empty())
    model->notes += (model->notes.empty() ? "" : "; ") + note;
  if (hasTokenizer)
    model->tokenizer = tokenizer.take();

  Result<std::vector<int32_t>> eosTokenIds = readEosTokenIds(*model->package);
  if (!eosTokenIds.ok())
    return eosTokenIds.status();
  Result<std::unique_ptr<Executor>> executor = Executor::create(
      *model->package, {*threads, options.reserveMemory, options.cudaDriver});
  if (!executor.ok())
    return executor.status();
  model->executor = executor.take();
  model->eosTokenIds = eosTokenIds.take();
  QLM_RETURN_IF_ERROR(model->configure(options.engine));
  return model;
}

Status Model::configure(const EngineOptions &options) {
  std::lock_guard<std::mutex> guard(mutex);
  if (engine) {
    EngineStats stats = engine->getStats();
    if (stats.waiting + stats.running)
      return Status(StatusCode::InvalidArgument,
                    "the engine can't change while " +
                        std::to_string(stats.waiting + stats.running) +
                        " texts are on their way");
  }
  Result<std::unique_ptr<Engine>> created = Engine::create(
      *executor, getManifest(), tokenizer.get(), eosTokenIds, options);
  if (!created.ok())
    return created.status();
  engine = created.take();
  return Status();
}

Result<std::vector<int32_t>> Model::encode(std::string_view text) const {
  if (!tokenizer)
    return Status(StatusCode::Unsupported,
                  package->getPath() + ": package has no " +
                      format::kTokenizerFile + ", give token ids");
  return tokenizer->encode(text);
}

Result<std::vector<GenerationResult>>
Model::generate(const std::vector<Request> &requests) {
  for (size_t i = 0; i < requests.size(); ++i)
    if (Status status = engine->check(requests[i]); !status.ok()) {
      std::string which =
          requests.size() == 1 ? "" : "prompt " + std::to_string(i + 1) + ": ";
      return Status(status.getCode(), which + status.message());
    }
  std::vector<int64_t> numbers;
  {
    std::lock_guard<std::mutex> guard(mutex);
    for (const Request &request : requests) {
      numbers.push_back(engine->newNumber());
      QLM_RETURN_IF_ERROR(engine->add(numbers.back(), request));
    }
  }
  std::vector<GenerationResult> results;
  for (int64_t number : numbers) {
    std::optional<std::vector<GenerationResult>> taken;
    // Other callers' steps serve these requests too, and these steps theirs.
    while (!taken) {
      std::lock_guard<std::mutex> guard(mutex);
      taken = engine->take(number);
      if (!taken && !engine->step() && !(taken = engine->take(number)))
        return Status(StatusCode::Internal, "a request was lost");
    }
    std::move(taken->begin(), taken->end(), std::back_inserter(results));
  }
  return results;
}

Status Model::logits(const std::vector<int32_t> &tokens, int64_t chunk,
                     const std::function<void(int64_t, float *)> &onRow) {
  std::lock_guard<std::mutex> lock(mutex);
  const MemoryPlan &plan = getManifest().plan;
  int64_t count = static_cast<int64_t>(tokens.size());
  if (count == 0 || count > plan.maxContext)
    return Status(StatusCode::InvalidArgument,
                  "tokens must number from 1 to the context's " +
                      std::to_string(plan.maxContext) + ", got " +
                      std::to_string(count));
  QLM_RETURN_IF_ERROR(checkTokens(tokens, getManifest().model.vocabularySize));
  if (chunk < 0)
    return Status(StatusCode::InvalidArgument,
                  "chunk must not be negative, got " + std::to_string(chunk));
  int64_t largest = std::min(plan.maxStepTokens, plan.maxLogitRows);
  chunk = chunk == 0 ? largest : std::min(chunk, largest);

  KvPages &pages = engine->getPages();
  PageTable table;
  if (!pages.reserve(table, count))
    return Status(StatusCode::ResourceExhausted,
                  "no pages are free for " + std::to_string(count) + " tokens");
  StepBatch &batch = executor->batch();
  for (int64_t first = 0; first < count; first += chunk) {
    int64_t rows = std::min(chunk, count - first);
    batch.clear();
    if (!batch.addSequence(tokens.data() + first, rows, first, table.pages,
                           rows)) {
      pages.release(table);
      return Status(StatusCode::Internal, "a chunk does not fit in a step");
    }
    if (Status ran = executor->run(); !ran.ok()) {
      pages.release(table);
      return ran;
    }
    for (int64_t row = 0; row < rows; ++row)
      onRow(first + row, executor->logits(row));
  }
  pages.release(table);
  return Status();
}
