//===- Arguments.h - The command line of quantc -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANTC_ARGUMENTS_H
#define QLM_TOOLS_QUANTC_ARGUMENTS_H

#include "qlm/Pipelines/Pipelines.h"
#include "llvm/Support/CommandLine.h"

#include <string>

namespace mlir::qlm {

namespace cl = llvm::cl;

/// Exit codes other than 0, done.
inline constexpr int kBadInput = 1;
inline constexpr int kWrongUsage = 2;

/// A whole number, kept as text: LLVM's parser would print its own message.
using NumberOption = cl::opt<std::string>;

/// The options; made after LLVM's own have been taken off the command line.
struct Arguments {
  cl::OptionCategory category{"quantc options"};
  cl::opt<std::string> model{cl::Positional, cl::desc("MODEL"),
                             cl::cat(category)};
  cl::opt<std::string> output{
      "o", cl::value_desc("PATH"), cl::cat(category),
      cl::desc("The package to write; with --to, the file for IR (default: "
               "standard output)")};
  cl::opt<std::string> target{
      "target", cl::init("cpu"), cl::cat(category), cl::value_desc("NAME"),
      cl::desc("What runs the package: cpu, or cuda[:CHIP,...] "
               "with chips sm_80, sm_89 and sm_90a "
               "(default: sm_90a)")};
  cl::opt<std::string> targetCpu{
      "target-cpu", cl::init("native"), cl::cat(category),
      cl::value_desc("NAME"),
      cl::desc("native, x86-64-v3, alderlake, x86-64-v4, icelake-server or "
               "sapphirerapids")};
  cl::opt<bool> tune{"tune", cl::cat(category),
                     cl::desc("Times choices of kernels on this machine and "
                              "keeps the best")};
  cl::opt<std::string> weights{
      "weights", cl::init("f32"), cl::cat(category), cl::value_desc("TYPE"),
      cl::desc("Weights of linears: f32, bf16, f16, int8, int4, nf4 or fp8")};
  NumberOption groupSize{
      "group-size", cl::init("0"), cl::cat(category), cl::value_desc("N"),
      cl::desc("Columns that share a scale, with granularity group (default: "
               "64 of nf4, else 128)")};
  cl::opt<std::string> granularity{
      "granularity", cl::init("default"), cl::cat(category),
      cl::value_desc("NAME"),
      cl::desc("What shares a scale: tensor, channel or group (default: "
               "channel of int8 and fp8, group of int4 and nf4)")};
  cl::opt<bool> doubleQuant{"double-quant", cl::cat(category),
                            cl::desc("Quantizes the scales of nf4 too")};
  cl::opt<bool> zeroPoints{"zero-points", cl::cat(category),
                           cl::desc("Gives each scale a zero point")};
  cl::opt<std::string> method{"method", cl::init("rtn"), cl::cat(category),
                              cl::value_desc("NAME"),
                              cl::desc("How codes are found: rtn, gptq, awq, "
                                       "awq-gptq (awq's scales, then gptq), "
                                       "keep (a checkpoint's own) or llm.int8 "
                                       "(int8, outliers of inputs kept)")};
  cl::opt<std::string> outlierThreshold{
      "outlier-threshold", cl::value_desc("X"), cl::cat(category),
      cl::desc("int8 weights, int8-dynamic: inputs whose magnitude reaches X "
               "stay float32 (default: of llm.int8 6, else none)")};
  cl::opt<std::string> smooth{
      "smooth", cl::value_desc("ALPHA"), cl::cat(category),
      cl::desc("SmoothQuant: how much of the inputs' ranges goes to the "
               "weights, 0 to 1 (default: none)")};
  cl::opt<std::string> range{
      "range", cl::init("minmax"), cl::cat(category), cl::value_desc("NAME"),
      cl::desc("int8-static: minmax, average, percentile or entropy")};
  cl::opt<bool> searchScales{
      "search-scales", cl::cat(category),
      cl::desc("gptq: shrinks the range of each scale where that loses less")};
  NumberOption refine{
      "refine", cl::init("0"), cl::cat(category), cl::value_desc("N"),
      cl::desc("gptq: how often codes and scales are gone over once more")};
  cl::opt<std::string> calibration{
      "calibration", cl::cat(category), cl::value_desc("FILE"),
      cl::desc("Text, or JSON lines with \"text\", to calibrate on: what gptq, "
               "awq, --smooth and int8-static need")};
  cl::opt<std::string> statistics{
      "statistics", cl::cat(category), cl::value_desc("FILE"),
      cl::desc("Where calibration keeps its statistics; without "
               "--calibration, where they are read from")};
  cl::opt<bool> observe{
      "observe", cl::cat(category),
      cl::desc("Keeps observers in the package, for quant-run eval --layers")};
  cl::opt<std::string> evaluation{
      "evaluation", cl::cat(category), cl::value_desc("FILE"),
      cl::desc("Text to measure the package on, against float32 weights: the "
               "manifest's accuracy card")};
  cl::opt<std::string> maxKl{
      "max-kl", cl::cat(category), cl::value_desc("X"),
      cl::desc("With --evaluation: refuses to write a package whose KL is "
               "above this")};
  NumberOption evaluationTokens{"evaluation-tokens", cl::init("8192"),
                                cl::cat(category), cl::value_desc("N"),
                                cl::desc("Most tokens to measure on")};
  NumberOption calibrationTokens{"calibration-tokens", cl::init("32768"),
                                 cl::cat(category), cl::value_desc("N"),
                                 cl::desc("Most tokens to calibrate on")};
  NumberOption calibrationWindow{
      "calibration-window", cl::init("0"), cl::cat(category),
      cl::value_desc("N"),
      cl::desc("Tokens that calibration sees together (default: those of a "
               "step)")};
  cl::opt<std::string> calibrateOn{
      "calibrate-on", cl::init("cpu"), cl::cat(category),
      cl::value_desc("NAME"),
      cl::desc("Where the model is calibrated and GPTQ's matrices are "
               "factored: cpu, or cuda, by cuBLAS and cuSOLVER (last bits "
               "differ)")};
  NumberOption memoryLimit{
      "memory-limit", cl::init("0"), cl::cat(category), cl::value_desc("MB"),
      cl::desc("Most memory for statistics; more passes are made where it is "
               "less than all take (default: 4096)")};
  cl::opt<std::string> damping{
      "damping", cl::init("0.01"), cl::cat(category), cl::value_desc("X"),
      cl::desc("gptq: part of the mean second moment added to each")};
  cl::opt<bool> actOrder{
      "act-order", cl::cat(category),
      cl::desc("gptq: columns with the largest second moments first")};
  cl::opt<bool> staticGroups{
      "static-groups", cl::cat(category),
      cl::desc("gptq: scales of groups from the weight as given")};
  cl::opt<std::string> activations{
      "activations", cl::init("none"), cl::cat(category),
      cl::value_desc("TYPE"),
      cl::desc("Inputs of linears: none, bf16, int8-dynamic, int8-static or "
               "fp8-dynamic")};
  cl::opt<std::string> kvCache{
      "kv-cache", cl::init("f32"), cl::cat(category), cl::value_desc("TYPE"),
      cl::desc("Keys and values: f32, f16, bf16, int8 or fp8 (default: f32, "
               "on cuda f16)")};
  cl::opt<bool> keepLmHead{"keep-lm-head", cl::cat(category),
                           cl::desc("Leaves the weight of the last linear as "
                                    "it is")};
  cl::opt<bool> allowNonfinite{
      "allow-nonfinite", cl::cat(category),
      cl::desc("Takes infinities and NaN in weights as 0, and names them")};
  NumberOption maxBatch{"max-batch", cl::init("8"), cl::cat(category),
                        cl::value_desc("N"),
                        cl::desc("Most sequences of a step")};
  NumberOption maxContext{
      "max-context", cl::init("0"), cl::cat(category), cl::value_desc("N"),
      cl::desc("Most tokens of a sequence (default: the model's)")};
  NumberOption maxStepTokens{"max-step-tokens", cl::init("512"),
                             cl::cat(category), cl::value_desc("N"),
                             cl::desc("Most tokens of a step")};
  NumberOption pageTokens{"page-tokens", cl::init("16"), cl::cat(category),
                          cl::value_desc("N"),
                          cl::desc("Tokens of a page of the cache (default: "
                                   "16, on cuda 64)")};
  cl::opt<bool> batchInvariant{
      "batch-invariant", cl::cat(category),
      cl::desc("On cuda: sums in an order that doesn't depend on the step")};
  cl::opt<std::string> to{
      "to", cl::init("package"), cl::cat(category), cl::value_desc("STAGE"),
      cl::desc("Stops after import, optimize, quantize, lower or package")};
  cl::opt<std::string> dumpStages{
      "dump-stages", cl::cat(category), cl::value_desc("DIR"),
      cl::desc("Writes the IR after each stage to 1-import.mlir, ...")};
  cl::opt<bool> plainOps{"plain-ops", cl::cat(category),
                         cl::desc("Imports attention as plain operations")};
  NumberOption threads{"threads", cl::init("0"), cl::cat(category),
                       cl::value_desc("N"),
                       cl::desc("Threads (default: all of the machine's)")};
  cl::list<std::string> fixed{
      "fix", cl::cat(category), cl::value_desc("NAME=FILE.npy"),
      cl::desc("ONNX: makes an input a constant; an .npz gives several")};
  cl::opt<std::string> tokenizer{
      "tokenizer", cl::cat(category), cl::value_desc("FOLDER"),
      cl::desc("ONNX: compiles a decoder's graph as a language model, with the "
               "tokenizer's files and config.json of FOLDER")};
  cl::opt<std::string> batch{
      "batch", cl::cat(category), cl::value_desc("FILE"),
      cl::desc("Compiles many ONNX files: lines of MODEL, PKG and, where "
               "inputs are constants, an .npz, with tabs between")};
  cl::opt<bool> quick{"quick", cl::cat(category),
                      cl::desc("ONNX: compiles faster, to slower code")};
  cl::opt<bool> quiet{"quiet", cl::cat(category),
                      cl::desc("Prints errors only")};
};

/// Prints \p message as an error of quantc; returns \p code.
int fail(const llvm::Twine &message, int code);

/// Returns 0 if every value is one that this version supports and values agree
/// with each other; else says the first that doesn't, and returns an exit code.
int checkArguments(const Arguments &arguments);

/// The same for options that mean nothing to a graph: they must not be dropped
/// in silence.
int checkGraphArguments(const Arguments &arguments);

/// The number of an option that checkArguments has seen.
int64_t getNumber(const NumberOption &option);

/// What checked arguments mean to the compiler of models.
CompileOptions makeOptions(const Arguments &arguments);

} // namespace mlir::qlm

#endif // QLM_TOOLS_QUANTC_ARGUMENTS_H
