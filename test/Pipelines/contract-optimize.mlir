// RUN: quant-opt %s --split-input-file --qlm-verify-contract=after=optimize | FileCheck %s

// CHECK-LABEL: func.func @forward
// CHECK-LABEL: func.func @forward

// A model without a gated MLP, and one with.
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
    %wgu = tensor.concat dim(0) %w, %w : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32>
    %gu = qlm.linear %a, %wgu : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
    %s = qlm.swiglu %gu : tensor<?x16xf32> -> tensor<?x8xf32>
    %logits = qlm.linear %s, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %logits : tensor<?x4xf32>
  }
}
