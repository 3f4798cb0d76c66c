// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" -o %t.mlir
// RUN: FileCheck %s < %t.mlir
// RUN: rm -rf %t
// RUN: quant-opt %t.mlir --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t | FileCheck --check-prefix=ASSEMBLED %s

// NF4 with scales that are codes: GEMV and GEMM as for int4.

// CHECK: qlm.launch "linear"
// CHECK-SAME: @packed_linear_gemv1, maxRows = 1,
// CHECK-SAME: @packed_linear_gemm16, maxRows = 16,
// CHECK-NOT: packed_linear_plain

// A table of the 256 pairs of codes and the map of the scales' codes; then a
// lookup a pair, whose address is the lane's byte and the pair's (selectors
// 0x5504, 0x5524, 0x5514 and 0x5534; masked to a multiple of 64, 16 copies, in
// the GEMM), and a scale from map, absmax and offset, which one lane finds for
// the four that use it.
// CHECK: llvm.mlir.global internal constant @table256
// CHECK: llvm.mlir.global internal constant @table16
// CHECK-LABEL: llvm.func @packed_linear_gemv1(
// CHECK: griddepcontrol launch_dependents
// CHECK-DAG: arith.constant 21764 : i32
// CHECK-DAG: arith.constant 21796 : i32
// CHECK-DAG: arith.constant 21780 : i32
// CHECK-DAG: arith.constant 21812 : i32
// CHECK: math.fma
// CHECK: nvvm.shfl.sync idx
// CHECK: lop3.b32 $0, $1, $2, $3, 0xE2;
// CHECK: lop3.b32 $0, $1, $2, $3, 0xE2;
// CHECK-COUNT-4: prmt.b32
// CHECK: mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
// CHECK-LABEL: llvm.func @packed_linear_gemm16(
// CHECK: arith.constant 16320 : i32

// ASSEMBLED-COUNT-5: qlm.spill_bytes = 0
module attributes {qlm.plan = {max_step_tokens = 32 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x256xf32> {
    %table = arith.constant dense<0.5> : tensor<4x512xf32>
    %gain = arith.constant dense<0.5> : tensor<512xf32>
    %w = arith.constant dense<3> : tensor<16x8x512xi8>
    %s = arith.constant dense<3> : tensor<16x8x16xi8>
    %d = arith.constant dense<0.5> : tensor<9xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x512xf32> -> tensor<?x512xf32>
    %n = qlm.rms_norm %x, %gain {epsilon = 0.5 : f32} : tensor<?x512xf32>, tensor<512xf32> -> tensor<?x512xf16>
    %y = qlm.packed_linear %n, %w scales %s super_scales %d {inFeatures = 512 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<ui4, group, 64, nf4, scales f32>}
        : (tensor<?x512xf16>, tensor<16x8x512xi8>, tensor<16x8x16xi8>, tensor<9xf32>) -> tensor<?x256xf32> loc("linear")
    return %y : tensor<?x256xf32>
  }
}
