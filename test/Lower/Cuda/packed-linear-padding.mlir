// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" | FileCheck %s

// 96 columns in groups of 32 end in half a line of padding, which would be a
// fourth group. It takes the third one's scale: behind that may lie a NaN, and
// zero times it would be a NaN too.

// CHECK-LABEL: llvm.func @packed_linear_gemv1(
// CHECK: griddepcontrol wait
// CHECK: %[[BEFORE:.*]] = arith.muli %{{.*}}, %c32_i32
// CHECK-NEXT: %[[LAST:.*]] = arith.subi %c2_i32{{.*}}, %[[BEFORE]] : i32
// CHECK: %[[GROUP:.*]] = arith.minsi %{{.*}}, %[[LAST]] : i32
// CHECK: arith.muli %[[GROUP]], %c16_i32
// CHECK: llvm.load {{.*}} : !llvm.ptr<3> -> f16





module attributes {qlm.plan = {max_step_tokens = 512 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x256xf32> {
    %table = arith.constant dense<0.5> : tensor<4x96xf32>
    %gain = arith.constant dense<0.5> : tensor<96xf32>
    %w = arith.constant dense<3> : tensor<16x2x512xi8>
    %s = arith.constant dense<0.5> : tensor<16x3x16xf16>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x96xf32> -> tensor<?x96xf32>
    %n = qlm.rms_norm %x, %gain {epsilon = 0.5 : f32} : tensor<?x96xf32>, tensor<96xf32> -> tensor<?x96xf16>
    %y = qlm.packed_linear %n, %w scales %s {inFeatures = 96 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag4>, scheme = #qlm.scheme<i4, group, 32, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x96xf16>, tensor<16x2x512xi8>, tensor<16x3x16xf16>) -> tensor<?x256xf32> loc("linear")
    return %y : tensor<?x256xf32>
  }
}
