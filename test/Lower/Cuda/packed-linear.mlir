// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" -o %t.mlir
// RUN: FileCheck %s < %t.mlir
// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels=batch-invariant | FileCheck --check-prefix=INVARIANT %s
// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="chips=sm_80 ptx=false" | FileCheck --check-prefix=OLD %s

// Up to 8 rows a GEMV, a block a multiprocessor, of which each has room for two
// of one row. Then tiles of the GEMM for each bucket. 512 rows and
// 256 features are few tiles: those of 64 rows spread over the machine.

// CHECK: qlm.launch "linear"
// CHECK-SAME: #qlm.variant<kernel = @kernels_sm_90a::@packed_linear_gemv1, maxRows = 1, grid = <132 * one, block 1>, blockThreads = 288, sharedBytes = 115712, dependent = true>
// CHECK-SAME: @packed_linear_gemv4, maxRows = 4,
// CHECK-SAME: @packed_linear_gemv8, maxRows = 8,
// CHECK-SAME: @packed_linear_gemm16, maxRows = 16, grid = <2 * tokens, block 16>, blockThreads = 384
// CHECK-SAME: @packed_linear_gemm64, maxRows = 64,
// CHECK-SAME: maxRows = 512,
// CHECK-NOT: packed_linear_plain

// Sums of one order: no GEMV, no cluster.
// INVARIANT: qlm.launch "linear"
// INVARIANT-NOT: gemv
// INVARIANT-SAME: @packed_linear_gemm16
// INVARIANT-NOT: cluster = 

// OLD: qlm.launch "linear"
// OLD-SAME: @packed_linear_plain, maxRows = 512

// The weights' copies begin before the kernel waits for the one before it; a
// lane's registers go to the tensor cores without a detour.
// CHECK-LABEL: llvm.func @packed_linear_gemv1(
// CHECK: griddepcontrol launch_dependents
// CHECK: cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint
// CHECK: griddepcontrol wait
// CHECK: mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
// Lines of a stage are too short for the copy engine; other warps copy x.
// CHECK-LABEL: llvm.func @packed_linear_gemm16(
// CHECK-NOT: cp.async.bulk
// CHECK: cp.async.cg.shared.global
// CHECK: cp.async.mbarrier.arrive.noinc
// CHECK: griddepcontrol wait
// CHECK: cp.async.cg.shared.global
// A chunk is under way while the next one is unpacked.
// CHECK: wgmma.fence.sync.aligned
// CHECK-COUNT-4: wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16
// CHECK: wgmma.commit_group.sync.aligned
// CHECK: wgmma.wait_group.sync.aligned 1
// CHECK: lop3.b32
// CHECK: wgmma.fence.sync.aligned
// CHECK: wgmma.wait_group.sync.aligned 0
module attributes {qlm.plan = {max_step_tokens = 512 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x256xf32> {
    %table = arith.constant dense<0.5> : tensor<4x512xf32>
    %gain = arith.constant dense<0.5> : tensor<512xf32>
    %w = arith.constant dense<3> : tensor<16x8x512xi8>
    %s = arith.constant dense<0.5> : tensor<16x4x16xf16>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x512xf32> -> tensor<?x512xf32>
    %n = qlm.rms_norm %x, %gain {epsilon = 0.5 : f32} : tensor<?x512xf32>, tensor<512xf32> -> tensor<?x512xf16>
    %y = qlm.packed_linear %n, %w scales %s {inFeatures = 512 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x512xf16>, tensor<16x8x512xi8>, tensor<16x4x16xf16>) -> tensor<?x256xf32> loc("linear")
    return %y : tensor<?x256xf32>
  }
}
