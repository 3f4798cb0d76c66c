// RUN: quant-opt %s -split-input-file -verify-diagnostics --qlm-plan-kv-cache

// expected-error @+1 {{module has no attribute qlm.model with a context_length}}
module {
}

// -----

// expected-error @+1 {{module has no function @forward}}
module attributes {qlm.model = {context_length = 64 : i64}} {
}

// -----

module attributes {qlm.model = {context_length = 64 : i64}} {
  // expected-error @+1 {{must take tokens and positions, both 'tensor<?xi32>', and return the logits}}
  func.func @forward(%tokens: tensor<?xi32>) -> tensor<?xi32> {
    return %tokens : tensor<?xi32>
  }
}

// -----

module attributes {qlm.model = {context_length = 64 : i64}} {
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %q = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @+1 {{must be causal to use a cache}}
    %a = qlm.attention %q, %q, %q heads 2 kv_heads 2 scale 2.500000e-01 : tensor<?x16xf32>, tensor<?x16xf32>
    return %a : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.model = {context_length = 64 : i64}} {
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %q = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @+1 {{must have queries and keys made by qlm.rope}}
    %a = qlm.attention %q, %q, %q heads 2 kv_heads 2 scale 2.500000e-01 causal : tensor<?x16xf32>, tensor<?x16xf32>
    return %a : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.model = {context_length = 64 : i64}} {
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x16xf32> {
    %f = arith.constant dense<0.5> : tensor<4xf32>
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %q = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    %r = qlm.rope %q, %positions, %f : tensor<?x16xf32>, tensor<?xi32>, tensor<4xf32>
    // expected-error @+2 {{must have queries, keys and values split from one linear}}
    // expected-note @+1 {{qlm-merge-linears joins the projections}}
    %a = qlm.attention %r, %r, %q heads 2 kv_heads 2 scale 2.500000e-01 causal : tensor<?x16xf32>, tensor<?x16xf32>
    return %a : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.model = {context_length = 64 : i64}} {
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x16xf32> {
    %f = arith.constant dense<0.5> : tensor<4xf32>
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %q = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @+1 {{must rotate by the function's positions}}
    %r = qlm.rope %q, %tokens, %f : tensor<?x16xf32>, tensor<?xi32>, tensor<4xf32>
    %a = qlm.attention %r, %r, %q heads 2 kv_heads 2 scale 2.500000e-01 causal : tensor<?x16xf32>, tensor<?x16xf32>
    return %a : tensor<?x16xf32>
  }
}

// -----

module attributes {qlm.model = {context_length = 64 : i64}} {
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x8xf32> {
    %f = arith.constant dense<0.5> : tensor<4xf32>
    %g = arith.constant dense<0.25> : tensor<4xf32>
    %table = arith.constant dense<0.5> : tensor<4x24xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x24xf32> -> tensor<?x24xf32>
    %q, %k, %v = qlm.split %x : tensor<?x24xf32> -> tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<4xf32>
    // expected-error @+1 {{must have the constant frequencies of the queries}}
    %kr = qlm.rope %k, %positions, %g : tensor<?x8xf32>, tensor<?xi32>, tensor<4xf32>
    %a = qlm.attention %qr, %kr, %v heads 1 kv_heads 1 scale 2.500000e-01 causal : tensor<?x8xf32>, tensor<?x8xf32>
    return %a : tensor<?x8xf32>
  }
}

// -----

module attributes {qlm.model = {context_length = 64 : i64}} {
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x16xf32> {
    %w = arith.constant dense<0.5> : tensor<16xf32>
    %table = arith.constant dense<0.5> : tensor<4x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32>
    // expected-error @+1 {{feeds the logits and qlm.add, which needs every row}}
    %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32>
    %y = qlm.linear %n, %table : tensor<?x16xf32>, tensor<4x16xf32> -> tensor<?x4xf32>
    %z = qlm.add %n, %x : tensor<?x16xf32>
    %l = qlm.linear %z, %table residual %y : tensor<?x4xf32> : tensor<?x16xf32>, tensor<4x16xf32> -> tensor<?x4xf32>
    %head = arith.constant dense<0.5> : tensor<16x4xf32>
    %m = qlm.linear %l, %head : tensor<?x4xf32>, tensor<16x4xf32> -> tensor<?x16xf32>
    return %m : tensor<?x16xf32>
  }
}
