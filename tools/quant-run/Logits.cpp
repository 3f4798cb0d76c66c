//===- Logits.cpp - Writes the logits of given tokens ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "NpyWriter.h"

using namespace qlm;
using namespace qlm::tool;

int qlm::tool::runLogits(int argc, char **argv) {
  ModelOptions modelOptions;
  std::vector<int64_t> values;
  std::string package, output;
  int64_t chunk = 0;
  Arguments arguments(
      "logits", "PKG",
      "Writes float32 [tokens, vocabulary]: row t follows tokens 0 to t.");
  arguments.integers("--tokens", values, "token ids 1,2,3");
  arguments.text("-o", output, "the .npy file to write");
  arguments.integer("--chunk", chunk,
                    "tokens a step (default: the plan's largest)");
  modelOptions.declare(arguments);
  int exitCode;
  if (!arguments.parse(argc, argv, package, exitCode))
    return exitCode;
  std::vector<int32_t> tokens;
  if (values.empty() || output.empty())
    return arguments.wrongUsage("give --tokens and -o");
  if (!toTokens(values, tokens))
    return arguments.wrongUsage("--tokens takes 32-bit token ids");

  std::unique_ptr<Model> model = modelOptions.load(package);
  if (!model)
    return exitBadInput;
  int64_t vocabulary = model->getManifest().model.vocabularySize;
  NpyWriter writer;
  Status status =
      writer.open(output, static_cast<int64_t>(tokens.size()), vocabulary);
  if (!status.ok())
    return badInput(status.message());
  Progress progress;
  status = model->logits(tokens, chunk, [&](int64_t row, float *logits) {
    writer.write(logits, vocabulary);
    progress.show(std::to_string(row + 1) + " of " +
                  std::to_string(tokens.size()) + " tokens");
  });
  progress.clear();
  if (status.ok())
    status = writer.close();
  return status.ok() ? exitSuccess : badInput(status.message());
}
