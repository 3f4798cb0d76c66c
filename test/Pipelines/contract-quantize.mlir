// RUN: quant-opt %s --split-input-file --qlm-verify-contract=after=quantize | FileCheck %s

// CHECK-LABEL: func.func @forward

// A packed linear of int8.
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
    %y = qlm.packed_linear %x, %pc scales %ps {inFeatures = 8 : i64, outFeatures = 4 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<?x8xf32>, tensor<1x2x64xi8>, tensor<1x1x16xf32>) -> tensor<?x4xf32>
    return %y : tensor<?x4xf32>
  }
}
