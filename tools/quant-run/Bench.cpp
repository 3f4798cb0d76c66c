//===- Bench.cpp - Measures prefill and decode speed ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// For each batch size: `batch` requests of random tokens are prefilled and
// decoded together, end-of-sequence ignored.
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "qlm/Runtime/Ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

using namespace qlm;
using namespace qlm::tool;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

/// Time to measure what the machine can do at most.
static constexpr double ceilingSeconds = 0.4;

namespace {
struct BenchOptions {
  ModelOptions model;
  std::vector<int64_t> batches = {1};
  int64_t promptTokens = 512, newTokens = 64;
  bool profile = false, json = false;

  void declare(Arguments &arguments) {
    arguments.integers("--batch", batches,
                       "batch sizes, e.g. 1,8 (default: 1)");
    arguments.integer("--prompt-tokens", promptTokens,
                      "tokens of each prompt (default: 512)");
    arguments.integer("--new-tokens", newTokens,
                      "tokens to decode after each (default: 64)");
    arguments.flag("--profile", profile, "add the time of each kind of launch");
    arguments.flag("--json", json, "print one JSON object");
    model.declare(arguments);
  }
};

/// Where the time of each phase goes.
struct Profiles {
  StepProfile prefill, decode;
};

struct Measurement {
  int64_t batch = 0;
  double prefillTps = 0, decodeTps = 0, firstTokenSeconds = 0;
  /// Weight bytes of decoding, and operations of the prefill's linears.
  double bandwidth = 0, prefillTops = 0;
  int64_t peakBytes = 0;
};
} // namespace

static double secondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Checks what the plan allows, naming the option that recompiles it.
static Status checkSizes(const BenchOptions &options, const MemoryPlan &plan) {
  auto error = [](const std::string &what, int64_t limit, const char *flag) {
    return Status(StatusCode::InvalidArgument,
                  what + ", the package's limit is " + std::to_string(limit) +
                      "; recompile it with quantc " + flag);
  };
  for (int64_t batch : options.batches)
    if (batch > plan.maxBatch)
      return error("batch is " + std::to_string(batch), plan.maxBatch,
                   "--max-batch");
  // Subtraction cannot overflow: neither number is negative here.
  if (options.promptTokens > plan.maxContext - options.newTokens)
    return error("prompt and new tokens are " +
                     std::to_string(options.promptTokens) + " and " +
                     std::to_string(options.newTokens),
                 plan.maxContext, "--max-context");
  return Status();
}

/// Any tokens do for timing; equal from run to run, and different for each
/// seed: a prompt that the cache knows would not be computed.
static std::vector<int32_t> makePrompt(int64_t count, int64_t vocabularySize,
                                       uint64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(
        static_cast<int32_t>(uniformAt(seed, static_cast<uint64_t>(i)) *
                             static_cast<double>(vocabularySize)));
  return tokens;
}

namespace {
/// Watches the tokens of one batch. Decoding is timed from the step that ends
/// the last prompt, over steps in which every request decodes: the requests
/// that began first go on until the wanted number of such steps is done.
struct BatchClock {
  int64_t batch, wantedSteps;
  Executor &executor;
  Profiles *profiles; ///< or null
  Clock::time_point begin = Clock::now();
  int64_t begun = 0, steps = 0;
  double prefillSeconds = 0, decodeSeconds = 0;

  /// Takes a token of \p request; false when the batch is done.
  bool see(int64_t request, bool isFirst) {
    if (isFirst && ++begun == batch) {
      prefillSeconds = secondsSince(begin);
      if (profiles)
        executor.setProfile(&profiles->decode);
    } else if (!isFirst && request == 0 && begun == batch &&
               steps < wantedSteps && ++steps == wantedSteps)
      decodeSeconds = secondsSince(begin) - prefillSeconds;
    return begun < batch || steps < wantedSteps;
  }
};
} // namespace

/// Operations of the linears of a prompt's token; its last row's logits count
/// once a prompt.
static double prefillOperations(const Manifest &manifest, int64_t tokens) {
  double sum = 0;
  for (const Launch &launch : manifest.launches) {
    bool ofLogits = launch.tiles.size == TileSize::LogitRows;
    for (const LaunchArgument &argument : launch.arguments)
      ofLogits |= argument.kind == LaunchArgumentKind::Logits;
    sum += static_cast<double>(launch.flopsPerRow) *
           static_cast<double>(ofLogits ? 1 : tokens);
  }
  return sum;
}

static Result<Measurement> measure(Model &model, const BenchOptions &options,
                                   int64_t batch, uint64_t firstSeed,
                                   Profiles *profiles) {
  const Manifest &manifest = model.getManifest();
  BatchClock clock{batch, options.newTokens - 1, model.getExecutor(), profiles};
  if (profiles)
    model.getExecutor().setProfile(&profiles->prefill);
  std::vector<Request> requests;
  for (int64_t i = 0; i < batch; ++i) {
    Request request;
    request.prompt =
        makePrompt(options.promptTokens, manifest.model.vocabularySize,
                   firstSeed + static_cast<uint64_t>(i));
    request.maxNewTokens = manifest.plan.maxContext - options.promptTokens;
    request.ignoreEos = true;
    request.onToken = [&clock, i, isFirst = true](int32_t,
                                                  std::string_view) mutable {
      return clock.see(i, std::exchange(isFirst, false));
    };
    requests.push_back(std::move(request));
  }
  clock.begin = Clock::now();
  Result<std::vector<GenerationResult>> results = model.generate(requests);
  if (!results.ok())
    return results.status();

  Measurement measurement;
  measurement.batch = batch;
  for (const GenerationResult &result : *results) {
    QLM_RETURN_IF_ERROR(result.status);
    measurement.firstTokenSeconds +=
        result.firstTokenSeconds / static_cast<double>(batch);
  }
  measurement.prefillTps =
      static_cast<double>(batch * options.promptTokens) / clock.prefillSeconds;
  measurement.prefillTops = static_cast<double>(batch) *
                            prefillOperations(manifest, options.promptTokens) /
                            clock.prefillSeconds * 1e-12;
  if (clock.decodeSeconds > 0) {
    double stepsPerSecond =
        static_cast<double>(clock.steps) / clock.decodeSeconds;
    measurement.decodeTps = static_cast<double>(batch) * stepsPerSecond;
    measurement.bandwidth =
        static_cast<double>(model.getExecutor().bytesPerStep()) *
        stepsPerSecond * 1e-9;
  }
  measurement.peakBytes = peakMemoryBytes(model);
  return measurement;
}

static Json toJson(const Measurement &measurement) {
  return {{"batch", measurement.batch},
          {"pp_tps", measurement.prefillTps},
          {"tg_tps", measurement.decodeTps},
          {"ttft_s", measurement.firstTokenSeconds},
          {"bandwidth_gbps", measurement.bandwidth},
          {"prefill_tops", measurement.prefillTops},
          {"peak_memory_bytes", measurement.peakBytes}};
}

static Json toJson(const std::vector<ProfileEntry> &entries) {
  Json list = Json::array();
  for (const ProfileEntry &entry : entries)
    list.push_back({{"label", entry.label},
                    {"launches", entry.launches},
                    {"seconds", entry.seconds},
                    {"bytes", entry.bytes},
                    {"bandwidth_gbps", entry.bandwidthGbps()},
                    {"tops", entry.arithmeticTops()}});
  return list;
}

static Json toJson(const Ceilings &ceilings) {
  return {{"read_gbps", ceilings.readGbps},
          {"arithmetic_tops", ceilings.arithmeticTops},
          {"unit", ceilings.unit}};
}

static void printProfile(const char *phase,
                         const std::vector<ProfileEntry> &entries) {
  double total = 0;
  for (const ProfileEntry &entry : entries)
    total += entry.seconds;
  std::printf("\n%-28s %9s %9s %6s %8s %8s\n", phase, "launches", "ms", "%",
              "GB/s", "TOP/s");
  for (const ProfileEntry &entry : entries)
    std::printf("%-28s %9lld %9.2f %6.1f %8.2f %8.3f\n", entry.label.c_str(),
                static_cast<long long>(entry.launches), entry.seconds * 1e3,
                total > 0 ? entry.seconds / total * 100 : 0.0,
                entry.bandwidthGbps(), entry.arithmeticTops());
}

static void print(const Json &output,
                  const std::vector<Measurement> &measurements,
                  const BenchOptions &options) {
  if (options.json)
    return printJson(output);
  std::printf("%6s %12s %8s %12s %8s %10s %10s\n", "batch", "prefill t/s",
              "TOP/s", "decode t/s", "GB/s", "ttft ms", "peak MB");
  for (const Measurement &m : measurements)
    std::printf("%6lld %12.1f %8.3f %12.1f %8.2f %10.1f %10.1f\n",
                static_cast<long long>(m.batch), m.prefillTps, m.prefillTops,
                m.decodeTps, m.bandwidth, m.firstTokenSeconds * 1e3,
                static_cast<double>(m.peakBytes) * 1e-6);
}

/// What the figures can be compared with.
static void printCeilings(const Ceilings &ceilings, Model &model) {
  std::printf("\nat most, by %d threads: %.2f GB/s of weights (%s), %.3f "
              "TOP/s (%s)\n",
              model.threads(), ceilings.readGbps,
              model.getExecutor().areWeightsCopied() ? "copied" : "mapped",
              ceilings.arithmeticTops, ceilings.unit.c_str());
}

int qlm::tool::runBench(int argc, char **argv) {
  BenchOptions options;
  Arguments arguments("bench", "PKG", "Measures prefill and decode speed.");
  options.declare(arguments);
  std::string package;
  int exitCode;
  if (!arguments.parse(argc, argv, package, exitCode))
    return exitCode;
  for (int64_t batch : options.batches)
    if (batch < 1)
      return arguments.wrongUsage("--batch takes sizes above 0");
  if (options.promptTokens < 1 || options.newTokens < 1)
    return arguments.wrongUsage(
        "--prompt-tokens and --new-tokens must be above 0");

  Clock::time_point begin = Clock::now();
  std::unique_ptr<Model> model = options.model.load(package);
  if (!model)
    return exitBadInput;
  double loadSeconds = secondsSince(begin);
  model->getExecutor().settle();
  if (Status status = checkSizes(options, model->getManifest().plan);
      !status.ok())
    return badInput(status.message());

  Profiles profiles;
  Progress progress;
  uint64_t seed = 0;
  std::vector<Measurement> measurements;
  Json output = {{"results", Json::array()}};
  for (int64_t batch : options.batches) {
    progress.show("batch " + std::to_string(batch));
    Result<Measurement> measurement = measure(
        *model, options, batch, seed, options.profile ? &profiles : nullptr);
    seed += static_cast<uint64_t>(batch);
    progress.clear();
    if (!measurement.ok())
      return badInput(measurement.status().message());
    measurements.push_back(*measurement);
    output["results"].push_back(toJson(*measurement));
  }
  if (measurements.size() == 1) {
    output["pp_tps"] = measurements[0].prefillTps;
    output["tg_tps"] = measurements[0].decodeTps;
  }
  std::optional<Ceilings> ceilings;
  if (!model->getManifest().target.isCuda()) {
    progress.show("ceilings");
    ceilings = measureCeilings(model->getPackage(),
                               model->getExecutor().weightsMemory(),
                               model->threads(), ceilingSeconds);
    progress.clear();
    output["ceilings"] = toJson(*ceilings);
    output["weights_memory"] =
        model->getExecutor().areWeightsCopied() ? "copied" : "mapped";
  }
  output["load_s"] = loadSeconds;
  output["threads"] = model->threads();
  output["predicted_peak_bytes"] = model->getManifest().plan.peakBytes;
  std::vector<ProfileEntry> prefill =
      profiles.prefill.summarize(model->getManifest());
  std::vector<ProfileEntry> decode =
      profiles.decode.summarize(model->getManifest());
  if (options.profile)
    output["profile"] = {{"prefill", toJson(prefill)},
                         {"decode", toJson(decode)}};
  print(output, measurements, options);
  if (options.json)
    return exitSuccess;
  if (options.profile) {
    printProfile("prefill", prefill);
    printProfile("decode", decode);
  }
  if (ceilings)
    printCeilings(*ceilings, *model);
  return exitSuccess;
}
