//===- Passes.h - Passes and options of the Lower stage ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Lower turns a (quantized) model into a step that the runtime can execute: a
// paged KV cache, an arena plan, kernels and a list of launches. See
// docs/design/2026-11-23-ir-contracts.md, "After Lower".
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_PASSES_H
#define QLM_LOWER_PASSES_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassOptions.h"
#include "qlm/Dialect/Qlm.h"

namespace mlir {
class OpPassManager;
} // namespace mlir

namespace mlir::qlm {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "qlm/Lower/Passes.h.inc"

/// Name of the nested module that holds the kernels.
inline constexpr llvm::StringLiteral kKernelsName = "kernels";
/// Attribute of a step's operation: offsets of its results in the arena.
inline constexpr llvm::StringLiteral kOffsetsAttr = "qlm.offsets";
/// Attribute of the last operation of a parameter program: its tensor's name
/// in the package, where no `qlm.pack` names it.
inline constexpr llvm::StringLiteral kKeyAttr = "qlm.key";
/// Attributes of the kernel module: what LLVM's TargetMachine takes.
inline constexpr llvm::StringLiteral kTargetCpuAttr = "qlm.target_cpu";
inline constexpr llvm::StringLiteral kTargetFeaturesAttr =
    "qlm.target_features";

/// Attributes of a `gpu.module` beside its chip: whether the package has it as
/// machine code, and as PTX.
inline constexpr llvm::StringLiteral kCubinAttr = "qlm.cubin";
inline constexpr llvm::StringLiteral kPtxAttr = "qlm.ptx";

/// Options of the Lower stage.
struct LowerOptions : public PassPipelineOptions<LowerOptions> {
  Option<std::string> target{*this, "target", llvm::cl::desc("cpu or cuda"),
                             llvm::cl::init("cpu")};
  Option<std::string> chips{
      *this, "chips",
      llvm::cl::desc("GPUs to make code for: sm_80, sm_89, sm_90a, with "
                     "commas"),
      llvm::cl::init("sm_90a")};
  Option<std::string> activationType{
      *this, "activation-type",
      llvm::cl::desc("Activations between a GPU's kernels: f16, bf16, f32, or "
                     "auto"),
      llvm::cl::init("auto")};
  Option<bool> batchInvariant{
      *this, "batch-invariant",
      llvm::cl::desc("Keeps the order of sums on a GPU the same for steps of "
                     "any size"),
      llvm::cl::init(false)};
  Option<std::string> targetCpu{
      *this, "target-cpu",
      llvm::cl::desc("native, x86-64-v3, alderlake, x86-64-v4, icelake-server "
                     "or sapphirerapids"),
      llvm::cl::init("native")};
  Option<std::string> kvType{
      *this, "kv-type",
      llvm::cl::desc("How keys and values are stored: f32, f16, bf16, int8 or "
                     "fp8"),
      llvm::cl::init("f32")};
  Option<int64_t> pageTokens{
      *this, "page-tokens",
      llvm::cl::desc("Tokens of one page, a multiple of 16"),
      llvm::cl::init(16)};
  Option<int64_t> maxBatch{*this, "max-batch",
                           llvm::cl::desc("Most sequences of a step"),
                           llvm::cl::init(8)};
  Option<int64_t> maxContext{
      *this, "max-context",
      llvm::cl::desc("Most tokens of a sequence; 0 means the model's context "
                     "length"),
      llvm::cl::init(0)};
  Option<int64_t> maxStepTokens{
      *this, "max-step-tokens",
      llvm::cl::desc("Most tokens of a step, over all its sequences"),
      llvm::cl::init(128)};
};

/// Adds the passes of the stage, in order; copies what it needs of the
/// options.
void buildLowerPipeline(OpPassManager &pm, const LowerOptions &options);

/// Adds the conversions that `qlm-lower-kernels-to-llvm` runs on the kernel
/// module. Tests lower single kernels with them.
void buildKernelsToLLVMPipeline(OpPassManager &pm);

/// The same for a `gpu.module`: what `qlm-lower-kernels-to-nvvm` runs.
void buildKernelsToNVVMPipeline(OpPassManager &pm);

/// Registers `qlm-lower-pipeline`.
void registerLowerPipelines();

} // namespace mlir::qlm

#endif // QLM_LOWER_PASSES_H
