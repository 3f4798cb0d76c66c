//===- Passes.td - Passes of the Lower stage ---------------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_PASSES
#define QLM_LOWER_PASSES

include "mlir/Pass/PassBase.td"

def PlanKvCache : Pass<"qlm-plan-kv-cache", "::mlir::ModuleOp"> {
  let summary = "Turns the forward function into a step over a paged cache";
  let description = [{
    Renames `@forward` to `@step`, gives it the step's arguments and one cache
    for each layer, replaces attention and the rotations before it by
    `qlm.rope_append` and `qlm.paged_attention`, and lets only the wanted rows
    reach the final norm and the head (`qlm.select_rows`).

    ```mlir
    func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x64xf32> {
      ...
      %q, %k, %v = qlm.split %qkv
      %qr = qlm.rope %q, %positions, %f
      %kr = qlm.rope %k, %positions, %f
      %a = qlm.attention %qr, %kr, %v heads 4 kv_heads 2 scale 0.25 causal
    ```
    becomes
    ```mlir
    func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, ..., %cache: tensor<64x2x2x256xf32> {qlm.step = "cache"}) -> tensor<?x64xf32> {
      ...
      %t = qlm.rope_table %f
      %qr, %c = qlm.rope_append %qkv, %t, %cache at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 16
      %a = qlm.paged_attention %qr, %c at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 16 scale 0.25
    ```

    A layer has `max-batch * ceil(max-context / page-tokens)` pages, so that
    every sequence can grow to the longest context. Sets the module's
    `qlm.plan`.

    With `kv-type=int8` or `fp8` (E4M3) a cache holds codes and a scale for
    each token and head, and the two operations say so: `page_tokens 16 codes
    f8E4M3FN`, `%cache: tensor<64x2x2x320xi8>`.
  }];
  let options = [
    Option<"pageTokens", "page-tokens", "int64_t", /*default=*/"16",
           "Tokens of one page, a multiple of 16">,
    Option<"kvType", "kv-type", "std::string", /*default=*/"\"f32\"",
           "How keys and values are stored: f32, f16, bf16, int8 or fp8">,
    Option<"maxBatch", "max-batch", "int64_t", /*default=*/"8",
           "Most sequences of a step">,
    Option<"maxContext", "max-context", "int64_t", /*default=*/"0",
           "Most tokens of a sequence; 0 means the model's context length">,
    Option<"maxStepTokens", "max-step-tokens", "int64_t", /*default=*/"128",
           "Most tokens of a step, over all its sequences">,
  ];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def FuseQuantize : Pass<"qlm-fuse-quantize", "::mlir::ModuleOp"> {
  let summary = "Merges the rounding of activations with what computes them";
  let description = [{
    `qlm.dynamic_quantize` of a `qlm.rms_norm` or `qlm.swiglu` becomes one
    operation, so that the row is written once, as int8, by one launch. A
    `qlm.select_rows` before the norm is taken in too. Each of the f32 values
    between them must have no other user.

    ```mlir
    %r = qlm.select_rows %x, %rows : tensor<?x64xf32>, tensor<?xi32> -> tensor<?x64xf32>
    %n = qlm.rms_norm %r, %w {epsilon = 1.0e-5 : f32} : tensor<?x64xf32>, tensor<64xf32>
    %c, %s = qlm.dynamic_quantize %n {scheme = #row} : tensor<?x64xf32> -> tensor<?x64xi8>, tensor<?xf32>
    ```
    becomes
    ```mlir
    %c, %s = qlm.rms_norm_quantize %x, %w rows %rows : tensor<?xi32> {epsilon = 1.0e-5 : f32, scheme = #row} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xi8>, tensor<?xf32>
    ```
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def PlanMemory : Pass<"qlm-plan-memory", "::mlir::ModuleOp"> {
  let summary = "Assigns each activation of the step an offset in the arena";
  let description = [{
    Each result that lives in memory gets an offset that no value alive at the
    same time overlaps: first fit in the order of the operations, aligned to
    64 bytes, for the largest step. The 64 bytes after each buffer may be read
    by kernels that load whole vectors. Results that have no place in the
    arena (parameters, caches, the logits) get -1.

    Sets the attribute `qlm.offsets` on the operations and `arena_bytes` in
    the plan:
    ```mlir
    %x = qlm.embedding %tokens, %table {qlm.offsets = [0]}
    ```
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def EmitCpuKernels : Pass<"qlm-emit-cpu-kernels", "::mlir::ModuleOp"> {
  let summary = "Emits the processor's kernels and turns operations to launches";
  let description = [{
    Adds a nested module `@kernels` with one function for each distinct
    operation (name, attributes, types) and replaces the operations of `@step`
    by `qlm.launch`. `qlm.key` on the last operation of a parameter program
    names the tensor in the package where `qlm.pack` doesn't.

    ```mlir
    %y = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32, qlm.offsets = [8256]} : tensor<?x64xf32>, tensor<64xf32>
    ```
    becomes
    ```mlir
    qlm.launch @kernels::@rms_norm "layers.0.attention_norm" tiles <1 * tokens, block 1> args [#qlm.arg<arena>, #qlm.arg<weight>, #qlm.arg<arena, 8256>] weights(%w : tensor<64xf32>) {bytes = 256 : i64, flopsPerRow = 256 : i64}
    ```
  }];
  let options = [
    Option<"targetCpu", "target-cpu", "std::string", /*default=*/"\"native\"",
           "native, x86-64-v3, x86-64-v4 or sapphirerapids">,
  ];
  let dependentDialects = [
    "::mlir::qlm::QlmDialect", "::mlir::LLVM::LLVMDialect",
    "::mlir::arith::ArithDialect", "::mlir::func::FuncDialect",
    "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
    "::mlir::vector::VectorDialect"
  ];
}

def LowerKernelsToLLVM
    : Pass<"qlm-lower-kernels-to-llvm", "::mlir::ModuleOp"> {
  let summary = "Lowers the kernel module to the LLVM dialect";
  let description = [{
    Runs the conversions of scf, math, vector, arith and func on the nested
    module `@kernels` and leaves nothing but the LLVM dialect in it. Completes
    the stage: `qlm.stage` becomes "lower".
  }];
}

#endif // QLM_LOWER_PASSES
