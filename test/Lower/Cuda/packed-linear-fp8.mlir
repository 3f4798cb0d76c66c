// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" -o %t.mlir
// RUN: FileCheck %s < %t.mlir
// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="chips=sm_80 ptx=false" | FileCheck --check-prefix=OLD %s
// RUN: rm -rf %t
// RUN: quant-opt %t.mlir --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t | FileCheck --check-prefix=ASSEMBLED %s

// f8E4M3FN by f8E4M3FN: the kernels of int8, with sums in f32.

// CHECK: qlm.launch "norm"
// CHECK-SAME: rms_norm_quantize
// CHECK: qlm.launch "linear"
// CHECK-SAME: @packed_linear_gemv1, maxRows = 1,
// CHECK-SAME: @packed_linear_gemv8, maxRows = 8,
// CHECK-SAME: @packed_linear_gemm16, maxRows = 16,
// CHECK-NOT: packed_linear_plain

// Older chips turn codes to f32.
// OLD: qlm.launch "linear"
// OLD-SAME: @packed_linear_plain, maxRows = 32

// CHECK-LABEL: llvm.func @packed_linear_gemv1(
// CHECK: cp.async.bulk.shared::cluster.global
// CHECK: mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32
// CHECK-LABEL: llvm.func @packed_linear_gemm16(
// CHECK: wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3

// ASSEMBLED-COUNT-5: qlm.spill_bytes = 0
module attributes {qlm.plan = {max_step_tokens = 32 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x256xf32> {
    %table = arith.constant dense<0.5> : tensor<4x512xf32>
    %gain = arith.constant dense<0.5> : tensor<512xf32>
    %w = arith.constant dense<3> : tensor<16x16x512xi8>
    %s = arith.constant dense<0.5> : tensor<16x1x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x512xf32> -> tensor<?x512xf32>
    %c, %cs = qlm.rms_norm_quantize %x, %gain {epsilon = 0.5 : f32, scheme = #qlm.scheme<f8E4M3FN, row, bound 448.0, scales f32>} : tensor<?x512xf32>, tensor<512xf32> -> tensor<?x512xf8E4M3FN>, tensor<?xf32> loc("norm")
    %y = qlm.packed_linear %c input_scales %cs, %w scales %s {inFeatures = 512 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag8x8>, scheme = #qlm.scheme<f8E4M3FN, channel, bound 448.0, scales f32>}
        : (tensor<?x512xf8E4M3FN>, tensor<?xf32>, tensor<16x16x512xi8>, tensor<16x1x16xf32>) -> tensor<?x256xf32> loc("linear")
    return %y : tensor<?x256xf32>
  }
}
