//===- InspectPage.cpp - A package's plan as a web page -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "InspectPage.h"

#include "Commands.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <unistd.h>
#include <vector>

using namespace qlm;
using namespace qlm::tool;

static std::string escape(const std::string &text) {
  std::string escaped;
  for (char c : text) {
    switch (c) {
    case '&':
      escaped += "&amp;";
      break;
    case '<':
      escaped += "&lt;";
      break;
    case '>':
      escaped += "&gt;";
      break;
    case '"':
      escaped += "&quot;";
      break;
    default:
      escaped += c;
    }
  }
  return escaped;
}

static std::string megabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f MB",
                static_cast<double>(bytes) * 1e-6);
  return text;
}

static std::string row(const std::vector<std::string> &cells,
                       const char *element = "td") {
  std::string text = "<tr>";
  for (const std::string &cell : cells)
    text +=
        std::string("<") + element + ">" + escape(cell) + "</" + element + ">";
  return text + "</tr>\n";
}

/// A row with a bar as long as the part's share of the peak.
static std::string memoryRow(const std::string &name, int64_t bytes,
                             int64_t peak) {
  int64_t share = peak > 0 ? bytes * 100 / peak : 0;
  return "<tr><td>" + escape(name) + "</td><td>" + megabytes(bytes) +
         "</td><td class=bar><div style=\"width:" + std::to_string(share) +
         "%\"></div></td></tr>\n";
}

static std::string tilesText(const Launch &launch) {
  static const char *const names[] = {"1", "tokens", "sequences", "logit rows"};
  const Tiles &tiles =
      launch.variants.empty() ? launch.tiles : launch.variants[0].grid;
  std::string size = names[static_cast<int>(tiles.size)];
  std::string text = std::to_string(tiles.count);
  if (tiles.size != TileSize::One)
    text += " × " + size;
  if (tiles.block != 1)
    text += " / " + std::to_string(tiles.block);
  return text;
}

static std::string page(const Manifest &manifest) {
  const ModelInfo &model = manifest.model;
  const MemoryPlan &plan = manifest.plan;
  auto number = [](int64_t value) { return std::to_string(value); };
  std::string text = "<!doctype html>\n<meta charset=\"utf-8\">\n<title>" +
                     escape(model.name) +
                     "</title>\n<style>\n"
                     "body{font:15px sans-serif;margin:2em;max-width:70em}\n"
                     "table{border-collapse:collapse;margin-bottom:2em}\n"
                     "td,th{padding:.2em .8em;text-align:left;"
                     "border-bottom:1px solid #ddd}\n"
                     ".bar{width:20em}.bar div{background:#47a;height:.8em}\n"
                     "</style>\n<h1>" +
                     escape(model.name) + "</h1>\n<table>\n";
  text += row({"architecture", model.architecture});
  text += row({"parameters", number(model.parameters)});
  text += row({"layers", number(model.layers)});
  text += row({"hidden size", number(model.hiddenSize)});
  text += row({"heads / kv heads / head size",
               number(model.heads) + " / " + number(model.kvHeads) + " / " +
                   number(model.headDim)});
  text += row({"vocabulary", number(model.vocabularySize)});
  text += row({"weights", manifest.quantization.weights + " (" +
                              manifest.quantization.method + ")"});
  text += row({"scheme", manifest.quantization.scheme});
  text += row({"activations", manifest.quantization.activations});
  text += row({"target", describeTarget(manifest.target)});
  text += row({"limits", "batch " + number(plan.maxBatch) + ", context " +
                             number(plan.maxContext) + ", step " +
                             number(plan.maxStepTokens) + " tokens"});
  text += row({"made by", manifest.producer});
  text += "</table>\n<h2>Memory when running</h2>\n<table>\n";
  text += memoryRow("weights", manifest.weights.bytes, plan.peakBytes);
  text += memoryRow("cache, " + plan.kv.type + ", " + number(plan.kv.pages) +
                        " pages of " + number(plan.kv.pageTokens) +
                        " tokens a layer",
                    plan.kv.poolBytes, plan.peakBytes);
  text += memoryRow("arena", plan.arenaBytes, plan.peakBytes);
  text += memoryRow("logits", plan.logitsBytes, plan.peakBytes);
  text += memoryRow("scratch of a thread", plan.scratchBytes, plan.peakBytes);
  text += memoryRow("peak", plan.peakBytes, plan.peakBytes);
  text +=
      "</table>\n<h2>Launches of a step</h2>\n<table>\n" +
      row({"label", "kernel", "tiles", "weights read", "flops a row"}, "th");
  for (const Launch &launch : manifest.launches)
    text += row({launch.label, launch.kernel, tilesText(launch),
                 megabytes(launch.bytes), number(launch.flopsPerRow)});
  return text + "</table>\n";
}

Status qlm::tool::writeInspectPage(const Manifest &manifest,
                                   const std::string &path) {
  std::string temporary = path + ".tmp-" + std::to_string(getpid());
  std::ofstream file(temporary);
  file << page(manifest);
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    std::string reason = std::strerror(errno);
    std::remove(temporary.c_str());
    return Status(StatusCode::Io, "cannot write " + path + ": " + reason);
  }
  return Status();
}
