// RUN: rm -rf %t
// RUN: quant-opt %s --qlm-emit-cuda-kernels=ptx=false | FileCheck %s
// RUN: quant-opt %s --qlm-emit-cuda-kernels="batch-invariant=true ptx=false" | FileCheck %s --check-prefix=INVARIANT
// RUN: quant-opt %s --qlm-emit-cuda-kernels="chips=sm_80 ptx=false" | FileCheck %s --check-prefix=OLD
// RUN: quant-opt %s --qlm-emit-cuda-kernels="chips=sm_80,sm_89,sm_90a ptx=false" --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t | FileCheck %s --check-prefix=ASSEMBLED

// Steps of one row a sequence split the context; others run in tiles, with
// wgmma where the cache and the chip allow it. Launches of equal operations
// share kernels.
module attributes {qlm.plan = {max_step_tokens = 256 : i64, max_logit_rows = 256 : i64, max_batch = 8 : i64, max_context = 1024 : i64}} {
  qlm.parameter @embed : tensor<4x1024xf32> from "m.safetensors" key "embed"

  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache0: tensor<9x2x2x8192xbf16>, %cache1: tensor<9x2x2x8448xi8>) -> tensor<?x512xf32> {
    %embed = qlm.load @embed : tensor<4x1024xf32>
    %f = arith.constant dense<0.5> : tensor<64xf32>
    %angles = qlm.rope_table %f : tensor<64xf32> to tensor<1024x64x2xf32>
    %x = qlm.embedding %tokens, %embed {qlm.offsets = [0]} : tensor<?xi32>, tensor<4x1024xf32> -> tensor<?x1024xf32> loc("embedding")
    // A warp for each of the eight heads of queries, keys and values.
    // CHECK: qlm.launch "layers.0.rope"
    // CHECK-SAME: rope_append, maxRows = 256, grid = <1 * tokens, block 1>
    %q0, %u0 = qlm.rope_append %x, %angles, %cache0 at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 64 keys_by_token {qlm.offsets = [1048576, -1]}
        : (tensor<?x1024xf32>, tensor<1024x64x2xf32>, tensor<9x2x2x8192xbf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x512xf32>, tensor<9x2x2x8192xbf16>) loc("layers.0.rope")
    // CHECK: qlm.launch "layers.0.attention"
    // More rows fill the machine with fewer splits.
    // Blocks without work, so that each multiprocessor has one.
    // CHECK-SAME: paged_attention_decode, maxRows = 4, grid = <132 * tokens, block 1>
    // CHECK-SAME: decodeOnly = true
    // CHECK-SAME: paged_attention_decode_1, maxRows = 256, grid = <16 * tokens, block 1>
    // CHECK-SAME: decodeOnly = true
    // CHECK-SAME: paged_attention_wgmma
    // A block a multiprocessor, whatever the rows.
    // CHECK-SAME: grid = <132 * one, block 1>
    // INVARIANT: qlm.launch "layers.0.attention"
    // INVARIANT-SAME: paged_attention_decode
    // INVARIANT-NOT: decodeOnly
    // INVARIANT-NOT: wgmma
    // OLD: qlm.launch "layers.0.attention"
    // OLD-SAME: paged_attention_decode
    // OLD-SAME: paged_attention_prefill
    // OLD-SAME: grid = <4 * tokens, block 64>
    %a0 = qlm.paged_attention %q0, %u0 at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 64 keys_by_token scale 0.25 {qlm.offsets = [2097152]}
        : (tensor<?x512xf32>, tensor<9x2x2x8192xbf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x512xf32> loc("layers.0.attention")
    // Codes have no wgmma kernel.
    // CHECK: qlm.launch "layers.1.attention"
    // CHECK-SAME: paged_attention_decode_2, maxRows = 4,
    // CHECK-SAME: paged_attention_decode_3, maxRows = 256,
    // CHECK-SAME: paged_attention_prefill
    %a1 = qlm.paged_attention %a0, %cache1 at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 64 codes i8 keys_by_token scale 0.25 {qlm.offsets = [3145728]}
        : (tensor<?x512xf32>, tensor<9x2x2x8448xi8>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x512xf32> loc("layers.1.attention")
    %r = qlm.select_rows %a1, %rows {qlm.offsets = [0]} : tensor<?x512xf32>, tensor<?xi32> -> tensor<?x512xf32>
    return %r : tensor<?x512xf32>
  }
}

// CHECK: llvm.func @paged_attention_decode(
// CHECK: mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
// CHECK: llvm.func @paged_attention_wgmma(
// CHECK-SAME: nvvm.minctasm = 1
// CHECK: wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16
// ASSEMBLED: qlm.stage
