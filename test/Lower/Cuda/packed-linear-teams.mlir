// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" -o %t.mlir
// RUN: FileCheck %s < %t.mlir
// RUN: rm -rf %t
// RUN: quant-opt %t.mlir --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t | FileCheck --check-prefix=ASSEMBLED %s

// 136 blocks of features are two for some of 132 thread blocks: with several
// rows a team of eight warps has each. One row leaves registers and shared
// memory to two thread blocks of one team.

// CHECK: qlm.launch "linear"
// CHECK-SAME: @packed_linear_gemv1, maxRows = 1, grid = <132 * one, block 1>, blockThreads = 288,
// CHECK-SAME: @packed_linear_gemv4, maxRows = 4, grid = <132 * one, block 1>, blockThreads = 544,
// CHECK-SAME: @packed_linear_gemv8, maxRows = 8, grid = <132 * one, block 1>, blockThreads = 544,

// A warp copies x of its own columns, and waits for nobody else where there is
// one team.
// CHECK-LABEL: llvm.func @packed_linear_gemv1(
// CHECK: griddepcontrol wait
// CHECK: cp.async.cg.shared.global
// CHECK: cp.async.wait_group 1;
// CHECK-NOT: bar.sync
// CHECK: ldmatrix.sync.aligned.m8n8.x4.shared.b16
// CHECK: mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32

// Both teams' warps of the same columns copy a half each; a slot of the ring is
// given back by one team, and the other's are passed over.
// CHECK-LABEL: llvm.func @packed_linear_gemv8(
// CHECK-DAG: mbarrier.init.shared::cta.b64
// CHECK: griddepcontrol wait
// CHECK: cp.async.cg.shared.global
// CHECK: cp.async.wait_group 1;
// CHECK: bar.sync $0, 64;
// CHECK: ldmatrix.sync.aligned.m8n8.x4.shared.b16

// ASSEMBLED-COUNT-6: qlm.spill_bytes = 0
module attributes {qlm.plan = {max_step_tokens = 32 : i64, max_logit_rows = 2 : i64, max_batch = 8 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x2176xf32> {
    %table = arith.constant dense<0.5> : tensor<4x512xf32>
    %gain = arith.constant dense<0.5> : tensor<512xf32>
    %w = arith.constant dense<3> : tensor<136x8x512xi8>
    %s = arith.constant dense<0.5> : tensor<136x4x16xf16>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x512xf32> -> tensor<?x512xf32>
    %n = qlm.rms_norm %x, %gain {epsilon = 0.5 : f32} : tensor<?x512xf32>, tensor<512xf32> -> tensor<?x512xf16>
    %y = qlm.packed_linear %n, %w scales %s {inFeatures = 512 : i64, outFeatures = 2176 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x512xf16>, tensor<136x8x512xi8>, tensor<136x4x16xf16>) -> tensor<?x2176xf32> loc("linear")
    return %y : tensor<?x2176xf32>
  }
}
