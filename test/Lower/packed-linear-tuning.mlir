// Choices replace the cost model's, and are told apart from it.

// RUN: quant-opt %s --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=sapphirerapids" | FileCheck %s

// Tiles of 2 and of 4 blocks; int8 rows from 2 on take AMX.
// CHECK: qlm.launch @kernels::@packed_linear "packed_linear" tiles <4 * one, block 1>
// CHECK: qlm.launch @kernels::@packed_linear_1 "packed_linear" tiles <2 * one, block 1>
#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>
#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
module attributes {qlm.plan = {max_step_tokens = 33 : i64, max_logit_rows = 33 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x128xf32> {
    %table = arith.constant dense<0.5> : tensor<4x128xf32>
    %w = arith.constant dense<3> : tensor<8x32x64xi8>
    %s = arith.constant dense<0.5> : tensor<8x1x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x128xf32> -> tensor<?x128xf32>
    %c, %cs = qlm.dynamic_quantize %x {scheme = #row} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>
    %y = qlm.packed_linear %c input_scales %cs, %w scales %s {inFeatures = 128 : i64, outFeatures = 128 : i64, layout = #qlm.layout<i8x16x4>, scheme = #int8, qlm.tuning = {tile_blocks = 2, prefetch_bytes = 640}}
        : (tensor<?x128xi8>, tensor<?xf32>, tensor<8x32x64xi8>, tensor<8x1x16xf32>) -> tensor<?x128xf32>
    %d, %ds = qlm.dynamic_quantize %y {scheme = #row} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>
    %z = qlm.packed_linear %d input_scales %ds, %w scales %s {inFeatures = 128 : i64, outFeatures = 128 : i64, layout = #qlm.layout<i8x16x4>, scheme = #int8, qlm.tuning = {tile_blocks = 4, amx_rows = 2, one_row_strips = 2, chunk_columns = 64}}
        : (tensor<?x128xi8>, tensor<?xf32>, tensor<8x32x64xi8>, tensor<8x1x16xf32>) -> tensor<?x128xf32>
    return %z : tensor<?x128xf32>
  }
}

// CHECK: func.func @packed_linear(
// CHECK: %[[MIN:.*]] = arith.constant 9 : i64
// CHECK: arith.cmpi sge, %{{.*}}, %[[MIN]] : i64
// CHECK: arith.constant 640 : i64
// CHECK: func.func @packed_linear_1(
// CHECK: %[[FEW:.*]] = arith.constant 2 : i64
// CHECK: arith.cmpi sge, %{{.*}}, %[[FEW]] : i64
