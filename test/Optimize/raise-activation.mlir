// RUN: quant-opt %s --qlm-raise-activation --split-input-file | FileCheck %s

// CHECK-LABEL: func.func @swish
// CHECK-SAME:    (%[[X:.*]]: tensor<?x8xf32>)
// CHECK:         %[[Y:.*]] = onnx.node "Swish"(%[[X]])
// CHECK-NOT:     onnx.node
// CHECK:         return %[[Y]]
func.func @swish(%x: tensor<?x8xf32>) -> none {
  %s = onnx.node "Sigmoid"(%x) : (tensor<?x8xf32>) -> none
  %y = onnx.node "Mul"(%x, %s) : (tensor<?x8xf32>, none) -> none
  return %y : none
}

// -----

// CHECK-LABEL: func.func @gelu_erf
// CHECK-SAME:    (%[[X:.*]]: tensor<?x8xf32>)
// CHECK:         %[[Y:.*]] = onnx.node "Gelu"(%[[X]]) {approximate = "none"}
// CHECK-NOT:     onnx.node
// CHECK:         return %[[Y]]
func.func @gelu_erf(%x: tensor<?x8xf32>) -> none {
  %root = onnx.constant dense<1.41421354> : tensor<f32>
  %one = onnx.constant dense<1.0> : tensor<f32>
  %half = onnx.constant dense<0.5> : tensor<f32>
  %d = onnx.node "Div"(%x, %root) : (tensor<?x8xf32>, tensor<f32>) -> none
  %e = onnx.node "Erf"(%d) : (none) -> none
  %s = onnx.node "Add"(%e, %one) : (none, tensor<f32>) -> none
  %p = onnx.node "Mul"(%x, %s) : (tensor<?x8xf32>, none) -> none
  %y = onnx.node "Mul"(%p, %half) : (none, tensor<f32>) -> none
  return %y : none
}

// -----

// CHECK-LABEL: func.func @gelu_tanh
// CHECK:         onnx.node "Gelu"(%{{.*}}) {approximate = "tanh"}
// CHECK-NOT:     onnx.node
func.func @gelu_tanh(%x: tensor<?x8xf32>) -> none {
  %three = onnx.constant dense<3.0> : tensor<f32>
  %cubic = onnx.constant dense<4.471500e-02> : tensor<f32>
  %root = onnx.constant dense<0.797884583> : tensor<f32>
  %one = onnx.constant dense<1.0> : tensor<f32>
  %half = onnx.constant dense<0.5> : tensor<f32>
  %c = onnx.node "Pow"(%x, %three) : (tensor<?x8xf32>, tensor<f32>) -> none
  %m = onnx.node "Mul"(%c, %cubic) : (none, tensor<f32>) -> none
  %a = onnx.node "Add"(%x, %m) : (tensor<?x8xf32>, none) -> none
  %r = onnx.node "Mul"(%a, %root) : (none, tensor<f32>) -> none
  %t = onnx.node "Tanh"(%r) : (none) -> none
  %s = onnx.node "Add"(%t, %one) : (none, tensor<f32>) -> none
  %h = onnx.node "Mul"(%x, %half) : (tensor<?x8xf32>, tensor<f32>) -> none
  %y = onnx.node "Mul"(%h, %s) : (none, none) -> none
  return %y : none
}

// -----

// CHECK-LABEL: func.func @negative_other_sigmoid
// CHECK-NOT:     Swish
func.func @negative_other_sigmoid(%x: tensor<?x8xf32>, %z: tensor<?x8xf32>) -> none {
  %s = onnx.node "Sigmoid"(%z) : (tensor<?x8xf32>) -> none
  %y = onnx.node "Mul"(%x, %s) : (tensor<?x8xf32>, none) -> none
  return %y : none
}

// -----

// CHECK-LABEL: func.func @negative_other_root
// CHECK-NOT:     Gelu
func.func @negative_other_root(%x: tensor<?x8xf32>) -> none {
  %root = onnx.constant dense<1.5> : tensor<f32>
  %one = onnx.constant dense<1.0> : tensor<f32>
  %half = onnx.constant dense<0.5> : tensor<f32>
  %d = onnx.node "Div"(%x, %root) : (tensor<?x8xf32>, tensor<f32>) -> none
  %e = onnx.node "Erf"(%d) : (none) -> none
  %s = onnx.node "Add"(%e, %one) : (none, tensor<f32>) -> none
  %p = onnx.node "Mul"(%x, %s) : (tensor<?x8xf32>, none) -> none
  %y = onnx.node "Mul"(%p, %half) : (none, tensor<f32>) -> none
  return %y : none
}
