// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" | FileCheck %s
// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="batch-invariant ptx=false" | FileCheck --check-prefix=INVARIANT %s

// What large tiles do, and what a batch-invariant package splits.

// Steps of any size split the columns of the narrow linear alike, in stages of
// the same length: tiles of 128 rows at most.
// INVARIANT: qlm.launch "narrow"
// INVARIANT-SAME: @packed_linear_gemm16, maxRows = 16, {{[^>]*>[^>]*}}cluster = 4
// INVARIANT-SAME: @packed_linear_gemm128, maxRows = 128, {{[^>]*>[^>]*}}cluster = 4
// INVARIANT-SAME: @packed_linear_gemm128_{{[0-9]}}, maxRows = 512, {{[^>]*>[^>]*}}cluster = 4
// INVARIANT-NOT: packed_linear_gemm256
// INVARIANT: qlm.launch "wide"

// Two tiles of 128 features are shared by 16 blocks, a span of four stages
// each: the head of a tile goes to the workspace, its flag is raised after a
// fence; who has the tail waits for it, and resets it.
// CHECK: qlm.launch "narrow"
// CHECK-SAME: @[[SPANS:packed_linear_gemm16_spans]], maxRows = 16, grid = <16 * one, block 1>
// CHECK-SAME: #qlm.arg<workspace>

// A warp has two blocks of features, and both meet a part of x in turn.
// CHECK: qlm.launch "wide"
// CHECK-SAME: @[[KERNEL:packed_linear_gemm128_wide[_0-9]*]], maxRows = 512, grid = <64 * tokens, block 128>
// CHECK: llvm.func @[[SPANS]](
// CHECK: wgmma.wait_group.sync.aligned 0;
// CHECK: ld.acquire.gpu.global.u32
// CHECK: fence.acq_rel.gpu;
// CHECK: st.release.gpu.global.u32
// CHECK: llvm.func @[[KERNEL]](
// CHECK: wgmma.fence.sync.aligned
// CHECK-COUNT-4: wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16
// CHECK: wgmma.commit_group.sync.aligned
// CHECK: wgmma.wait_group.sync.aligned 1;
// f32 leaves through shared memory too, 16 bytes a thread; four of its
// residuals are on their way before the first one is added.
// CHECK-COUNT-4: llvm.load {{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xf32>
// CHECK: llvm.load {{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xf32>
// CHECK: llvm.store {{.*}} {alignment = 16 : i64} : vector<4xf32>, !llvm.ptr<1>
module attributes {qlm.plan = {max_step_tokens = 512 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16384xf32> {
    %table = arith.constant dense<0.5> : tensor<4x4096xf32>
    %wide_table = arith.constant dense<0.5> : tensor<4x16384xf32>
    %gain = arith.constant dense<0.5> : tensor<4096xf32>
    %w = arith.constant dense<3> : tensor<16x64x512xi8>
    %s = arith.constant dense<0.5> : tensor<16x32x16xf16>
    %v = arith.constant dense<3> : tensor<1024x4x512xi8>
    %t = arith.constant dense<0.5> : tensor<1024x2x16xf16>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4096xf32> -> tensor<?x4096xf32>
    %r = qlm.embedding %tokens, %wide_table : tensor<?xi32>, tensor<4x16384xf32> -> tensor<?x16384xf32>
    %n = qlm.rms_norm %x, %gain {epsilon = 0.5 : f32} : tensor<?x4096xf32>, tensor<4096xf32> -> tensor<?x4096xf16>
    %y = qlm.packed_linear %n, %w scales %s {inFeatures = 4096 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x4096xf16>, tensor<16x64x512xi8>, tensor<16x32x16xf16>) -> tensor<?x256xf16> loc("narrow")
    %z = qlm.packed_linear %y, %v scales %t residual %r {inFeatures = 256 : i64, outFeatures = 16384 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x256xf16>, tensor<1024x4x512xi8>, tensor<1024x2x16xf16>, tensor<?x16384xf32>) -> tensor<?x16384xf32> loc("wide")
    return %z : tensor<?x16384xf32>
  }
}
