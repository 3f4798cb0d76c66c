// RUN: rm -rf %t
// RUN: quant-opt %s --qlm-emit-cuda-kernels=ptx=false | FileCheck %s
// RUN: quant-opt %s --qlm-emit-cuda-kernels="chips=sm_80,sm_90a ptx=false" --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t | FileCheck %s --check-prefix=ASSEMBLED

// Layers with a window, and without, have kernels of their own; equal windows
// share them.
module attributes {qlm.plan = {max_step_tokens = 256 : i64, max_logit_rows = 256 : i64, max_batch = 8 : i64, max_context = 1024 : i64}} {
  qlm.parameter @embed : tensor<4x512xf32> from "m.safetensors" key "embed"

  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache: tensor<9x2x2x8192xbf16>, %codes: tensor<9x2x2x8448xi8>) -> tensor<?x512xf32> {
    %embed = qlm.load @embed : tensor<4x512xf32>
    %x = qlm.embedding %tokens, %embed {qlm.offsets = [0]} : tensor<?xi32>, tensor<4x512xf32> -> tensor<?x512xf32> loc("embedding")
    // CHECK: qlm.launch "all"
    // CHECK-SAME: @paged_attention_decode, maxRows = 4,
    // CHECK-SAME: @paged_attention_wgmma, maxRows = 256,
    %a = qlm.paged_attention %x, %cache at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 64 keys_by_token scale 0.25 {qlm.offsets = [1048576]}
        : (tensor<?x512xf32>, tensor<9x2x2x8192xbf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x512xf32> loc("all")
    // CHECK: qlm.launch "window"
    // CHECK-SAME: @[[DECODE:paged_attention_decode_[0-9]+]], maxRows = 4,
    // CHECK-SAME: @[[TILES:paged_attention_wgmma_[0-9]+]], maxRows = 256,
    %b = qlm.paged_attention %a, %cache at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 64 keys_by_token scale 0.25 window 100 {qlm.offsets = [2097152]}
        : (tensor<?x512xf32>, tensor<9x2x2x8192xbf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x512xf32> loc("window")
    // CHECK: qlm.launch "same"
    // CHECK-SAME: @[[DECODE]], maxRows = 4,
    // CHECK-SAME: @[[TILES]], maxRows = 256,
    %c = qlm.paged_attention %b, %cache at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 64 keys_by_token scale 0.25 window 100 {qlm.offsets = [3145728]}
        : (tensor<?x512xf32>, tensor<9x2x2x8192xbf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x512xf32> loc("same")
    // CHECK: qlm.launch "codes"
    // CHECK-SAME: @paged_attention_prefill, maxRows = 256,
    %d = qlm.paged_attention %c, %codes at %positions, %sequences, %tables heads 4 kv_heads 2 page_tokens 64 codes i8 keys_by_token scale 0.25 window 37 {qlm.offsets = [4194304]}
        : (tensor<?x512xf32>, tensor<9x2x2x8448xi8>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x512xf32> loc("codes")
    %r = qlm.select_rows %d, %rows {qlm.offsets = [0]} : tensor<?x512xf32>, tensor<?xi32> -> tensor<?x512xf32>
    return %r : tensor<?x512xf32>
  }
}

// ASSEMBLED: qlm.stage
// ptxas may spill one word, which is lost beside the wait for keys.
// ASSEMBLED-NOT: qlm.spill_bytes = {{[1-35-9]|[1-9][0-9]}}
