// RUN: quant-opt %s --split-input-file --verify-diagnostics --qlm-verify-contract=after=quantize

// One module for each sentence of the contract.

// qlm.stage names the stage.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after quantize: qlm.stage must name the stage, got optimize}}
module attributes {qlm.stage = "optimize", qlm.source = "/m", qlm.model = #model} {
}

// -----

// What holds after Import still holds.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
// expected-error@+1 {{contract after quantize: there must be a function @forward of one block}}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
}

// -----

// Every linear is packed.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @b : tensor<8xbf16> from "m.safetensors" key "b"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    // expected-error@+2 {{contract after quantize: every linear must be packed, got qlm.linear}}
    // expected-note@+1 {{qlm-pack-weights should have made it so}}
    %y = qlm.linear %x, %table : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
    return %y : tensor<?x4xf32>
  }
}

// -----

// Weights are made by qlm.pack.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @b : tensor<8xbf16> from "m.safetensors" key "b"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %raw = arith.constant dense<0.0> : tensor<1x8x16xf32>
    // expected-error@+2 {{contract after quantize: weights, scales, zero points and biases of linears must be made by qlm.pack}}
    // expected-note@+1 {{qlm-pack-weights should have made it so}}
    %y = qlm.packed_linear %x, %raw {inFeatures = 8 : i64, outFeatures = 4 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x8xf32>, tensor<1x8x16xf32>) -> tensor<?x4xf32>
    return %y : tensor<?x4xf32>
  }
}

// -----

// Int8 inputs are made by qlm.dynamic_quantize.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @b : tensor<8xbf16> from "m.safetensors" key "b"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %c, %s = qlm.rtn %table {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<4x8xf32> to tensor<4x8xi8>, tensor<4xf32>
    %pc = qlm.pack %c {layout = #qlm.layout<i8x16x4>, name = "h.weight"} : tensor<4x8xi8> to tensor<1x2x64xi8>
    %ps = qlm.pack %s {layout = #qlm.layout<scale16>, name = "h.scales"} : tensor<4xf32> to tensor<1x1x16xf32>
    %xc = arith.constant dense<0> : tensor<1x8xi8>
    %xs = arith.constant dense<0.0> : tensor<1xf32>
    %xcd = tensor.cast %xc : tensor<1x8xi8> to tensor<?x8xi8>
    %xsd = tensor.cast %xs : tensor<1xf32> to tensor<?xf32>
    // expected-error@+2 {{contract after quantize: int8 inputs must be made by qlm.dynamic_quantize}}
    // expected-note@+1 {{qlm-quantize-activations should have made it so}}
    %y = qlm.packed_linear %xcd input_scales %xsd, %pc scales %ps {inFeatures = 8 : i64, outFeatures = 4 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<?x8xi8>, tensor<?xf32>, tensor<1x2x64xi8>, tensor<1x1x16xf32>) -> tensor<?x4xf32>
    return %y : tensor<?x4xf32>
  }
}

// -----

// bf16 inputs are made by qlm.convert.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @b : tensor<4x8xbf16> from "m.safetensors" key "b"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %w = qlm.load @b : tensor<4x8xbf16>
    %p = qlm.pack %w {layout = #qlm.layout<bf16x16x2>, name = "h.weight"} : tensor<4x8xbf16> to tensor<1x4x32xbf16>
    %xc = arith.constant dense<0.0> : tensor<1x8xbf16>
    %xd = tensor.cast %xc : tensor<1x8xbf16> to tensor<?x8xbf16>
    // expected-error@+2 {{contract after quantize: bf16 inputs must be made by qlm.convert}}
    // expected-note@+1 {{qlm-quantize-activations should have made it so}}
    %y = qlm.packed_linear %xd, %p {inFeatures = 8 : i64, outFeatures = 4 : i64, layout = #qlm.layout<bf16x16x2>} : (tensor<?x8xbf16>, tensor<1x4x32xbf16>) -> tensor<?x4xf32>
    return %y : tensor<?x4xf32>
  }
}

// -----

// Scales are folded into linears.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @b : tensor<8xbf16> from "m.safetensors" key "b"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %c, %s = qlm.rtn %table {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<4x8xf32> to tensor<4x8xi8>, tensor<4xf32>
    // expected-error@+2 {{contract after quantize: scales must be folded into linears, got qlm.dequantize}}
    // expected-note@+1 {{qlm-fold-scales should have made it so}}
    %d = qlm.dequantize %c scales %s {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<4x8xi8>, tensor<4xf32> -> tensor<4x8xf32>
    %pc = qlm.pack %c {layout = #qlm.layout<i8x16x4>, name = "h.weight"} : tensor<4x8xi8> to tensor<1x2x64xi8>
    %ps = qlm.pack %s {layout = #qlm.layout<scale16>, name = "h.scales"} : tensor<4xf32> to tensor<1x1x16xf32>
    %y = qlm.packed_linear %x, %pc scales %ps {inFeatures = 8 : i64, outFeatures = 4 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<?x8xf32>, tensor<1x2x64xi8>, tensor<1x1x16xf32>) -> tensor<?x4xf32>
    return %y : tensor<?x4xf32>
  }
}

// -----

// Norm weights are f32.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @b : tensor<8xbf16> from "m.safetensors" key "b"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %b = qlm.load @b : tensor<8xbf16>
    // expected-error@+2 {{contract after quantize: norm weights must be f32}}
    // expected-note@+1 {{qlm-pack-weights should have made it so}}
    %n = qlm.rms_norm %x, %b {epsilon = 1.0e-5 : f32} : tensor<?x8xf32>, tensor<8xbf16>
    %c, %s = qlm.rtn %table {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<4x8xf32> to tensor<4x8xi8>, tensor<4xf32>
    %pc = qlm.pack %c {layout = #qlm.layout<i8x16x4>, name = "h.weight"} : tensor<4x8xi8> to tensor<1x2x64xi8>
    %ps = qlm.pack %s {layout = #qlm.layout<scale16>, name = "h.scales"} : tensor<4xf32> to tensor<1x1x16xf32>
    %y = qlm.packed_linear %x, %pc scales %ps {inFeatures = 8 : i64, outFeatures = 4 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<?x8xf32>, tensor<1x2x64xi8>, tensor<1x1x16xf32>) -> tensor<?x4xf32>
    return %y : tensor<?x4xf32>
  }
}

// -----

// Keys are distinct.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  qlm.parameter @b : tensor<8xbf16> from "m.safetensors" key "b"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x4xf32> {
    %table = qlm.load @e : tensor<4x8xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    %c, %s = qlm.rtn %table {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<4x8xf32> to tensor<4x8xi8>, tensor<4xf32>
    %pc = qlm.pack %c {layout = #qlm.layout<i8x16x4>, name = "h.weight"} : tensor<4x8xi8> to tensor<1x2x64xi8>
    %ps = qlm.pack %s {layout = #qlm.layout<scale16>, name = "h.scales"} : tensor<4xf32> to tensor<1x1x16xf32>
    // expected-error@+1 {{contract after quantize: keys must be distinct, got two of "h.weight"}}
    %p2 = qlm.pack %table {layout = #qlm.layout<f32x16>, name = "h.weight"} : tensor<4x8xf32> to tensor<1x8x16xf32>
    %y = qlm.packed_linear %x, %pc scales %ps {inFeatures = 8 : i64, outFeatures = 4 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<?x8xf32>, tensor<1x2x64xi8>, tensor<1x1x16xf32>) -> tensor<?x4xf32>
    return %y : tensor<?x4xf32>
  }
}
