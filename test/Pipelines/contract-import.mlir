// RUN: quant-opt %s --split-input-file --qlm-verify-contract=after=import | FileCheck %s

// CHECK-LABEL: func.func @forward

// The smallest module that holds.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x4xf32> from "m.safetensors" key "e"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x4xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4xf32> -> tensor<?x4xf32>
    return %x : tensor<?x4xf32>
  }
}
