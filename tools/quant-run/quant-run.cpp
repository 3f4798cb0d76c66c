//===- quant-run.cpp - Runs packages from the command line ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"

#include <cstdio>
#include <cstring>

using namespace qlm::tool;

namespace {
struct Command {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *help;
};
constexpr Command commands[] = {
    {"generate", runGenerate, "continue prompts"},
    {"logits", runLogits, "write the logits of given tokens"},
    {"eval", runEval, "measure perplexity, and distance to a reference"},
    {"run", runGraph, "compute the outputs of an ONNX graph"},
    {"bench", runBench, "measure prefill and decode speed"},
    {"inspect", runInspect, "show a package's plan, sizes and kernels"},
};
} // namespace

static void printUsage(FILE *file) {
  std::fprintf(file, "usage: quant-run COMMAND PKG [options]\n\ncommands:\n");
  for (const Command &command : commands)
    std::fprintf(file, "  %-10s %s\n", command.name, command.help);
  std::fprintf(file, "\nquant-run COMMAND --help lists its options\n");
}

int main(int argc, char **argv) {
  if (argc < 2) {
    printUsage(stderr);
    return exitWrongUsage;
  }
  if (!std::strcmp(argv[1], "--help") || !std::strcmp(argv[1], "-h")) {
    printUsage(stdout);
    return exitSuccess;
  }
  for (const Command &command : commands)
    if (!std::strcmp(argv[1], command.name))
      return command.run(argc - 2, argv + 2);
  std::fprintf(stderr,
               "quant-run: error: unknown command '%s' (see quant-run "
               "--help)\n",
               argv[1]);
  return exitWrongUsage;
}
