// RUN: quant-opt %s --qlm-lower-pipeline="target-cpu=sapphirerapids kv-type=bf16 page-tokens=32 max-batch=3 max-context=33 max-step-tokens=5" | FileCheck %s
// RUN: quant-opt %s --qlm-lower-pipeline | FileCheck %s --check-prefix=DEFAULT

// The options reach their passes.

// CHECK: arena_bytes =
// CHECK-SAME: page_tokens = 32 : i64, pages = 6 : i64
// CHECK-SAME: type = "bf16"
// CHECK-SAME: max_batch = 3 : i64, max_context = 33 : i64, max_logit_rows = 5 : i64, max_step_tokens = 5 : i64
// CHECK-SAME: scratch_bytes =
// CHECK-SAME: qlm.stage = "lower"
// DEFAULT: max_batch = 8 : i64, max_context = 64 : i64, max_logit_rows = 128 : i64, max_step_tokens = 128 : i64
module attributes {qlm.stage = "quantize", qlm.model = {context_length = 64 : i64}} {
  // CHECK-LABEL: func.func @step
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %f = arith.constant dense<0.5> : tensor<4xf32>
    %w = arith.constant dense<0.5> : tensor<8xf32>
    %table = arith.constant dense<0.5> : tensor<4x24xf32>
    %head = arith.constant dense<0.5> : tensor<1x8x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x24xf32> -> tensor<?x24xf32>
    %q, %k, %v = qlm.split %x : tensor<?x24xf32> -> tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<4xf32>
    %kr = qlm.rope %k, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<4xf32>
    %a = qlm.attention %qr, %kr, %v heads 1 kv_heads 1 scale 2.500000e-01 causal : tensor<?x8xf32>, tensor<?x8xf32>
    %n = qlm.rms_norm %a, %w {epsilon = 1.0e-5 : f32} : tensor<?x8xf32>, tensor<8xf32>
    %l = qlm.packed_linear %n, %head {inFeatures = 8 : i64, outFeatures = 4 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x8xf32>, tensor<1x8x16xf32>) -> tensor<?x4xf32>
    return %l : tensor<?x4xf32>
  }
  // CHECK-COUNT-6: qlm.launch
  // CHECK-NOT: qlm.launch
  // CHECK: module @kernels
  // CHECK-COUNT-6: llvm.func @
}
