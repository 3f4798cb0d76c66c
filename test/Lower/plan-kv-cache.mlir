// RUN: quant-opt %s --qlm-plan-kv-cache="max-batch=2 max-context=40 max-step-tokens=8 kv-type=f16" | FileCheck %s
// RUN: quant-opt %s --qlm-plan-kv-cache="max-batch=2 max-context=40 max-step-tokens=8 kv-type=fp8" | FileCheck %s --check-prefix=CODES

// A byte for each element and 4 for each token and head.
// CODES: qlm.plan = {kv = {bytes_per_token = 48 : i64, layers = 2 : i64, page_bytes = 384 : i64, page_tokens = 16 : i64, pages = 6 : i64, pool_bytes = 4608 : i64, type = "fp8"}
// CODES: qlm.rope_append {{.*}} page_tokens 16 codes f8E4M3FN : {{.*}} tensor<6x2x1x192xi8>
// CODES: qlm.paged_attention {{.*}} page_tokens 16 codes f8E4M3FN scale

// Two layers, so that caches follow layers. 40 tokens take 3 pages of 16.

// CHECK-LABEL: module attributes
// CHECK-SAME: qlm.plan = {kv = {bytes_per_token = 64 : i64, layers = 2 : i64, page_bytes = 512 : i64, page_tokens = 16 : i64, pages = 6 : i64, pool_bytes = 6144 : i64, type = "f16"}
// CHECK-SAME: max_batch = 2 : i64, max_context = 40 : i64, max_logit_rows = 8 : i64, max_step_tokens = 8 : i64}
module attributes {qlm.stage = "quantize", qlm.model = {context_length = 64 : i64}} {
  qlm.parameter @w : tensor<32xf32> from "m.safetensors" key "w"
  qlm.parameter @wq : tensor<16x16xf32> from "m.safetensors" key "wq"

  // CHECK: func.func @step(
  // CHECK-SAME: %[[TOKENS:[a-z0-9]+]]: tensor<?xi32> {qlm.step = "tokens"}
  // CHECK-SAME: %[[POSITIONS:[a-z0-9]+]]: tensor<?xi32> {qlm.step = "positions"}
  // CHECK-SAME: %[[SEQUENCES:[a-z0-9]+]]: tensor<?xi32> {qlm.step = "token_sequences"}
  // CHECK-SAME: tensor<?xi32> {qlm.step = "sequence_offsets"}
  // CHECK-SAME: tensor<?xi32> {qlm.step = "context_lengths"}
  // CHECK-SAME: %[[TABLES:[a-z0-9]+]]: tensor<?x?xi32> {qlm.step = "block_tables"}
  // CHECK-SAME: %[[ROWS:[a-z0-9]+]]: tensor<?xi32> {qlm.step = "logit_rows"}
  // CHECK-SAME: %[[CACHE0:[a-z0-9]+]]: tensor<6x2x1x128xf16> {qlm.step = "cache"}
  // CHECK-SAME: %[[CACHE1:[a-z0-9]+]]: tensor<6x2x1x128xf16> {qlm.step = "cache"}
  // CHECK-SAME: ) -> tensor<?x16xf32>
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x16xf32> {
    // CHECK: %[[F:.*]] = arith.constant
    // CHECK: %[[TABLE:.*]] = qlm.rope_table %[[F]] : tensor<4xf32> to tensor<40x4x2xf32>
    // CHECK-NOT: qlm.rope_table
    %f = arith.constant dense<[1.0, 0.5, 0.25, 0.125]> : tensor<4xf32>
    %w = qlm.load @w : tensor<32xf32>
    %wq = qlm.load @wq : tensor<16x16xf32>
    %table = arith.constant dense<0.5> : tensor<4x32xf32>
    // CHECK: %[[X:.*]] = qlm.embedding
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x32xf32> -> tensor<?x32xf32>
    // CHECK-NOT: qlm.split
    // CHECK-NOT: qlm.rope %
    // CHECK: %[[Q:.*]], %[[C:.*]] = qlm.rope_append %[[X]], %[[TABLE]], %[[CACHE0]] at %[[POSITIONS]], %[[SEQUENCES]], %[[TABLES]] heads 2 kv_heads 1 page_tokens 16
    // CHECK: %[[A:.*]] = qlm.paged_attention %[[Q]], %[[C]] at %[[POSITIONS]], %[[SEQUENCES]], %[[TABLES]] heads 2 kv_heads 1 page_tokens 16 scale 2.500000e-01 :
    %q, %k, %v = qlm.split %x : tensor<?x32xf32> -> tensor<?x16xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x16xf32>, tensor<?xi32>, tensor<4xf32>
    %kr = qlm.rope %k, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<4xf32>
    // A window that is as long as the longest sequence hides nothing.
    %a = qlm.attention %qr, %kr, %v heads 2 kv_heads 1 scale 2.500000e-01 causal window 40 : tensor<?x16xf32>, tensor<?x8xf32>
    %wx = tensor.concat dim(0) %wq, %wq : (tensor<16x16xf32>, tensor<16x16xf32>) -> tensor<32x16xf32>
    // CHECK: %[[Y:.*]] = qlm.linear %[[A]]
    %y = qlm.linear %a, %wx : tensor<?x16xf32>, tensor<32x16xf32> -> tensor<?x32xf32>
    // CHECK: qlm.rope_append %[[Y]], %[[TABLE]], %[[CACHE1]]
    %q1, %k1, %v1 = qlm.split %y : tensor<?x32xf32> -> tensor<?x16xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr1 = qlm.rope %q1, %positions, %f : tensor<?x16xf32>, tensor<?xi32>, tensor<4xf32>
    %kr1 = qlm.rope %k1, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<4xf32>
    // CHECK: qlm.paged_attention {{.*}} scale 2.500000e-01 window 39 :
    %a1 = qlm.attention %qr1, %kr1, %v1 heads 2 kv_heads 1 scale 2.500000e-01 causal window 39 : tensor<?x16xf32>, tensor<?x8xf32>
    %z = qlm.linear %a1, %wx residual %y : tensor<?x32xf32> : tensor<?x16xf32>, tensor<32x16xf32> -> tensor<?x32xf32>
    // CHECK: %[[Z:.*]] = qlm.linear {{.*}} residual %[[Y]]
    // CHECK: %[[S:.*]] = qlm.select_rows %[[Z]], %[[ROWS]]
    // CHECK: %[[N:.*]] = qlm.rms_norm %[[S]]
    // CHECK: %[[L:.*]] = qlm.linear %[[N]]
    // CHECK: return %[[L]]
    %n = qlm.rms_norm %z, %w {epsilon = 1.0e-5 : f32} : tensor<?x32xf32>, tensor<32xf32>
    %head = arith.constant dense<0.5> : tensor<16x32xf32>
    %l = qlm.linear %n, %head : tensor<?x32xf32>, tensor<16x32xf32> -> tensor<?x16xf32>
    return %l : tensor<?x16xf32>
  }
}
