// RUN: quant-opt %s --qlm-raise-decoder --split-input-file --verify-diagnostics

// expected-error@+1 {{there is no graph of ONNX nodes to raise}}
module {
}

// -----

module {
  func.func @graph(%ids: tensor<?x?xi64> {onnx.name = "input_ids"}) -> (none {onnx.name = "logits"}) {
    %w = onnx.initializer "w" from "m.onnx.data" at 0 : tensor<512x64xf32>
    %x = onnx.node "Gather"(%w, %ids) : (tensor<512x64xf32>, tensor<?x?xi64>) -> none
    // expected-error@+1 {{node '' (Tanh): a decoder's layers have no such operator}}
    %y = onnx.node "Tanh"(%x) : (none) -> none
    %z = onnx.node "MatMul"(%y, %w) : (none, tensor<512x64xf32>) -> none
    return %z : none
  }
}

// -----

module {
  func.func @graph(%ids: tensor<?x?xi64> {onnx.name = "input_ids"}) -> (none {onnx.name = "logits"}) {
    %w = onnx.initializer "w" from "m.onnx.data" at 0 : tensor<512x64xf32>
    %x = onnx.node "Gather"(%w, %ids) : (tensor<512x64xf32>, tensor<?x?xi64>) -> none
    // expected-error@+1 {{the weight takes 512 features, the input has 64}}
    %z = onnx.node "MatMul"(%x, %w) : (none, tensor<512x64xf32>) -> none
    return %z : none
  }
}

// -----

module {
  func.func @graph(%ids: tensor<?x?xi64> {onnx.name = "input_ids"}) -> (none {onnx.name = "logits"}) {
    %w = onnx.initializer "w" from "m.onnx.data" at 0 : tensor<512x64xf32>
    %v = onnx.initializer "v" from "m.onnx.data" at 131072 : tensor<64x512xf32>
    %x = onnx.node "Gather"(%w, %ids) : (tensor<512x64xf32>, tensor<?x?xi64>) -> none
    // expected-error@+1 {{the mask must hide later tokens, and no others: it is 1 for token 0 and token 1}}
    %a = onnx.node "Attention"(%x, %x, %x) {kv_num_heads = 2 : i64, q_num_heads = 2 : i64, qlm.mask = "it is 1 for token 0 and token 1"} : (none, none, none) -> none
    %z = onnx.node "MatMul"(%a, %v) : (none, tensor<64x512xf32>) -> none
    return %z : none
  }
}

// -----

// Everything a decoder is made of, without a layer.

module {
  // expected-error@+1 {{the graph is not arranged as a LLaMA: needs attention, got nothing}}
  func.func @graph(%ids: tensor<?x?xi64> {onnx.name = "input_ids"}) -> (none {onnx.name = "logits"}) {
    %w = onnx.initializer "w" from "m.onnx.data" at 0 : tensor<512x64xf32>
    %v = onnx.initializer "v" from "m.onnx.data" at 131072 : tensor<64x512xf32>
    %x = onnx.node "Gather"(%w, %ids) : (tensor<512x64xf32>, tensor<?x?xi64>) -> none
    %z = onnx.node "MatMul"(%x, %v) : (none, tensor<64x512xf32>) -> none
    return %z : none
  }
}
