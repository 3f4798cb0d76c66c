//===- Calibrate.cpp - What a model's linears see -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Calibrate/Calibrate.h"

#include "StatisticsFile.h"
#include "qlm/Runtime/Model.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

using namespace qlm;
using Json = nlohmann::ordered_json;

static Status invalid(const std::string &message) {
  return Status(StatusCode::InvalidArgument, message);
}

Result<std::string> qlm::readCalibrationText(const std::string &path) {
  Result<std::string> content = readFile(path);
  if (!content.ok())
    return content.status();
  size_t dot = path.rfind('.');
  std::string extension = dot == std::string::npos ? "" : path.substr(dot);
  if (extension != ".jsonl" && extension != ".json")
    return content;
  std::string texts;
  int64_t number = 0;
  for (size_t begin = 0; begin < content->size();) {
    size_t end = std::min(content->find('\n', begin), content->size());
    std::string line = content->substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos)
      continue;
    Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object() || !object.contains("text") ||
        !object["text"].is_string())
      return invalid("each line of '" + path +
                     "' must be an object with a string \"text\", line " +
                     std::to_string(number) + " is not");
    texts += object["text"].get<std::string>() + "\n";
  }
  return texts;
}

namespace {

/// One run over the text.
class Calibration {
public:
  explicit Calibration(const CalibrationOptions &options) : options(options) {}
  Result<CalibrationSummary> run();

private:
  Status load();
  Status cutWindows();
  Status findLabels();
  Status runPass(const std::vector<size_t> &pass);
  void observe(const std::vector<std::unique_ptr<LinearObserver>> &observers);
  Status runWindows(const std::vector<LinearObserver *> &observers);
  Status writeAll(const std::vector<LinearObserver *> &observers);
  Status
  forEach(const std::vector<LinearObserver *> &observers, int threads,
          const std::function<Status(LinearObserver &observer)> &work) const;

  const CalibrationOptions &options;
  std::unique_ptr<GpuMoments> gpu; ///< null: rows are seen here
  std::unique_ptr<Model> model;
  int64_t window = 0;
  std::vector<std::vector<int32_t>> windows;
  /// Labels and features, in the order of launches.
  std::vector<std::pair<std::string, int64_t>> labels;
  std::vector<int64_t> observedAt; ///< label of each launch, or -1
  std::unique_ptr<StatisticsFile> file;
  CalibrationProgress progress;
};

} // namespace

Status Calibration::load() {
  Model::Options load;
  load.threads = options.threads;
  load.cudaDriver = options.cudaDriver;
  // A copy in huge pages would be memory beside the moments', and for a while
  // beside the mapping too; long windows gain little from it.
  load.weightsMemory = WeightsMemory::Mapped;
  Result<std::unique_ptr<Model>> loaded = Model::load(options.package, load);
  if (!loaded.ok())
    return loaded.status();
  model = loaded.take();
  if (gpu && !model->getExecutor().hasDeviceRows())
    return invalid("device cuda needs a package that was compiled for it");
  return Status();
}

Status Calibration::cutWindows() {
  const MemoryPlan &plan = model->getManifest().plan;
  int64_t largest =
      std::min({plan.maxStepTokens, plan.maxContext, plan.maxLogitRows});
  window = options.window ? options.window : largest;
  if (window < 1 || window > largest)
    return invalid("window must be from 1 to " + std::to_string(largest) +
                   ", got " + std::to_string(window));
  Result<std::string> text = readCalibrationText(options.text);
  if (!text.ok())
    return text.status();
  Result<std::vector<int32_t>> tokens = model->encode(*text);
  if (!tokens.ok())
    return tokens.status();
  if (options.maxTokens > 0 &&
      static_cast<int64_t>(tokens->size()) > options.maxTokens)
    tokens->resize(static_cast<size_t>(options.maxTokens));
  auto count = static_cast<int64_t>(tokens->size());
  if (count < window)
    return invalid("calibration text must have at least one window of " +
                   std::to_string(window) + " tokens, got " +
                   std::to_string(count));
  for (int64_t first = 0; first + window <= count; first += window)
    windows.emplace_back(tokens->begin() + first,
                         tokens->begin() + first + window);
  return Status();
}

Status Calibration::findLabels() {
  for (const Launch &launch : model->getManifest().launches) {
    auto observed = parseObserveLabel(launch.label);
    if (!observed) {
      observedAt.push_back(-1);
      continue;
    }
    observedAt.push_back(static_cast<int64_t>(labels.size()));
    labels.push_back(*observed);
  }
  if (labels.empty())
    return invalid("package '" + options.package + "' has no observers");
  return Status();
}

/// Does \p work for each of \p observers, on at most \p threads threads.
Status Calibration::forEach(
    const std::vector<LinearObserver *> &observers, int threads,
    const std::function<Status(LinearObserver &observer)> &work) const {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status failure;
  auto take = [&] {
    for (size_t i = next++; i < observers.size(); i = next++)
      if (Status status = work(*observers[i]); !status.ok()) {
        std::lock_guard<std::mutex> lock(mutex);
        failure = status;
      }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i)
    helpers.emplace_back(take);
  take();
  for (std::thread &helper : helpers)
    helper.join();
  return failure;
}

/// Shows rows to \p observers, by label; null ones are for another pass.
void Calibration::observe(
    const std::vector<std::unique_ptr<LinearObserver>> &observers) {
  auto find = [this, &observers](size_t launch) {
    return observers[static_cast<size_t>(observedAt[launch])].get();
  };
  Executor &executor = model->getExecutor();
  if (gpu)
    return executor.setDeviceObserver([find](const Executor::DeviceRows &rows) {
      LinearObserver *observer = find(rows.launch);
      return observer ? observer->addDeviceRows(rows) : Status();
    });
  executor.setObserver(
      [find](size_t launch, const float *rows, int64_t lo, int64_t hi) {
        if (LinearObserver *observer = find(launch))
          observer->put(lo, rows + lo * observer->getFeatures(), hi - lo);
      });
}

Status Calibration::runWindows(const std::vector<LinearObserver *> &observers) {
  for (const std::vector<int32_t> &tokens : windows) {
    if (options.cancelled && options.cancelled())
      return invalid("interrupted");
    if (!gpu)
      for (LinearObserver *observer : observers)
        observer->reserveRows(window);
    QLM_RETURN_IF_ERROR(model->logits(tokens, window, [](int64_t, float *) {}));
    if (!gpu)
      QLM_RETURN_IF_ERROR(
          forEach(observers, model->threads(),
                  [](LinearObserver &observer) { return observer.addRows(); }));
    progress.tokensDone += window;
    if (options.progress)
      options.progress(progress);
  }
  return Status();
}

Status Calibration::writeAll(const std::vector<LinearObserver *> &observers) {
  // Of the processor's, each is made a whole matrix on its way to the file.
  constexpr int kGpuWriters = 4;
  return forEach(observers, gpu ? kGpuWriters : 1, [&](LinearObserver &from) {
    std::vector<Statistic> statistics = from.getStatistics();
    if (gpu)
      QLM_RETURN_IF_ERROR(from.fetch([&](int64_t first, const float *values,
                                         int64_t count) {
        return file->writeElements(statistics[0].name, first, values, count);
      }));
    return file->write(from.getLabel(), statistics, from.finish());
  });
}

/// Runs all windows with observers for the labels of \p pass.
Status Calibration::runPass(const std::vector<size_t> &pass) {
  std::vector<std::unique_ptr<LinearObserver>> observers(labels.size());
  std::vector<LinearObserver *> active;
  for (size_t label : pass) {
    observers[label] = std::make_unique<LinearObserver>(
        labels[label].first, labels[label].second, gpu.get(),
        static_cast<int64_t>(windows.size()));
    active.push_back(observers[label].get());
  }
  progress.labels = active.front()->getLabel();
  observe(observers);
  Status status = runWindows(active);
  model->getExecutor().setObserver(nullptr);
  model->getExecutor().setDeviceObserver(nullptr);
  return status.ok() ? writeAll(active) : status;
}

Result<CalibrationSummary> Calibration::run() {
  if (options.device != "cpu") {
    Result<std::unique_ptr<GpuMoments>> opened =
        GpuMoments::open(options.cudaDriver,
                         options.blas.empty() ? getBlasNames() : options.blas);
    if (!opened.ok())
      return opened.status();
    gpu = opened.take();
  }
  QLM_RETURN_IF_ERROR(load());
  QLM_RETURN_IF_ERROR(cutWindows());
  QLM_RETURN_IF_ERROR(findLabels());
  CalibrationSummary summary;
  summary.tokens = static_cast<int64_t>(windows.size()) * window;
  summary.labels = static_cast<int64_t>(labels.size());
  std::vector<Statistic> tensors;
  for (const auto &[label, features] : labels)
    for (Statistic &statistic : LinearObserver(label, features).getStatistics())
      tensors.push_back(std::move(statistic));
  format::Checksum sum;
  for (const std::vector<int32_t> &tokens : windows)
    sum.update(tokens.data(), tokens.size() / 8 * 32);
  std::string identity = model->getManifest().weights.checksum + "-" +
                         std::to_string(sum.finish()) + "-" +
                         std::to_string(summary.tokens);
  Result<StatisticsFile> opened = StatisticsFile::open(
      options.output, identity, tensors, summary.tokens, window);
  if (!opened.ok())
    return opened.status();
  file = std::make_unique<StatisticsFile>(opened.take());
  summary.resumed = file->wasResumed();

  // Labels are taken in turn while their moments fit.
  std::vector<std::vector<size_t>> passes;
  int64_t bytes = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (file->isDone(labels[i].first))
      continue;
    int64_t needed = LinearObserver::getMomentBytes(labels[i].second,
                                                    /*onGpu=*/gpu != nullptr);
    if (passes.empty() || bytes + needed > options.memoryLimit) {
      passes.emplace_back();
      bytes = 0;
    }
    passes.back().push_back(i);
    bytes += needed;
  }
  summary.passes = static_cast<int64_t>(passes.size());
  progress.tokensTotal = summary.tokens * summary.passes;
  for (const std::vector<size_t> &pass : passes)
    QLM_RETURN_IF_ERROR(runPass(pass));
  QLM_RETURN_IF_ERROR(file->finish());
  return summary;
}

Result<CalibrationSummary> qlm::calibrate(const CalibrationOptions &options) {
  if (options.memoryLimit <= 0 || options.window < 0 || options.maxTokens < 0)
    return invalid("memory limit, window and tokens must be positive");
  if (options.device != "cpu" && options.device != "cuda")
    return invalid("device must be cpu or cuda, got '" + options.device + "'");
  return Calibration(options).run();
}
