// RUN: quant-opt %s -split-input-file -verify-diagnostics --qlm-emit-cpu-kernels="target-cpu=x86-64-v3"

// expected-error @+1 {{module has no function @step; run qlm-plan-kv-cache first}}
module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
}

// -----

// expected-error @+1 {{module has no attribute qlm.plan; run qlm-plan-kv-cache first}}
module {
  func.func @step() {
    return
  }
}

// -----

module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%x: tensor<?x16xf32>) -> tensor<?x16xf32> {
    // expected-error @+2 {{has no kernel for this target}}
    // expected-note @+1 {{run the optimize and quantize pipelines before lowering}}
    %y = qlm.silu %x : tensor<?x16xf32>
    return %y : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %x: tensor<?x16xf32>) -> tensor<?x8xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    // expected-error @+1 {{has no offsets in the arena; run qlm-plan-memory first}}
    %e = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    %y = qlm.swiglu %e : tensor<?x16xf32> -> tensor<?x8xf32>
    return %y : tensor<?x8xf32>
  }
}

// -----

module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%x: tensor<?x16xf32>) -> tensor<?x16xf32> {
    %w = arith.constant dense<0.5> : tensor<16x16xf32>
    %v = arith.constant dense<0.25> : tensor<16x16xf32>
    %p = qlm.pack %w {layout = #qlm.layout<f32x16>, name = "same"} : tensor<16x16xf32> to tensor<1x16x16xf32>
    // expected-error @+1 {{shares its name with another tensor: "same"}}
    %q = qlm.pack %v {layout = #qlm.layout<f32x16>, name = "same"} : tensor<16x16xf32> to tensor<1x16x16xf32>
    %y = qlm.packed_linear %x, %p {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>, qlm.offsets = [0]} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
    %z = qlm.packed_linear %y, %q {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
    return %z : tensor<?x16xf32>
  }
}
