//===- GraphCalibration.cpp - Ranges of a graph's activations -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Graphs.h"

#include "qlm/Archive/Errors.h"
#include "qlm/Archive/WriteSafetensors.h"
#include "qlm/Calibrate/RangeObserver.h"
#include "qlm/Runtime/ArrayFile.h"
#include "qlm/Runtime/Graph.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/FileSystem.h"

#include <cmath>
#include <cstring>
#include <deque>
#include <map>

using namespace mlir::qlm;
namespace fs = llvm::sys::fs;

/// By label of a linear, what its inputs were.
using Ranges = std::map<std::string, ::qlm::RangeObserver>;

static llvm::Error observe(const std::string &label,
                           const ::qlm::GraphArray &array, Ranges &ranges) {
  int64_t columns = array.shape.back();
  std::vector<float> values(array.bytes.size() / sizeof(float));
  std::memcpy(values.data(), array.bytes.data(), values.size() * sizeof(float));
  if (!llvm::all_of(values, [](float value) { return std::isfinite(value); }))
    return makeError("calibration gives the input of '" + label +
                     "' values that are not finite");
  if (values.empty())
    return llvm::Error::success();
  ranges.try_emplace(label, columns)
      .first->second.addRanges(values.data(),
                               static_cast<int64_t>(values.size()) / columns);
  return llvm::Error::success();
}

/// Writes \p ranges as safetensors; see qlm/Calibrate/Calibrate.h.
static llvm::Error writeStatistics(const Ranges &ranges, llvm::StringRef path) {
  std::vector<FloatTensor> tensors;
  std::deque<std::vector<float>> kept; // tensors refer to their values
  for (const auto &[label, seen] : ranges) {
    kept.push_back(seen.getAverageRange());
    kept.push_back(seen.findThresholds());
    tensors.push_back(
        {label + ".absmax", {seen.getFeatures()}, seen.getAbsmax()});
    tensors.push_back({label + ".average_range", {2}, kept.rbegin()[1]});
    tensors.push_back({label + ".thresholds", {3}, kept.back()});
  }
  return writeSafetensors(path, tensors);
}

/// Inputs of \p graph in its order, from the arrays of the file.
static llvm::Expected<std::vector<::qlm::GraphArray>>
readInputs(const ::qlm::Graph &graph, const std::string &path) {
  auto arrays = ::qlm::readArrays(path);
  if (!arrays.ok())
    return makeError(arrays.status().message());
  std::vector<::qlm::GraphArray> inputs;
  for (const ::qlm::GraphTensor &wanted : graph.inputs()) {
    bool isOnly = graph.inputs().size() == 1 && arrays->size() == 1;
    auto found = llvm::find_if(*arrays, [&](const ::qlm::NamedArray &named) {
      return named.name == wanted.name || (isOnly && named.name.empty());
    });
    if (found == arrays->end())
      return makeError(path + ": calibration lacks the input '" + wanted.name +
                       "'");
    inputs.push_back(std::move(found->array));
  }
  return inputs;
}

/// How many runs the arrays are for: their first dimensions over the graph's.
static int64_t countRuns(const ::qlm::Graph &graph,
                         const std::vector<::qlm::GraphArray> &inputs) {
  int64_t runs = 1;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::vector<int64_t> &wanted = graph.inputs()[i].shape;
    const std::vector<int64_t> &given = inputs[i].shape;
    if (wanted.empty() || given.empty() || wanted[0] < 1 ||
        given[0] % wanted[0])
      return 1;
    int64_t own = given[0] / wanted[0];
    if (own < 1 || (i && own != runs))
      return 1;
    runs = own;
  }
  return runs;
}

static ::qlm::GraphArray slice(const ::qlm::GraphArray &array, int64_t part,
                               int64_t parts) {
  if (parts == 1)
    return array;
  ::qlm::GraphArray result{array.type, array.shape, {}};
  result.shape[0] /= parts;
  auto bytes = static_cast<int64_t>(array.bytes.size()) / parts;
  result.bytes.assign(array.bytes.begin() + part * bytes,
                      array.bytes.begin() + (part + 1) * bytes);
  return result;
}

static llvm::Expected<Ranges> run(const std::string &package,
                                  const std::string &calibration) {
  auto graph = ::qlm::Graph::load(package);
  if (!graph.ok())
    return makeError(graph.status().message());
  auto inputs = readInputs(**graph, calibration);
  if (!inputs)
    return inputs.takeError();
  Ranges ranges;
  int64_t runs = countRuns(**graph, *inputs);
  for (int64_t part = 0; part < runs; ++part) {
    std::vector<::qlm::GraphArray> own;
    for (const ::qlm::GraphArray &array : *inputs)
      own.push_back(slice(array, part, runs));
    auto outputs = (*graph)->run(own);
    if (!outputs.ok())
      return makeError(calibration + ": " + outputs.status().message());
    for (size_t i = 0; i < outputs->size(); ++i) {
      llvm::StringRef name = (*graph)->outputs()[i].name;
      if (name.consume_front(kGraphObserved))
        if (llvm::Error error = observe(name.str(), (*outputs)[i], ranges))
          return std::move(error);
    }
  }
  return ranges;
}

llvm::Expected<std::string>
mlir::qlm::calibrateGraph(const GraphOptions &options,
                          const std::string &calibration) {
  if (calibration.empty())
    return makeError("--activations int8-static needs --calibration FILE.npz");
  llvm::SmallString<128> folder, path;
  if (std::error_code code =
          fs::createUniqueDirectory("qlm-calibration", folder))
    return makeError("cannot make a temporary folder: " + code.message());
  llvm::scope_exit cleanup([&] { (void)fs::remove_directories(folder); });
  GraphOptions observing = options;
  observing.output = (folder + "/package").str();
  observing.to = Stage::Package;
  observing.weights = "f32";
  observing.activations = "none";
  observing.observe = true;
  observing.quick = true;
  // It runs here, whatever the package is for.
  observing.targetCpu = "native";
  auto compiled = compileGraph(observing);
  if (!compiled)
    return compiled.takeError();
  auto ranges = run(observing.output, calibration);
  if (!ranges)
    return ranges.takeError();
  if (std::error_code code =
          fs::createTemporaryFile("qlm-statistics", "safetensors", path))
    return makeError("cannot make a temporary file: " + code.message());
  if (llvm::Error error = writeStatistics(*ranges, path)) {
    (void)fs::remove(path);
    return std::move(error);
  }
  return path.str().str();
}
