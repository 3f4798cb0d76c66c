//===- Model.h - A package, ready to generate -------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Example:
//
//   auto model = qlm::Model::load("tiny.qlm", {});
//   if (!model.ok())
//     return report(model.status());
//   qlm::Request request;
//   request.prompt = *(*model)->encode("def main():");
//   auto results = (*model)->generate({request});
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_MODEL_H
#define QLM_RUNTIME_MODEL_H

#include "qlm/Runtime/Engine.h"
#include "qlm/Runtime/Executor.h"
#include "qlm/Runtime/Package.h"
#include "qlm/Runtime/Tokenizer.h"

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace qlm {

/// A loaded package with its memory and threads. Calls from several threads
/// share the steps of one engine.
class Model {
public:
  struct Options {
    /// Threads that compute; 0 takes every core this process may use. More
    /// than those are cut to them, with a note.
    int threads = 0;
    /// See Package::Options.
    bool verifyWeights = true;
    /// See WeightsMemory.
    WeightsMemory weightsMemory = WeightsMemory::Automatic;
    /// Take all of the plan's memory while loading: what doesn't fit fails now,
    /// and not in the middle of a text.
    bool reserveMemory = false;
    /// See Executor::Options.
    std::string cudaDriver = Executor::Options().cudaDriver;
    EngineOptions engine;
  };

  /// Loads the package folder at \p path. Errors: as Package::load,
  /// Tokenizer::load, Executor::create and Engine::create; InvalidArgument
  /// for negative threads.
  static Result<std::unique_ptr<Model>> load(const std::string &path,
                                             const Options &options);
  ~Model();

  const Manifest &getManifest() const { return package->getManifest(); }
  const Package &getPackage() const { return *package; }
  /// Null when the package has no tokenizer.json.
  const Tokenizer *getTokenizer() const { return tokenizer.get(); }
  int threads() const { return executor->threads(); }
  /// What the caller should know about the options taken; often empty.
  const std::string &note() const { return notes; }
  Executor &getExecutor() { return *executor; }

  /// The token ids of \p text as a prompt, special tokens added.
  /// Errors: Unsupported (no tokenizer), and those of Tokenizer::encode.
  Result<std::vector<int32_t>> encode(std::string_view text) const;

  /// Uses the plan in another way from now on. Errors: InvalidArgument, naming
  /// the option, or when requests are on their way; nothing changes then.
  Status configure(const EngineOptions &options);

  /// Runs all of \p requests, batched, and returns their results in order,
  /// one a choice. A request that fails while running has its status in its
  /// result. Callbacks may come on the thread of another caller.
  /// Errors: InvalidArgument, naming the request, when one breaks a rule;
  /// none is run then.
  Result<std::vector<GenerationResult>>
  generate(const std::vector<Request> &requests);

  /// Calls \p onRow with each token's index and its logits, float32
  /// [vocabularySize], in order; \p onRow may change them. At most \p chunk
  /// tokens a step, 0 for the plan's largest.
  /// Errors: InvalidArgument (no tokens, more than the context, a token
  /// outside the vocabulary), ResourceExhausted.
  Status logits(const std::vector<int32_t> &tokens, int64_t chunk,
                const std::function<void(int64_t row, float *logits)> &onRow);

  /// Adds requests and runs steps; only with lock() held.
  Engine &getEngine() { return *engine; }
  std::unique_lock<std::mutex> lock() {
    return std::unique_lock<std::mutex>(mutex);
  }

  /// Whether the caller may start the model's engine thread: one at a time.
  bool claimThread() { return !hasThread.exchange(true); }
  void releaseThread() { hasThread = false; }

private:
  Model() = default;

  std::unique_ptr<Package> package;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Executor> executor;
  std::vector<int32_t> eosTokenIds;
  std::unique_ptr<Engine> engine;
  std::string notes;
  std::mutex mutex;
  std::atomic<bool> hasThread{false};
};

/// Fails with InvalidArgument, naming the token, unless every one is at least
/// 0 and below \p vocabularySize.
Status checkTokens(const std::vector<int32_t> &tokens, int64_t vocabularySize);

/// Largest resident memory of this process so far, in bytes; 0 where the
/// system doesn't tell.
int64_t peakResidentBytes();

} // namespace qlm

#endif // QLM_RUNTIME_MODEL_H
