//===- RunGraph.cpp - Computes a graph's outputs --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "qlm/Runtime/ArrayFile.h"
#include "qlm/Runtime/Graph.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

using namespace qlm;
using namespace qlm::tool;
using Json = nlohmann::ordered_json;

/// Reads what `--input [NAME=]FILE` names into \p arrays.
static Status readInput(const Graph &graph, const std::string &text,
                        std::map<std::string, GraphArray> &arrays) {
  // A name may have an "=" in it: the longest that is an input's counts.
  std::string name, path = text;
  for (const GraphTensor &input : graph.inputs())
    if (text.rfind(input.name + "=", 0) == 0 && input.name.size() > name.size())
      name = input.name, path = text.substr(name.size() + 1);
  Result<std::vector<NamedArray>> read = readArrays(path);
  if (!read.ok())
    return read.status();
  for (NamedArray &named : *read) {
    if (!name.empty())
      named.name = name;
    else if (named.name.empty() && graph.inputs().size() == 1)
      named.name = graph.inputs()[0].name;
    if (named.name.empty())
      return Status(StatusCode::InvalidArgument,
                    path + ": say which input it is: --input NAME=" + path);
    arrays[named.name] = std::move(named.array);
  }
  return Status();
}

static Status gatherInputs(const Graph &graph,
                           const std::vector<std::string> &texts,
                           std::vector<GraphArray> &inputs) {
  std::map<std::string, GraphArray> arrays;
  for (const std::string &text : texts)
    QLM_RETURN_IF_ERROR(readInput(graph, text, arrays));
  for (const GraphTensor &input : graph.inputs()) {
    auto found = arrays.find(input.name);
    if (found == arrays.end())
      return Status(StatusCode::InvalidArgument,
                    "input '" + input.name + "' is missing");
    acceptRawBytes(found->second, input.type);
    inputs.push_back(std::move(found->second));
    arrays.erase(found);
  }
  if (!arrays.empty())
    return Status(StatusCode::InvalidArgument,
                  "the graph has no input '" + arrays.begin()->first + "'");
  return Status();
}

/// Runs for at least half a second, at least five times; prints the quickest
/// run and the median.
static Status measure(const Graph &graph,
                      const std::vector<GraphArray> &inputs) {
  std::vector<double> microseconds;
  auto start = std::chrono::steady_clock::now(), now = start;
  while (microseconds.size() < 5 ||
         now - start < std::chrono::milliseconds(500)) {
    auto before = std::chrono::steady_clock::now();
    Result<std::vector<GraphArray>> outputs = graph.run(inputs);
    now = std::chrono::steady_clock::now();
    if (!outputs.ok())
      return outputs.status();
    microseconds.push_back(
        std::chrono::duration<double, std::micro>(now - before).count());
  }
  std::sort(microseconds.begin(), microseconds.end());
  printJson(Json{{"runs", microseconds.size()},
                 {"min_us", microseconds.front()},
                 {"median_us", microseconds[microseconds.size() / 2]}});
  return Status();
}

int qlm::tool::runGraph(int argc, char **argv) {
  std::vector<std::string> texts;
  std::string package, output;
  bool time = false;
  int64_t threads = 1;
  Arguments arguments("run", "PKG",
                      "Computes the outputs of a graph (an ONNX model).");
  arguments.texts("--input", texts,
                  "[NAME=]FILE.npy, or an .npz with inputs by name; again for "
                  "more");
  arguments.text("-o", output, "the .npz file of the outputs");
  arguments.text("--output", output, "the same");
  arguments.integer("--threads", threads, "threads of a run (default 1)");
  arguments.flag("--time", time, "run many times and print microseconds");
  int exitCode;
  if (!arguments.parse(argc, argv, package, exitCode))
    return exitCode;
  if (output.empty() && !time)
    return arguments.wrongUsage("give -o or --time");
  Result<std::unique_ptr<Graph>> graph =
      Graph::load(package, static_cast<int>(threads));
  if (!graph.ok())
    return badInput(graph.status().message());
  std::vector<GraphArray> inputs;
  Status status = gatherInputs(**graph, texts, inputs);
  if (!status.ok())
    return badInput(status.message());
  if (time)
    if (status = measure(**graph, inputs); !status.ok())
      return badInput(status.message());
  if (output.empty())
    return exitSuccess;
  Result<std::vector<GraphArray>> results = (*graph)->run(inputs);
  if (!results.ok())
    return badInput(results.status().message());
  std::vector<NamedArray> named;
  for (size_t i = 0; i < results->size(); ++i)
    named.push_back({(*graph)->outputs()[i].name, std::move((*results)[i])});
  status = writeArrays(output, named);
  return status.ok() ? exitSuccess : badInput(status.message());
}
