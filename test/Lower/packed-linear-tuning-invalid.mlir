// RUN: quant-opt %s --split-input-file --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=x86-64-v3" -verify-diagnostics

module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 4 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %w = arith.constant dense<0.5> : tensor<1x16x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @below {{'qlm.packed_linear' op qlm.tuning must be a dictionary, got 3 : i64}}
    %y = qlm.packed_linear %x, %w {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>, qlm.tuning = 3 : i64} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
    return %y : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 4 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %w = arith.constant dense<0.5> : tensor<1x16x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @below {{'qlm.packed_linear' op qlm.tuning has no choice "tile_rows"}}
    %y = qlm.packed_linear %x, %w {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>, qlm.tuning = {tile_rows = 4}} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
    return %y : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 4 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %w = arith.constant dense<0.5> : tensor<1x16x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @below {{'qlm.packed_linear' op qlm.tuning's tile_blocks must be an i64, a power of two from 1 to 64, got 6 : i64}}
    %y = qlm.packed_linear %x, %w {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>, qlm.tuning = {tile_blocks = 6}} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
    return %y : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 4 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %w = arith.constant dense<0.5> : tensor<1x16x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @below {{'qlm.packed_linear' op qlm.tuning's prefetch_bytes must be an i64, a multiple of 64 from 64 to 65536, got 100 : i64}}
    %y = qlm.packed_linear %x, %w {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>, qlm.tuning = {prefetch_bytes = 100}} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
    return %y : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 4 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %w = arith.constant dense<0.5> : tensor<1x16x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @below {{'qlm.packed_linear' op qlm.tuning's chunk_columns must be an i64, a multiple of 64 from 64 to 1048576, got 6.400000e+01 : f64}}
    %y = qlm.packed_linear %x, %w {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>, qlm.tuning = {chunk_columns = 64.0}} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
    return %y : tensor<?x16xf32>
  }
}

// -----


module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 4 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %w = arith.constant dense<0.5> : tensor<1x16x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @below {{'qlm.packed_linear' op qlm.tuning's result_stores must be an i64, a multiple of 1 from 1 to 2, got 3 : i64}}
    %y = qlm.packed_linear %x, %w {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>, qlm.tuning = {result_stores = 3}} : (tensor<?x16xf32>, tensor<1x16x16xf32>) -> tensor<?x16xf32>
    return %y : tensor<?x16xf32>
  }
}
