// bf16 activations take AMX at any number of rows where 16 columns or more are
// whole steps, and vectors elsewhere: pairs of bf16 where there is an
// instruction for them.

// RUN: quant-opt %s --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=sapphirerapids" | FileCheck %s
// RUN: quant-opt %s --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=icelake-server" | FileCheck %s --check-prefix=VECTORS
// RUN: quant-opt %s --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=sapphirerapids" --qlm-lower-kernels-to-llvm | FileCheck %s --check-prefix=LLVM

module attributes {qlm.plan = {max_step_tokens = 33 : i64, max_logit_rows = 33 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x64xf32>
    %v = arith.constant dense<0.5> : tensor<2x32x32xbf16>
    %w = arith.constant dense<0.5> : tensor<1x9x32xbf16>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x64xf32> -> tensor<?x64xf32>
    %h = qlm.convert %x : tensor<?x64xf32> to tensor<?x64xbf16>
    %y = qlm.packed_linear %h, %v {inFeatures = 64 : i64, outFeatures = 18 : i64, layout = #qlm.layout<bf16x16x2>}
        : (tensor<?x64xbf16>, tensor<2x32x32xbf16>) -> tensor<?x18xf32>
    %g = qlm.convert %y : tensor<?x18xf32> to tensor<?x18xbf16>
    %z = qlm.packed_linear %g, %w {inFeatures = 18 : i64, outFeatures = 16 : i64, layout = #qlm.layout<bf16x16x2>}
        : (tensor<?x18xbf16>, tensor<1x9x32xbf16>) -> tensor<?x16xf32>
    return %z : tensor<?x16xf32>
  }
}

// CHECK: func.func @convert(
// CHECK: func.func @packed_linear(
// CHECK-NOT: math.fma
// CHECK: call_intrinsic "llvm.x86.tdpbf16ps.internal"
// CHECK-NOT: math.fma
// CHECK: func.func @packed_linear_1(
// CHECK-NOT: llvm.x86.t
// CHECK: call_intrinsic "llvm.x86.avx512bf16.dpbf16ps.512"

// VECTORS: func.func @packed_linear(
// VECTORS-NOT: llvm.x86.t
// VECTORS: math.fma

// LLVM: llvm.func @packed_linear(
// LLVM: llvm.call_intrinsic "llvm.x86.tdpbf16ps.internal"({{.*}}) : (i16, i16, i16, !llvm.x86_amx, !llvm.x86_amx, !llvm.x86_amx) -> !llvm.x86_amx
// LLVM-NOT: unrealized
