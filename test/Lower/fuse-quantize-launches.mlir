// RUN: quant-opt %s --qlm-fuse-quantize --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=x86-64-v3" | FileCheck %s

// A norm that selects its rows has a tile, codes and a scale for each of them,
// and so has what comes after it. Codes of 2 rows take 32 bytes and the
// readable tail 128. Scratch has a head, and sums and extended codes of 2 rows.

// CHECK: qlm.plan = {arena_bytes = 832 : i64, {{.*}}scratch_bytes = 192 : i64}
#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>
module attributes {qlm.plan = {max_step_tokens = 8 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %w = arith.constant dense<0.5> : tensor<16xf32>
    %k = arith.constant dense<3> : tensor<1x4x64xi8>
    %ks = arith.constant dense<0.5> : tensor<1x1x16xf32>
    %k2 = arith.constant dense<3> : tensor<1x2x64xi8>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // CHECK: qlm.launch @kernels::@rms_norm_quantize "norm" tiles <1 * logit_rows, block 1> args [#qlm.arg<arena>, #qlm.arg<weight>, #qlm.arg<step, 6>, #qlm.arg<arena, 576>, #qlm.arg<arena, 704>] weights(
    %y = qlm.select_rows %x, %rows : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x16xf32>
    %n = qlm.rms_norm %y, %w {epsilon = 0.5 : f32} : tensor<?x16xf32>, tensor<16xf32> loc("norm")
    %c, %s = qlm.dynamic_quantize %n {scheme = #row} : tensor<?x16xf32> -> tensor<?x16xi8>, tensor<?xf32>
    // CHECK-NEXT: qlm.launch @kernels::@packed_linear "up"
    %u = qlm.packed_linear %c input_scales %s, %k scales %ks {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>}
        : (tensor<?x16xi8>, tensor<?xf32>, tensor<1x4x64xi8>, tensor<1x1x16xf32>) -> tensor<?x16xf32> loc("up")
    // CHECK-NEXT: qlm.launch @kernels::@swiglu_quantize "swiglu" tiles <1 * logit_rows, block 1> args [#qlm.arg<arena>, #qlm.arg<arena, 192>, #qlm.arg<arena, 320>]
    %g = qlm.swiglu %u : tensor<?x16xf32> -> tensor<?x8xf32> loc("swiglu")
    %gc, %gs = qlm.dynamic_quantize %g {scheme = #row} : tensor<?x8xf32> -> tensor<?x8xi8>, tensor<?xf32>
    // CHECK-NEXT: qlm.launch @kernels::@packed_linear_1 "down"
    %l = qlm.packed_linear %gc input_scales %gs, %k2 scales %ks {inFeatures = 8 : i64, outFeatures = 16 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>}
        : (tensor<?x8xi8>, tensor<?xf32>, tensor<1x2x64xi8>, tensor<1x1x16xf32>) -> tensor<?x16xf32> loc("down")
    return %l : tensor<?x16xf32>
  }
}
