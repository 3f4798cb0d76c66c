// RUN: quant-opt %s --qlm-narrow-activations | FileCheck %s --check-prefixes=CHECK,F16
// RUN: quant-opt %s --qlm-narrow-activations=type=bf16 | FileCheck %s --check-prefixes=CHECK,BF16
// RUN: quant-opt %s --qlm-narrow-activations=type=f32 | FileCheck %s --check-prefix=F32

// What kernels hand to each other is rounded; the residual stream (%x, %o) and
// the logits aren't.

// CHECK-LABEL: func.func @step
// F32-NOT: x{{b?}}f16
func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>, %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache: tensor<4x2x1x128xf32>) -> tensor<?x32xf32> {
  %table = arith.constant dense<0.5> : tensor<32x16xf32>
  %w = arith.constant dense<0.5> : tensor<16xf32>
  %rope = arith.constant dense<0.5> : tensor<64x4x2xf32>
  %pqkv = arith.constant dense<0.5> : tensor<2x16x16xf32>
  %po = arith.constant dense<0.5> : tensor<1x16x16xf32>
  %pgu = arith.constant dense<0.5> : tensor<2x16x16xf32>
  %head = arith.constant dense<0.5> : tensor<2x16x16xf32>
  // CHECK: qlm.embedding {{.*}} -> tensor<?x16xf32>
  %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<32x16xf32> -> tensor<?x16xf32>
  // F16: qlm.rms_norm {{.*}} : tensor<?x16xf32>, tensor<16xf32> -> tensor<?x16xf16>
  // BF16: qlm.rms_norm {{.*}} : tensor<?x16xf32>, tensor<16xf32> -> tensor<?x16xbf16>
  %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
  // F16: qlm.packed_linear {{.*}} (tensor<?x16xf16>, tensor<2x16x16xf32>) -> tensor<?x32xf16>
  %qkv = qlm.packed_linear %n, %pqkv {inFeatures = 16, outFeatures = 32, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<2x16x16xf32>) -> tensor<?x32xf32>
  // F16: qlm.rope_append {{.*}} (tensor<?x32xf16>, {{.*}}) -> (tensor<?x16xf16>, tensor<4x2x1x128xf32>)
  %q, %c = qlm.rope_append %qkv, %rope, %cache at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 16 : (tensor<?x32xf32>, tensor<64x4x2xf32>, tensor<4x2x1x128xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x16xf32>, tensor<4x2x1x128xf32>)
  // F16: qlm.paged_attention {{.*}} (tensor<?x16xf16>, {{.*}}) -> tensor<?x16xf16>
  %a = qlm.paged_attention %q, %c at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 16 scale 0.35 : (tensor<?x16xf32>, tensor<4x2x1x128xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x16xf32>
  // F16: qlm.packed_linear {{.*}} residual {{.*}} (tensor<?x16xf16>, tensor<1x16x16xf32>, tensor<?x16xf32>) -> tensor<?x16xf32>
  %o = qlm.packed_linear %a, %po residual %x {inFeatures = 16, outFeatures = 16, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<1x16x16xf32>, tensor<?x16xf32>) -> tensor<?x16xf32>
  // F16: qlm.rms_norm {{.*}} -> tensor<?x16xf16>
  %m = qlm.rms_norm %o, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
  // F16: qlm.packed_linear {{.*}} -> tensor<?x32xf16>
  %gu = qlm.packed_linear %m, %pgu {inFeatures = 16, outFeatures = 32, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<2x16x16xf32>) -> tensor<?x32xf32>
  // F16: qlm.swiglu {{.*}} : tensor<?x32xf16> -> tensor<?x16xf16>
  %g = qlm.swiglu %gu : tensor<?x32xf32> -> tensor<?x16xf32>
  // F16: qlm.packed_linear {{.*}} residual
  // F16-SAME: -> tensor<?x16xf32>
  %d = qlm.packed_linear %g, %po residual %o {inFeatures = 16, outFeatures = 16, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<1x16x16xf32>, tensor<?x16xf32>) -> tensor<?x16xf32>
  // CHECK: qlm.select_rows {{.*}} -> tensor<?x16xf32>
  %s = qlm.select_rows %d, %rows : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x16xf32>
  // F16: qlm.rms_norm {{.*}} -> tensor<?x16xf16>
  %f = qlm.rms_norm %s, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
  // F16: qlm.packed_linear {{.*}} (tensor<?x16xf16>, tensor<2x16x16xf32>) -> tensor<?x32xf32>
  %y = qlm.packed_linear %f, %head {inFeatures = 16, outFeatures = 32, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<2x16x16xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}
