// RUN: quant-opt %s --qlm-fuse-launches --split-input-file | FileCheck %s
// RUN: quant-opt %s --qlm-fuse-launches --qlm-plan-memory=alignment=256 --split-input-file | FileCheck %s --check-prefix=PLAN

// A layer: norm, linear, append are group 0; norm, linear, gate group 1; the
// last norm and the head 2. Linears with a residual are alone.

// CHECK-LABEL: func.func @step
module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>, %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache: tensor<4x2x1x128xf32>) -> tensor<?x32xf32> {
  %table = arith.constant dense<0.5> : tensor<32x16xf32>
  %w = arith.constant dense<0.5> : tensor<16xf32>
  %rope = arith.constant dense<0.5> : tensor<64x4x2xf32>
  %pqkv = arith.constant dense<0.5> : tensor<2x16x16xf32>
  %po = arith.constant dense<0.5> : tensor<1x16x16xf32>
  %pgu = arith.constant dense<0.5> : tensor<2x16x16xf32>
  %head = arith.constant dense<0.5> : tensor<2x16x16xf32>
  // CHECK: qlm.embedding
  // CHECK-NOT: qlm.group
  // PLAN: qlm.embedding {{.*}}qlm.offsets = [0]
  %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<32x16xf32> -> tensor<?x16xf32>
  // CHECK: qlm.rms_norm {{.*}}qlm.group = 0
  // CHECK: qlm.packed_linear {{.*}}qlm.group = 0
  // CHECK: qlm.rope_append {{.*}}qlm.group = 0
  // PLAN: qlm.rms_norm {{.*}}qlm.offsets = [512]
  // PLAN: qlm.packed_linear {{.*}}qlm.offsets = [1024]
  // One after the other %q could stand where %n was.
  // PLAN: qlm.rope_append {{.*}}qlm.offsets = [1792, -1]
  %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
  %qkv = qlm.packed_linear %n, %pqkv {inFeatures = 16, outFeatures = 32, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<2x16x16xf32>) -> tensor<?x32xf32>
  %q, %c = qlm.rope_append %qkv, %rope, %cache at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 16 : (tensor<?x32xf32>, tensor<64x4x2xf32>, tensor<4x2x1x128xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x16xf32>, tensor<4x2x1x128xf32>)
  // CHECK: qlm.paged_attention
  // CHECK-NOT: qlm.group
  // CHECK: qlm.packed_linear {{.*}} residual
  // CHECK-NOT: qlm.group
  %a = qlm.paged_attention %q, %c at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 16 scale 0.35 : (tensor<?x16xf32>, tensor<4x2x1x128xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x16xf32>
  %o = qlm.packed_linear %a, %po residual %x {inFeatures = 16, outFeatures = 16, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<1x16x16xf32>, tensor<?x16xf32>) -> tensor<?x16xf32>
  // CHECK: qlm.rms_norm {{.*}}qlm.group = 1
  // CHECK: qlm.packed_linear {{.*}}qlm.group = 1
  // CHECK: qlm.swiglu {{.*}}qlm.group = 1
  %m = qlm.rms_norm %o, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
  %gu = qlm.packed_linear %m, %pgu {inFeatures = 16, outFeatures = 32, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<2x16x16xf32>) -> tensor<?x32xf32>
  %g = qlm.swiglu %gu : tensor<?x32xf32> -> tensor<?x16xf32>
  // CHECK: qlm.packed_linear {{.*}} residual
  // CHECK-NOT: qlm.group
  // CHECK: qlm.select_rows
  // CHECK-NOT: qlm.group
  %d = qlm.packed_linear %g, %po residual %o {inFeatures = 16, outFeatures = 16, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<1x16x16xf32>, tensor<?x16xf32>) -> tensor<?x16xf32>
  %s = qlm.select_rows %d, %rows : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x16xf32>
  // CHECK: qlm.rms_norm {{.*}}qlm.group = 2
  // CHECK: qlm.packed_linear {{.*}}qlm.group = 2
  %f = qlm.rms_norm %s, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
  %y = qlm.packed_linear %f, %head {inFeatures = 16, outFeatures = 32, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<2x16x16xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}
}

// -----

// negative: the first norm is the residual too, the second one feeds no linear,
// and between the last two stands a gather.

// CHECK-LABEL: func.func @step
// CHECK-NOT: qlm.group
module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>, %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
  %table = arith.constant dense<0.5> : tensor<32x16xf32>
  %w = arith.constant dense<0.5> : tensor<16xf32>
  %p = arith.constant dense<0.5> : tensor<1x16x16xf32>
  %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<32x16xf32> -> tensor<?x16xf32>
  %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
  %y = qlm.packed_linear %n, %p residual %n {inFeatures = 16, outFeatures = 16, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<1x16x16xf32>, tensor<?x16xf32>) -> tensor<?x16xf32>
  %m = qlm.rms_norm %y, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
  %s = qlm.select_rows %m, %rows : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x16xf32>
  %z = qlm.packed_linear %s, %p {inFeatures = 16, outFeatures = 16, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
  return %z : tensor<?x16xf32>
}
}
