//===- Commands.h - Commands of quant-run -----------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANT_RUN_COMMANDS_H
#define QLM_TOOLS_QUANT_RUN_COMMANDS_H

#include "Arguments.h"
#include "qlm/Runtime/Model.h"

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace qlm::tool {

// Each takes the arguments after the command's name and returns the exit code.
int runGenerate(int argc, char **argv);
int runLogits(int argc, char **argv);
int runEval(int argc, char **argv);
int runBench(int argc, char **argv);
int runInspect(int argc, char **argv);
int runGraph(int argc, char **argv);

/// Options that every command which runs a model has.
struct ModelOptions {
  int64_t threads = 0;
  bool skipVerify = false, reserve = false;
  std::string weightsMemory = "auto";

  void declare(Arguments &arguments);
  /// Loads the package; reports a failure and returns null.
  std::unique_ptr<Model> load(const std::string &package) const;
};

/// What a package runs on, in a line: "x86-64: avx2,fma" or "cuda: sm_90a, PTX
/// 8.3 of sm_80".
std::string describeTarget(const TargetInfo &target);

/// Most memory that the model took so far where it runs: of the GPU, or
/// resident in this process.
int64_t peakMemoryBytes(Model &model);

/// Prints \p object and a newline on standard output.
void printJson(const nlohmann::ordered_json &object);

/// A line on standard error that is overwritten, on a terminal only.
class Progress {
public:
  Progress();
  ~Progress() { clear(); }
  void show(const std::string &line);
  void clear();

private:
  bool isTerminal;
  bool isShown = false;
};

/// Token ids as the runtime takes them; false when one doesn't fit 32 bits.
bool toTokens(const std::vector<int64_t> &values, std::vector<int32_t> &tokens);

} // namespace qlm::tool

#endif // QLM_TOOLS_QUANT_RUN_COMMANDS_H
