// RUN: quant-opt %s --qlm-fuse-launches --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" -o %t.mlir
// RUN: FileCheck %s < %t.mlir
// RUN: FileCheck --check-prefix=KERNELS %s < %t.mlir
// RUN: quant-opt %s --qlm-fuse-launches --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="chips=sm_80 ptx=false" | FileCheck --check-prefix=WHOLE %s
// RUN: quant-opt %s --qlm-fuse-launches --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="batch-invariant ptx=false" | FileCheck --check-prefix=WHOLE %s

// Where the linears do it, the others have no blocks: the norm of one row, gate
// and append of up to 8.

// CHECK: qlm.launch "norm" {{.*}}[#qlm.variant<kernel = @kernels_sm_90a::@rms_norm, maxRows = 1, grid = <0 * tokens, block 1>
// CHECK-SAME: #qlm.variant<kernel = @kernels_sm_90a::@rms_norm, maxRows = 512, grid = <1 * tokens, block 1>
// The linear's own buffers, x and the norm's weight, the append's table, cache,
// positions, sequences, block tables, queries.
// CHECK: qlm.launch "qkv" {{.*}}@packed_linear_gemv1, maxRows = 1, {{.*}}@packed_linear_gemv8, maxRows = 8, {{.*}}@packed_linear_gemm
// CHECK-SAME: args [#qlm.arg<arena, {{[0-9]+}}>, #qlm.arg<weight>, #qlm.arg<weight, 1>, #qlm.arg<arena, {{[0-9]+}}>, #qlm.arg<arena>, #qlm.arg<weight, 2>, #qlm.arg<weight, 3>, #qlm.arg<cache>, #qlm.arg<step, 1>, #qlm.arg<step, 2>, #qlm.arg<step, 5>, #qlm.arg<arena, {{[0-9]+}}>]
// CHECK: qlm.launch "append" {{.*}}maxRows = 8, grid = <0 * tokens, block 1>
// CHECK: qlm.launch "gate_up" {{.*}}gemv1
// CHECK: qlm.launch "gate" {{.*}}maxRows = 8, grid = <0 * tokens, block 1>
// CHECK: qlm.launch "down"

// No chip that has no GEMV, and no GEMV where sums must have one order: each
// operation by itself.
// WHOLE: qlm.launch
// WHOLE-NOT: grid = <0 *

// The angles are there before the kernel waits for x, which it normalizes; the
// append's rows leave by themselves.
// KERNELS-LABEL: llvm.func @packed_linear_gemv1(
// KERNELS: griddepcontrol launch_dependents
// KERNELS: cp.async.bulk.shared::cluster.global
// KERNELS: llvm.load {{.*}} : !llvm.ptr<1> -> vector<2xf32>
// KERNELS: griddepcontrol wait
// KERNELS: rsqrt.approx.ftz.f32
// KERNELS: mma.sync.aligned.m16n8k16
// KERNELS: llvm.store {{.*}} : f16, !llvm.ptr<1>
module attributes {qlm.plan = {max_step_tokens = 512 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache: tensor<4x2x1x4096xf16>) -> tensor<?x256xf32> {
    %table = arith.constant dense<0.5> : tensor<4x256xf32>
    %gain = arith.constant dense<0.5> : tensor<256xf32>
    %rope = arith.constant dense<0.5> : tensor<512x32x2xf32>
    %w = arith.constant dense<3> : tensor<16x4x512xi8>
    %s = arith.constant dense<0.5> : tensor<16x2x16xf16>
    %wd = arith.constant dense<3> : tensor<16x2x512xi8>
    %sd = arith.constant dense<0.5> : tensor<16x1x16xf16>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x256xf32> -> tensor<?x256xf32>
    %n = qlm.rms_norm %x, %gain {epsilon = 0.5 : f32} : tensor<?x256xf32>, tensor<256xf32> -> tensor<?x256xf16> loc("norm")
    %qkv = qlm.packed_linear %n, %w scales %s {inFeatures = 256 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x256xf16>, tensor<16x4x512xi8>, tensor<16x2x16xf16>) -> tensor<?x256xf16> loc("qkv")
    %q, %c = qlm.rope_append %qkv, %rope, %cache at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 64 keys_by_token : (tensor<?x256xf16>, tensor<512x32x2xf32>, tensor<4x2x1x4096xf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x128xf16>, tensor<4x2x1x4096xf16>) loc("append")
    %a = qlm.paged_attention %q, %c at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 64 keys_by_token scale 0.35 : (tensor<?x128xf16>, tensor<4x2x1x4096xf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x128xf16>
    %o = qlm.packed_linear %a, %wd scales %sd residual %x {inFeatures = 128 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x128xf16>, tensor<16x2x512xi8>, tensor<16x1x16xf16>, tensor<?x256xf32>) -> tensor<?x256xf32> loc("o")
    %m = qlm.rms_norm %o, %gain {epsilon = 0.5 : f32} : tensor<?x256xf32>, tensor<256xf32> -> tensor<?x256xf16>
    %gu = qlm.packed_linear %m, %w scales %s {inFeatures = 256 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x256xf16>, tensor<16x4x512xi8>, tensor<16x2x16xf16>) -> tensor<?x256xf16> loc("gate_up")
    %g = qlm.swiglu %gu : tensor<?x256xf16> -> tensor<?x128xf16> loc("gate")
    %y = qlm.packed_linear %g, %wd scales %sd {inFeatures = 128 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x128xf16>, tensor<16x2x512xi8>, tensor<16x1x16xf16>) -> tensor<?x256xf32> loc("down")
    return %y : tensor<?x256xf32>
  }
}
