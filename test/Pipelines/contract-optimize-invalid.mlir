// RUN: quant-opt %s --split-input-file --verify-diagnostics --qlm-verify-contract=after=optimize

// One module for each sentence of the contract.

// qlm.stage names the stage.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after optimize: qlm.stage must name the stage, got import}}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
}

// -----

// What holds after Import still holds.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after optimize: there must be a function @forward of one block}}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
}

// -----

// Attention is one operation.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @q : tensor<8x8xf32> from "m.safetensors" key "q"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %w = qlm.load @q : tensor<8x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    // expected-error@+2 {{contract after optimize: attention must be one operation, got qlm.split_heads}}
    // expected-note@+1 {{qlm-fuse-attention should have made it so}}
    %h = qlm.split_heads %x repeat 1 : tensor<?x8xf32> -> tensor<2x?x4xf32>
    %f = arith.constant dense<1.0> : tensor<2xf32>
    %wqkv = tensor.concat dim(0) %w, %w, %w : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
    %qkv = qlm.linear %x, %wqkv : tensor<?x8xf32>, tensor<24x8xf32> -> tensor<?x24xf32>
    %q, %k, %v = qlm.split %qkv : tensor<?x24xf32> -> tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %kr = qlm.rope %k, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %a = qlm.attention %qr, %kr, %v heads 2 kv_heads 2 scale 0.5 causal : tensor<?x8xf32>, tensor<?x8xf32>
    %logits = qlm.linear %a, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}

// -----

// A gated MLP is one operation.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @q : tensor<8x8xf32> from "m.safetensors" key "q"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %w = qlm.load @q : tensor<8x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    // expected-error@+2 {{contract after optimize: a gated MLP must be one operation, got qlm.silu}}
    // expected-note@+1 {{qlm-fuse-swiglu should have made it so}}
    %s = qlm.silu %x : tensor<?x8xf32>
    %f = arith.constant dense<1.0> : tensor<2xf32>
    %wqkv = tensor.concat dim(0) %w, %w, %w : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
    %qkv = qlm.linear %x, %wqkv : tensor<?x8xf32>, tensor<24x8xf32> -> tensor<?x24xf32>
    %q, %k, %v = qlm.split %qkv : tensor<?x24xf32> -> tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %kr = qlm.rope %k, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %a = qlm.attention %qr, %kr, %v heads 2 kv_heads 2 scale 0.5 causal : tensor<?x8xf32>, tensor<?x8xf32>
    %logits = qlm.linear %a, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}

// -----

// Residuals are added by linears.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @q : tensor<8x8xf32> from "m.safetensors" key "q"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %w = qlm.load @q : tensor<8x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    // expected-error@+2 {{contract after optimize: residuals must be added by linears, got qlm.add}}
    // expected-note@+1 {{qlm-fuse-residual should have made it so}}
    %s = qlm.add %x, %x : tensor<?x8xf32>
    %f = arith.constant dense<1.0> : tensor<2xf32>
    %wqkv = tensor.concat dim(0) %w, %w, %w : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
    %qkv = qlm.linear %x, %wqkv : tensor<?x8xf32>, tensor<24x8xf32> -> tensor<?x24xf32>
    %q, %k, %v = qlm.split %qkv : tensor<?x24xf32> -> tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %kr = qlm.rope %k, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %a = qlm.attention %qr, %kr, %v heads 2 kv_heads 2 scale 0.5 causal : tensor<?x8xf32>, tensor<?x8xf32>
    %logits = qlm.linear %a, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}

// -----

// Queries and keys are rotated.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @q : tensor<8x8xf32> from "m.safetensors" key "q"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %w = qlm.load @q : tensor<8x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %f = arith.constant dense<1.0> : tensor<2xf32>
    %wqkv = tensor.concat dim(0) %w, %w, %w : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
    %qkv = qlm.linear %x, %wqkv : tensor<?x8xf32>, tensor<24x8xf32> -> tensor<?x24xf32>
    %q, %k, %v = qlm.split %qkv : tensor<?x24xf32> -> tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    // expected-error@+2 {{contract after optimize: queries and keys must be made by qlm.rope}}
    // expected-note@+1 {{import should have made it so}}
    %a = qlm.attention %q, %k, %v heads 2 kv_heads 2 scale 0.5 causal : tensor<?x8xf32>, tensor<?x8xf32>
    %logits = qlm.linear %a, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}

// -----

// Queries, keys and values are split from one linear.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @q : tensor<8x8xf32> from "m.safetensors" key "q"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %w = qlm.load @q : tensor<8x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %f = arith.constant dense<1.0> : tensor<2xf32>
    %wqkv = tensor.concat dim(0) %w, %w, %w : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
    %qkv = qlm.linear %x, %wqkv : tensor<?x8xf32>, tensor<24x8xf32> -> tensor<?x24xf32>
    %q = qlm.linear %x, %w : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
    %k = qlm.linear %x, %w : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
    %v = qlm.linear %x, %w : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %kr = qlm.rope %k, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    // expected-error@+2 {{contract after optimize: queries, keys and values must be split from one linear}}
    // expected-note@+1 {{qlm-merge-linears should have made it so}}
    %a = qlm.attention %qr, %kr, %v heads 2 kv_heads 2 scale 0.5 causal : tensor<?x8xf32>, tensor<?x8xf32>
    %logits = qlm.linear %a, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}

// -----

// Gate and up projection are one linear.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @q : tensor<8x8xf32> from "m.safetensors" key "q"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %w = qlm.load @q : tensor<8x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %f = arith.constant dense<1.0> : tensor<2xf32>
    %wqkv = tensor.concat dim(0) %w, %w, %w : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
    %qkv = qlm.linear %x, %wqkv : tensor<?x8xf32>, tensor<24x8xf32> -> tensor<?x24xf32>
    %q, %k, %v = qlm.split %qkv : tensor<?x24xf32> -> tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %kr = qlm.rope %k, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %a = qlm.attention %qr, %kr, %v heads 2 kv_heads 2 scale 0.5 causal : tensor<?x8xf32>, tensor<?x8xf32>
    // expected-error@+2 {{contract after optimize: gate and up projection must be one linear}}
    // expected-note@+1 {{qlm-merge-linears should have made it so}}
    %s = qlm.swiglu %x : tensor<?x8xf32> -> tensor<?x4xf32>
    %logits = qlm.linear %a, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}

// -----

// Each layer has one attention.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after optimize: each layer must have an attention, got 0 in 1 layers}}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @q : tensor<8x8xf32> from "m.safetensors" key "q"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %w = qlm.load @q : tensor<8x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %logits = qlm.linear %x, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}

// -----

// Nothing computes shapes.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @q : tensor<8x8xf32> from "m.safetensors" key "q"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %w = qlm.load @q : tensor<8x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %i = arith.constant 0 : index
    // expected-error@+1 {{contract after optimize: nothing may compute shapes, got tensor.dim}}
    %d = tensor.dim %x, %i : tensor<?x8xf32>
    %f = arith.constant dense<1.0> : tensor<2xf32>
    %wqkv = tensor.concat dim(0) %w, %w, %w : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
    %qkv = qlm.linear %x, %wqkv : tensor<?x8xf32>, tensor<24x8xf32> -> tensor<?x24xf32>
    %q, %k, %v = qlm.split %qkv : tensor<?x24xf32> -> tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
    %qr = qlm.rope %q, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %kr = qlm.rope %k, %positions, %f : tensor<?x8xf32>, tensor<?xi32>, tensor<2xf32>
    %a = qlm.attention %qr, %kr, %v heads 2 kv_heads 2 scale 0.5 causal : tensor<?x8xf32>, tensor<?x8xf32>
    %logits = qlm.linear %a, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}
