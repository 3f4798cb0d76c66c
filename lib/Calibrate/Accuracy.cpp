//===- Accuracy.cpp - How near a package is to a reference ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Calibrate/Accuracy.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

using namespace qlm;

namespace {

/// Sums over the positions measured so far.
struct Totals {
  int64_t positions = 0;
  double negativeLogLikelihood = 0, divergence = 0;
  int64_t agreements = 0;

  double mean(double sum) const {
    return positions ? sum / static_cast<double>(positions) : 0;
  }
};

/// The rows that a model's observers saw in one window, by label.
class SeenRows {
public:
  SeenRows(Model &model, int64_t rows) : model(model) {
    const std::vector<Launch> &launches = model.getManifest().launches;
    features.assign(launches.size(), 0);
    for (size_t i = 0; i < launches.size(); ++i)
      if (auto observed = parseObserveLabel(launches[i].label)) {
        features[i] = observed->second;
        labels.push_back({observed->first, i});
        values[i].resize(static_cast<size_t>(rows * observed->second));
      }
    model.getExecutor().setObserver(
        [this](size_t launch, const float *rows, int64_t lo, int64_t hi) {
          int64_t width = features[launch];
          std::copy(rows + lo * width, rows + hi * width,
                    values.at(launch).begin() + lo * width);
        });
  }
  ~SeenRows() { model.getExecutor().setObserver(nullptr); }
  SeenRows(const SeenRows &) = delete;
  SeenRows &operator=(const SeenRows &) = delete;

  const std::vector<std::pair<std::string, size_t>> &getLabels() const {
    return labels;
  }
  /// The first \p rows rows of launch \p launch.
  const float *get(size_t launch) const { return values.at(launch).data(); }
  int64_t getFeatures(size_t launch) const { return features[launch]; }

private:
  Model &model;
  std::vector<int64_t> features; ///< of each launch; 0: not observed
  std::vector<std::pair<std::string, size_t>> labels;
  std::map<size_t, std::vector<float>> values;
};

/// Squared norms of differences and of the reference, label by label.
class LayerErrors {
public:
  static Result<std::unique_ptr<LayerErrors>>
  create(Model &model, Model &reference, int64_t rows) {
    auto errors = std::make_unique<LayerErrors>(model, reference, rows);
    const auto &mine = errors->mine.getLabels();
    const auto &other = errors->other.getLabels();
    bool same = !mine.empty() && mine.size() == other.size();
    for (size_t i = 0; same && i < mine.size(); ++i)
      same = mine[i].first == other[i].first &&
             errors->mine.getFeatures(mine[i].second) ==
                 errors->other.getFeatures(other[i].second);
    if (!same)
      return Status(StatusCode::InvalidArgument,
                    "errors of layers need two packages with the same "
                    "observers: compile both with --observe");
    return errors;
  }

  LayerErrors(Model &model, Model &reference, int64_t rows)
      : mine(model, rows), other(reference, rows),
        sums(mine.getLabels().size()) {}

  void add(int64_t rows) {
    for (size_t i = 0; i < sums.size(); ++i) {
      size_t launch = mine.getLabels()[i].second;
      const float *x = mine.get(launch);
      const float *r = other.get(other.getLabels()[i].second);
      for (int64_t k = 0; k < rows * mine.getFeatures(launch); ++k) {
        double difference = static_cast<double>(x[k]) - r[k];
        sums[i].first += difference * difference;
        sums[i].second += static_cast<double>(r[k]) * r[k];
      }
    }
  }

  std::vector<std::pair<std::string, double>> finish() const {
    std::vector<std::pair<std::string, double>> errors;
    for (size_t i = 0; i < sums.size(); ++i)
      errors.push_back(
          {mine.getLabels()[i].first,
           sums[i].second > 0 ? std::sqrt(sums[i].first / sums[i].second) : 0});
    return errors;
  }

private:
  SeenRows mine, other;
  std::vector<std::pair<double, double>> sums;
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
                            LayerErrors *layers, Totals &totals) {
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
  if (layers)
    layers->add(static_cast<int64_t>(inputs.size()));
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

static Status checkModels(const Model &model, const Model *reference,
                          const AccuracyOptions &options) {
  const MemoryPlan &plan = model.getManifest().plan;
  int64_t context = plan.maxContext;
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
  if (options.window > context)
    return Status(StatusCode::InvalidArgument,
                  "window must be at most the context's " +
                      std::to_string(context) + " tokens, got " +
                      std::to_string(options.window));
  if (!options.layers)
    return Status();
  if (!reference)
    return Status(StatusCode::InvalidArgument,
                  "errors of layers need a reference");
  int64_t step = std::min({plan.maxStepTokens, plan.maxLogitRows,
                           reference->getManifest().plan.maxStepTokens,
                           reference->getManifest().plan.maxLogitRows});
  if (options.window > step)
    return Status(StatusCode::InvalidArgument,
                  "window must be at most a step's " + std::to_string(step) +
                      " tokens for errors of layers, got " +
                      std::to_string(options.window));
  return Status();
}

Result<Accuracy> qlm::measureAccuracy(Model &model, Model *reference,
                                      const std::vector<int32_t> &tokens,
                                      const AccuracyOptions &options) {
  QLM_RETURN_IF_ERROR(checkModels(model, reference, options));
  std::unique_ptr<LayerErrors> layers;
  if (options.layers) {
    auto created = LayerErrors::create(model, *reference, options.window);
    if (!created.ok())
      return created.status();
    layers = created.take();
  }
  Totals totals;
  auto size = static_cast<size_t>(options.window);
  for (size_t first = 0; first < tokens.size(); first += size) {
    size_t end = std::min(first + size, tokens.size());
    std::vector<int32_t> window(tokens.begin() + first, tokens.begin() + end);
    if (options.progress)
      options.progress(static_cast<int64_t>(first),
                       static_cast<int64_t>(tokens.size()));
    QLM_RETURN_IF_ERROR(
        measureWindow(model, reference, window, layers.get(), totals));
  }
  Accuracy accuracy;
  accuracy.positions = totals.positions;
  accuracy.perplexity = std::exp(totals.mean(totals.negativeLogLikelihood));
  if (reference) {
    // Rounding may leave a sum of two equal distributions below zero.
    accuracy.kl = std::max(0.0, totals.mean(totals.divergence));
    accuracy.top1Agreement =
        totals.mean(static_cast<double>(totals.agreements));
  }
  if (layers)
    accuracy.layerErrors = layers->finish();
  return accuracy;
}
