//===- Judge.h - Measures a package before it is kept -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANTC_JUDGE_H
#define QLM_TOOLS_QUANTC_JUDGE_H

#include "qlm/Pipelines/Pipelines.h"

#include <functional>
#include <optional>
#include <string>

/// What a package must hold up to.
struct JudgeArguments {
  std::string text;            ///< the file to measure on
  int64_t maxTokens = 0;       ///< most of its tokens
  std::optional<double> maxKl; ///< refuse above this
  /// Gets one line about the work.
  std::function<void(const std::string &)> progress;
};

/// Measures the package at \p folder against one of float32 weights, made of
/// the model of \p options for this while. Returns the manifest's accuracy
/// card {"reference", "text", "tokens", "perplexity", "reference_perplexity",
/// "kl", "top1_agreement"}, or an error where the KL is above the limit.
llvm::Expected<llvm::json::Object>
judgePackage(const std::string &folder,
             const mlir::qlm::CompileOptions &options,
             const JudgeArguments &arguments);

#endif // QLM_TOOLS_QUANTC_JUDGE_H
