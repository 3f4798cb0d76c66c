// RUN: quant-opt %s --qlm-raise-causal-mask --split-input-file | FileCheck %s

// Comparisons of positions, with what the attention mask shows.

// CHECK-LABEL: func.func @compared
// CHECK:         onnx.node "Attention"(%{{.*}}, %{{.*}}, %{{.*}}) {is_causal = 1 : i64}
func.func @compared(%ids: tensor<?x?xi64> {onnx.name = "input_ids"}, %mask: tensor<?x?xi64> {onnx.name = "attention_mask"}, %x: tensor<?x4x?x32xf32> {onnx.name = "x"}) -> (none {onnx.name = "y"}) {
  %zero = onnx.constant dense<0> : tensor<i64>
  %one = onnx.constant dense<1> : tensor<i64>
  %rows = onnx.constant dense<1> : tensor<1xi64>
  %low = onnx.constant dense<-3.40282347E+38> : tensor<f32>
  %none = onnx.constant dense<0.0> : tensor<f32>
  %s = onnx.node "Shape"(%ids) {start = 1 : i64} : (tensor<?x?xi64>) -> none
  %n = onnx.node "Squeeze"(%s) : (none) -> none
  %r = onnx.node "Range"(%zero, %n, %one) : (tensor<i64>, none, tensor<i64>) -> none
  %c = onnx.node "Unsqueeze"(%r, %rows) : (none, tensor<1xi64>) -> none
  %le = onnx.node "LessOrEqual"(%r, %c) : (none, none) -> none
  %b = onnx.node "Cast"(%mask) {to = 9 : i64} : (tensor<?x?xi64>) -> none
  %both = onnx.node "And"(%le, %b) : (none, none) -> none
  %m = onnx.node "Where"(%both, %none, %low) : (none, tensor<f32>, tensor<f32>) -> none
  %y = onnx.node "Attention"(%x, %x, %x, %m) : (tensor<?x4x?x32xf32>, tensor<?x4x?x32xf32>, tensor<?x4x?x32xf32>, none) -> none
  return %y : none
}

// -----

// The same with a window of ten tokens is another mask.

// CHECK-LABEL: func.func @negative_window
// CHECK:         "Attention"{{.*}} {qlm.mask = "it is 0 for token 10 and token 0"}
func.func @negative_window(%ids: tensor<?x?xi64> {onnx.name = "input_ids"}, %x: tensor<?x4x?x32xf32> {onnx.name = "x"}) -> (none {onnx.name = "y"}) {
  %zero = onnx.constant dense<0> : tensor<i64>
  %one = onnx.constant dense<1> : tensor<i64>
  %ten = onnx.constant dense<10> : tensor<i64>
  %rows = onnx.constant dense<1> : tensor<1xi64>
  %s = onnx.node "Shape"(%ids) {start = 1 : i64} : (tensor<?x?xi64>) -> none
  %n = onnx.node "Squeeze"(%s) : (none) -> none
  %r = onnx.node "Range"(%zero, %n, %one) : (tensor<i64>, none, tensor<i64>) -> none
  %c = onnx.node "Unsqueeze"(%r, %rows) : (none, tensor<1xi64>) -> none
  %le = onnx.node "LessOrEqual"(%r, %c) : (none, none) -> none
  %d = onnx.node "Sub"(%c, %r) : (none, none) -> none
  %near = onnx.node "Less"(%d, %ten) : (none, tensor<i64>) -> none
  %m = onnx.node "And"(%le, %near) : (none, none) -> none
  %y = onnx.node "Attention"(%x, %x, %x, %m) : (tensor<?x4x?x32xf32>, tensor<?x4x?x32xf32>, tensor<?x4x?x32xf32>, none) -> none
  return %y : none
}

// -----

// CHECK-LABEL: func.func @negative_unknown
// CHECK:         "Attention"{{.*}} {qlm.mask = "it depends on weights or on operators that are not understood"}
func.func @negative_unknown(%x: tensor<?x4x?x32xf32> {onnx.name = "x"}, %m: tensor<?x1x?x?xf32> {onnx.name = "bias"}) -> (none {onnx.name = "y"}) {
  %y = onnx.node "Attention"(%x, %x, %x, %m) : (tensor<?x4x?x32xf32>, tensor<?x4x?x32xf32>, tensor<?x4x?x32xf32>, tensor<?x1x?x?xf32>) -> none
  return %y : none
}
