//===- Pipelines.h - The stages in a row ------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The only library that knows all stages: it runs them one after the other,
// checks the contract between them, and is what tools and bindings call.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PIPELINES_PIPELINES_H
#define QLM_PIPELINES_PIPELINES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "qlm/Quantize/Products.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace mlir::qlm {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "qlm/Pipelines/Passes.h.inc"

/// The stages of compilation, in order.
enum class Stage {
  Import,   ///< a model's folder becomes IR
  Optimize, ///< float to float: fused attention, merged linears
  Quantize, ///< stored types, scales, packing
  Lower,    ///< cache and memory plan, kernels, launches
  Package,  ///< a folder with code, weights and manifest
};

/// "import", "optimize", "quantize", "lower" or "package".
llvm::StringRef getStageName(Stage stage);
/// The inverse of getStageName; none for another word.
std::optional<Stage> parseStage(llvm::StringRef name);

/// Checks what must hold of \p module after \p stage; emits an error at the
/// first operation that breaks a sentence of the contract.
LogicalResult verifyContract(ModuleOp module, Stage stage);

/// Registers every pass and pipeline of the compiler, for `quant-opt`.
void registerAllQlmPasses();
/// Registers `qlm-pipeline`: optimize, quantize and lower, with the contract
/// checked after each.
void registerQlmPipeline();

/// What compileModel is at; `item` is a tensor or a stage's name.
struct CompileProgress {
  Stage stage = Stage::Import;
  llvm::StringRef item;
  /// Of the packed weights; both 0 in other stages.
  int64_t bytesDone = 0;
  int64_t bytesTotal = 0;
};

/// What `quantc` can be told. Values are checked by the stages that use them.
struct CompileOptions {
  /// The Hugging Face folder, or an ONNX file of a decoder.
  std::string model;
  /// Of an ONNX file: the folder with the tokenizer's files and `config.json`.
  std::string tokenizer;
  /// The package, or the file for IR when `to` is an earlier stage; "-" or
  /// nothing stands for standard output then.
  std::string output;
  /// The last stage to run.
  Stage to = Stage::Package;
  /// A folder for `1-import.mlir`, `2-optimize.mlir`, ...: the IR after each
  /// stage. Made if it doesn't exist; empty for none.
  std::string dumpStages;
  /// Who compiles, for the manifest.
  std::string producer = "qlm";

  /// Import: attention as matmul, scale, mask and softmax.
  bool plainOps = false;

  /// Quantize: "f32", "bf16", "f16", "int8", "int4", "nf4" or "fp8".
  std::string weights = "f32";
  /// "default", "tensor", "channel" or "group".
  std::string granularity = "default";
  /// Columns that share a scale by groups; 0 is the weights' own default.
  int64_t groupSize = 0;
  /// nf4: quantize the scales too.
  bool doubleQuant = false;
  bool zeroPoints = false;
  /// "rtn", "gptq", "awq" or "awq-gptq"; all but rtn need `statistics`, a file
  /// that qlm::calibrate wrote.
  std::string method = "rtn";
  /// SmoothQuant's alpha, 0 to 1; below 0 scales stay where they are.
  double smooth = -1;
  /// int8-static: "minmax", "average", "percentile" or "entropy".
  std::string range = "minmax";
  bool searchScales = false;
  /// gptq: how often codes and scales are gone over once more.
  int64_t refine = 0;
  std::string statistics;
  double damping = 0.01;
  int64_t blockSize = 128;
  bool actOrder = false;
  bool staticGroups = false;
  /// gptq: see numerics::GptqOptions::cholesky.
  ::qlm::numerics::CholeskyFunction cholesky;
  /// See PackageOptions::judge.
  std::function<llvm::Expected<llvm::json::Object>(llvm::StringRef folder)>
      judge;
  /// Makes a package for qlm::calibrate: with observers, of float weights.
  bool observe = false;
  /// "none", "bf16", "int8-dynamic", "int8-static" or "fp8-dynamic".
  std::string activations = "none";
  /// int8-dynamic: magnitudes that reach it stay f32; 0 for none.
  double outlierThreshold = 0;
  bool keepLmHead = false;

  /// Lower: "cpu" or "cuda".
  std::string target = "cpu";
  /// Of cuda: "sm_80", "sm_89", "sm_90a", with commas.
  std::string chips = "sm_90a";
  /// Of cuda: whether the order of sums may not depend on the step's size.
  bool batchInvariant = false;
  /// Of cpu: "native", "x86-64-v3", "alderlake", "x86-64-v4", "icelake-server"
  /// or "sapphirerapids".
  std::string targetCpu = "native";
  /// Times choices of kernels on this machine and keeps the best.
  bool tune = false;
  /// "f32", "f16" or "bf16".
  std::string kvCache = "f32";
  int64_t pageTokens = 16;
  int64_t maxBatch = 8;
  /// 0 means the model's context length.
  int64_t maxContext = 0;
  int64_t maxStepTokens = 512;

  /// Package: whether infinities and NaN in weights count as 0.
  bool allowNonfinite = false;
  /// Package: threads that evaluate weights; 0 means all of the machine's.
  int threads = 0;

  /// Called now and then, from one thread at a time; may be empty.
  std::function<void(const CompileProgress &)> progress;
  /// Asked now and then, from any thread; true stops the work with the error
  /// "interrupted". May be empty.
  std::function<bool()> cancelled;
  /// Called with each warning, one line; may be empty.
  std::function<void(llvm::StringRef)> warning;
};

/// What came out of compileModel; sizes are 0 when it stopped before Package.
struct CompileSummary {
  int64_t weightBytes = 0;
  int64_t moduleBytes = 0;
  /// Memory the runtime will need.
  int64_t peakBytes = 0;
};

/// Compiles a model's folder: import, optimize, quantize, lower, package, with
/// the contract checked after each stage. Errors are one line that says what
/// was wrong with which file, tensor or option; nothing half-written is left.
llvm::Expected<CompileSummary> compileModel(const CompileOptions &options);

/// For each distinct `qlm.packed_linear` of \p module compiles kernels for \p
/// targetCpu that differ from the cost model's choices in one point after the
/// other, times them on this machine with 1, 8 and \p maxRows rows, and leaves
/// those that save at least 3 % as the attribute `qlm.tuning`, which Lower
/// obeys. Bits of results don't depend on it. \p threads: 0 means all of the
/// machine's. Calls \p report with each product's name.
///
/// Fails where this machine lacks features of the target.
llvm::Error tuneKernels(ModuleOp module, llvm::StringRef targetCpu,
                        int64_t maxRows, int threads,
                        llvm::function_ref<void(llvm::StringRef)> report);

} // namespace mlir::qlm

#endif // QLM_PIPELINES_PIPELINES_H
