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
    Option<"keysByToken", "keys-by-token", "bool", /*default=*/"false",
           "Lets the features of a key be neighbours, as GPUs want them, not "
           "the tokens of a feature">,
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

def FuseLaunches : Pass<"qlm-fuse-launches", "::mlir::ModuleOp"> {
  let summary = "Groups operations that one GPU kernel may run";
  let description = [{
    A `qlm.packed_linear` and its neighbours in the step get the same number:
    the `qlm.rms_norm` before it, and the `qlm.swiglu` or `qlm.rope_append`
    after it, where nothing else reads what lies between them. `qlm-plan-memory`
    then keeps what the first one reads until the last one has run, and
    `qlm-emit-cuda-kernels` gives the linear's launch the arguments of all:
    its kernels for few rows do the neighbours' work, whose launches are left
    out of such steps. Larger steps run each operation by itself. Results are
    rounded to the types between the operations either way.

    ```mlir
    %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xf16>
    %g = qlm.packed_linear %n, %p {...} : (tensor<?x64xf16>, ...) -> tensor<?x256xf16>
    %y = qlm.swiglu %g : tensor<?x256xf16> -> tensor<?x128xf16>
    ```
    becomes
    ```mlir
    %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32, qlm.group = 0} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xf16>
    %g = qlm.packed_linear %n, %p {..., qlm.group = 0} : (tensor<?x64xf16>, ...) -> tensor<?x256xf16>
    %y = qlm.swiglu %g {qlm.group = 0} : tensor<?x256xf16> -> tensor<?x128xf16>
    ```
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def PlanMemory : Pass<"qlm-plan-memory", "::mlir::ModuleOp"> {
  let summary = "Assigns each activation of the step an offset in the arena";
  let description = [{
    Each result that lives in memory gets an offset that no value alive at the
    same time overlaps: first fit in the order of the operations, aligned to
    `alignment` bytes, for the largest step. The 64 bytes after each buffer may
    be read
    by kernels that load whole vectors. Results that have no place in the arena
    (parameters, caches, the logits) get -1.

    Sets the attribute `qlm.offsets` on the operations and `arena_bytes` in
    the plan:
    ```mlir
    %x = qlm.embedding %tokens, %table {qlm.offsets = [0]}
    ```
  }];
  let options = [
    Option<"alignment", "alignment", "int64_t", /*default=*/"64",
           "Alignment of activations: 64, on a GPU 256">,
  ];
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
           "native, x86-64-v3, alderlake, x86-64-v4, icelake-server or "
           "sapphirerapids">,
  ];
  let dependentDialects = [
    "::mlir::qlm::QlmDialect", "::mlir::LLVM::LLVMDialect",
    "::mlir::arith::ArithDialect", "::mlir::func::FuncDialect",
    "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
    "::mlir::vector::VectorDialect"
  ];
}

def NarrowActivations : Pass<"qlm-narrow-activations", "::mlir::ModuleOp"> {
  let summary = "Rounds activations between kernels to 16 bits";
  let description = [{
    Gives the results of norms, gated MLPs, attention, and of the linears
    before rope and gates the element type `type`, so that they are half as
    long and feed 16-bit matrix units. Each operation still computes in f32 and
    rounds once. The residual stream and the logits stay f32. `auto` is bf16
    where the step has a bf16 weight that isn't quantized, else f16.

    ```mlir
    %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x64xf32>, tensor<64xf32>
    %y = qlm.packed_linear %n, %p residual %x {...} : (tensor<?x64xf32>, ...) -> tensor<?x64xf32>
    ```
    becomes
    ```mlir
    %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xf16>
    %y = qlm.packed_linear %n, %p residual %x {...} : (tensor<?x64xf16>, ...) -> tensor<?x64xf32>
    ```
  }];
  let options = [
    Option<"type", "type", "std::string", /*default=*/"\"auto\"",
           "f16, bf16, auto, or f32 to change nothing">,
  ];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def EmitCudaKernels : Pass<"qlm-emit-cuda-kernels", "::mlir::ModuleOp"> {
  let summary = "Emits the GPU's kernels and turns operations to launches";
  let description = [{
    Adds a `gpu.module` for each chip with the kernels of each distinct
    operation (name, attributes, types) and replaces the operations of `@step`
    by `qlm.launch` with variants, in the order of preference. `@kernels_CHIP`
    has the attribute `qlm.cubin` if it is to be assembled, and `qlm.ptx` if
    it goes into the package as PTX for GPUs that the package has no code for;
    those are the kernels for sm_80. Sets `workspace_bytes` in the plan.

    ```mlir
    %y = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32, qlm.offsets = [8448]} : tensor<?x64xf32>, tensor<64xf32>
    ```
    becomes
    ```mlir
    qlm.launch "layers.0.attention_norm" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@rms_norm, maxRows = 128, grid = <1 * tokens, block 1>, blockThreads = 32, dependent = true>] args [#qlm.arg<arena>, #qlm.arg<weight>, #qlm.arg<arena, 8448>] weights(%w : tensor<64xf32>) {bytes = 256 : i64, flopsPerRow = 256 : i64}
    ```
  }];
  let options = [
    Option<"chips", "chips", "std::string", /*default=*/"\"sm_90a\"",
           "GPUs to make code for: sm_80, sm_89, sm_90a, with commas">,
    Option<"ptx", "ptx", "bool", /*default=*/"true",
           "Whether PTX goes into the package beside machine code">,
    Option<"batchInvariant", "batch-invariant", "bool", /*default=*/"false",
           "Keeps the order of sums the same for steps of any size">,
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

def LowerKernelsToNVVM
    : Pass<"qlm-lower-kernels-to-nvvm", "::mlir::ModuleOp"> {
  let summary = "Lowers the GPU kernels to the LLVM and NVVM dialects";
  let description = [{
    Runs the conversions of scf, vector, math, arith and nvvm on each
    `gpu.module` and leaves nothing but the LLVM and NVVM dialects in it. A
    module without the attribute `qlm.chip` gets the option's. Completes the
    stage: `qlm.stage` becomes "lower".

    ```mlir
    gpu.module @kernels {
      llvm.func @k(%x: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
        %t = nvvm.read.ptx.sreg.tid.x : i32
        %f = arith.sitofp %t : i32 to f32
    ```
    becomes
    ```mlir
    gpu.module @kernels attributes {qlm.chip = "sm_90a"} {
      llvm.func @k(%x: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
        %t = nvvm.read.ptx.sreg.tid.x : i32
        %f = llvm.sitofp %t : i32 to f32
    ```
  }];
  let options = [
    Option<"chip", "chip", "std::string", /*default=*/"\"sm_90a\"",
           "Chip of modules that don't name theirs: sm_80, sm_89 or sm_90a">,
  ];
}

#endif // QLM_LOWER_PASSES
