//===- Commands.cpp - What the commands of quant-run have in common -------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <unistd.h>

using namespace qlm;
using namespace qlm::tool;

void ModelOptions::declare(Arguments &arguments) {
  arguments.integer("--threads", threads,
                    "threads that compute; 0, the default: as many as the "
                    "cores, affinity and control groups allow");
  arguments.flag("--no-verify", skipVerify,
                 "do not compare the weights with their checksum");
  arguments.text("--weights-memory", weightsMemory,
                 "huge (copied to huge pages), late (copied after the first "
                 "token), mapped (the file, in the page cache), or auto (where "
                 "the system has huge pages, late for more than 256 MiB, else "
                 "huge; default)");
  arguments.flag("--reserve", reserve,
                 "take all of the plan's memory while loading");
}

std::unique_ptr<Model> ModelOptions::load(const std::string &package) const {
  Model::Options options;
  options.threads = static_cast<int>(std::clamp<int64_t>(threads, -1, INT_MAX));
  options.verifyWeights = !skipVerify;
  options.reserveMemory = reserve;
  if (weightsMemory == "huge")
    options.weightsMemory = WeightsMemory::HugePages;
  else if (weightsMemory == "late")
    options.weightsMemory = WeightsMemory::Late;
  else if (weightsMemory == "mapped")
    options.weightsMemory = WeightsMemory::Mapped;
  else if (weightsMemory != "auto") {
    badInput("--weights-memory must be auto, huge, late or mapped, got '" +
             weightsMemory + "'");
    return nullptr;
  }
  Result<std::unique_ptr<Model>> model = Model::load(package, options);
  if (!model.ok()) {
    badInput(model.status().message());
    return nullptr;
  }
  if (!(*model)->note().empty())
    std::fprintf(stderr, "quant-run: note: %s\n", (*model)->note().c_str());
  return model.take();
}

static std::string join(const std::vector<std::string> &words) {
  std::string text;
  for (const std::string &word : words)
    text += (text.empty() ? "" : ",") + word;
  return text;
}

std::string qlm::tool::describeTarget(const TargetInfo &target) {
  if (!target.isCuda())
    return target.cpu + ": " + join(target.features);
  std::vector<std::string> codes;
  for (const GpuModule &module : target.chips)
    codes.push_back(module.chip);
  if (target.ptx)
    codes.push_back("PTX " + std::to_string(target.ptx->ptxVersion / 10) + "." +
                    std::to_string(target.ptx->ptxVersion % 10) + " of " +
                    target.ptx->chip);
  return "cuda: " + join(codes);
}

int64_t qlm::tool::peakMemoryBytes(Model &model) {
  int64_t device = model.getExecutor().deviceBytes();
  return device ? device : peakResidentBytes();
}

void qlm::tool::printJson(const nlohmann::ordered_json &object) {
  std::string text =
      object.dump(-1, ' ', /*ensure_ascii=*/false,
                  nlohmann::ordered_json::error_handler_t::replace);
  std::printf("%s\n", text.c_str());
}

Progress::Progress() : isTerminal(isatty(STDERR_FILENO)) {}

void Progress::show(const std::string &line) {
  if (!isTerminal)
    return;
  // Erase to the end of the line: the last text may have been longer.
  std::fprintf(stderr, "\r%s\033[K", line.c_str());
  std::fflush(stderr);
  isShown = true;
}

void Progress::clear() {
  if (isShown)
    std::fprintf(stderr, "\r\033[K");
  isShown = false;
}

bool qlm::tool::toTokens(const std::vector<int64_t> &values,
                         std::vector<int32_t> &tokens) {
  for (int64_t value : values) {
    if (value < INT32_MIN || value > INT32_MAX)
      return false;
    tokens.push_back(static_cast<int32_t>(value));
  }
  return true;
}
