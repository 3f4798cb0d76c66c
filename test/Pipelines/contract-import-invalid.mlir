// RUN: quant-opt %s --split-input-file --verify-diagnostics --qlm-verify-contract=after=import

// One module for each sentence of the contract.

// qlm.stage names the stage.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after import: qlm.stage must name the stage, got none}}
module attributes {qlm.source = "/m", qlm.model = #model} {
}

// -----

// The module has qlm.model.
// expected-error@+1 {{contract after import: the module must have qlm.model}}
module attributes {qlm.stage = "import", qlm.source = "/m"} {
}

// -----

// The module has qlm.source.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after import: the module must have qlm.source}}
module attributes {qlm.stage = "import", qlm.model = #model} {
}

// -----

// qlm.model has each integer.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after import: qlm.model must have the integer head_dim}}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
}

// -----

// There is a function @forward.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after import: there must be a function @forward of one block}}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
}

// -----

// @forward takes tokens and positions and returns the logits.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x4xf32> from "m.safetensors" key "e"
  // expected-error@+1 {{contract after import: @forward must have the type '(tensor<?xi32>, tensor<?xi32>) -> tensor<?x4xf32>', got '(tensor<?xi32>) -> tensor<?x4xf32>'}}
  func.func @forward(%tokens: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x4xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4xf32> -> tensor<?x4xf32>
    return %x : tensor<?x4xf32>
  }
}

// -----

// Operations are of qlm, func and upstream's tensor, arith, math, linalg.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x4xf32> from "m.safetensors" key "e"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x4xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4xf32> -> tensor<?x4xf32>
    %i = arith.constant 0 : index
    // expected-error@+1 {{contract after import: operations must be of qlm, func, tensor, arith, math or linalg, got memref.alloc}}
    %m = memref.alloc() : memref<4xf32>
    return %x : tensor<?x4xf32>
  }
}

// -----

// Ranks are known.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x4xf32> from "m.safetensors" key "e"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x4xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4xf32> -> tensor<?x4xf32>
    // expected-error@+1 {{contract after import: ranks must be known, got 'tensor<*xf32>'}}
    %u = tensor.cast %x : tensor<?x4xf32> to tensor<*xf32>
    return %x : tensor<?x4xf32>
  }
}

// -----

// Weights are parameters outside the IR.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x4xf32> from "m.safetensors" key "e"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x4xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4xf32> -> tensor<?x4xf32>
    // expected-error@+1 {{contract after import: weights must be parameters outside the IR, got a constant of type 'tensor<64x65xf32>'}}
    %w = arith.constant dense<1.0> : tensor<64x65xf32>
    return %x : tensor<?x4xf32>
  }
}

// -----

// Nothing is planned.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x4xf32> from "m.safetensors" key "e"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x4xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4xf32> -> tensor<?x4xf32>
    // expected-error@+1 {{contract after import: nothing may be planned yet, got qlm.select_rows}}
    %y = qlm.select_rows %x, %tokens : tensor<?x4xf32>, tensor<?xi32> -> tensor<?x4xf32>
    return %x : tensor<?x4xf32>
  }
}

// -----

// Nothing is quantized.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x4xf32> from "m.safetensors" key "e"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x4xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4xf32> -> tensor<?x4xf32>
    // expected-error@+1 {{contract after import: nothing may be quantized yet, got qlm.rtn}}
    %c, %s = qlm.rtn %table {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<4x4xf32> to tensor<4x4xi8>, tensor<4xf32>
    return %x : tensor<?x4xf32>
  }
}

// -----

// Nothing is fused for a target.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x4xf32> from "m.safetensors" key "e"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x4xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x4xf32> -> tensor<?x4xf32>
    // expected-error@+1 {{contract after import: nothing may be planned yet, got qlm.swiglu_quantize}}
    %c, %s = qlm.swiglu_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<?x4xf32> -> tensor<?x2xi8>, tensor<?xf32>
    return %x : tensor<?x4xf32>
  }
}
