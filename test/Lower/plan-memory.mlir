// RUN: quant-opt %s --qlm-plan-memory | FileCheck %s

// A row of 16 floats takes 64 bytes: 4 rows and the readable tail 320, the
// codes of 4 rows 64 + 64, their scales 16 + 64 rounded up to 128.

// CHECK: qlm.plan = {arena_bytes = 896 : i64,
module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache: tensor<2x2x1x64xf32>) -> tensor<?x8xf32> {
    %w = arith.constant dense<0.5> : tensor<16xf32>
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %up = arith.constant dense<0.5> : tensor<1x16x16xf32>
    %angles = arith.constant dense<0.5> : tensor<32x2x2xf32>
    // CHECK: qlm.embedding {{.*}} {qlm.offsets = [0]}
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // %x is used again, so its memory stays.
    // CHECK: qlm.rms_norm {{.*}} qlm.offsets = [320]
    %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
    // CHECK: qlm.dynamic_quantize {{.*}} {qlm.offsets = [640, 768]
    %c, %s = qlm.dynamic_quantize %n {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<?x16xf32> -> tensor<?x16xi8>, tensor<?xf32>
    %codes = arith.constant dense<3> : tensor<1x4x64xi8>
    %scales = arith.constant dense<0.5> : tensor<1x1x16xf32>
    // The place of %n is free.
    // CHECK: qlm.packed_linear {{.*}} qlm.offsets = [320]
    %y = qlm.packed_linear %c input_scales %s, %codes scales %scales {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>}
        : (tensor<?x16xi8>, tensor<?xf32>, tensor<1x4x64xi8>, tensor<1x1x16xf32>) -> tensor<?x16xf32>
    // The updated cache is in place.
    // CHECK: qlm.rope_append {{.*}} {qlm.offsets = [640, -1]}
    %q, %u = qlm.rope_append %y, %angles, %cache at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 16
        : (tensor<?x16xf32>, tensor<32x2x2xf32>, tensor<2x2x1x64xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x8xf32>, tensor<2x2x1x64xf32>)
    // CHECK: qlm.select_rows {{.*}} {qlm.offsets = [320]}
    %r = qlm.select_rows %x, %rows : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x16xf32>
    // The logits are the caller's. CHECK: qlm.swiglu {{.*}} {qlm.offsets = [-1]}
    %l = qlm.swiglu %r : tensor<?x16xf32> -> tensor<?x8xf32>
    return %l : tensor<?x8xf32>
  }
}
