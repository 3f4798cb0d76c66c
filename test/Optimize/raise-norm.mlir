// RUN: quant-opt %s --qlm-raise-norm --split-input-file | FileCheck %s

// CHECK-LABEL: func.func @rms_norm
// CHECK-SAME:    (%[[X:.*]]: tensor<?x?x8xf32>)
// CHECK:         %[[W:.*]] = onnx.constant "w"
// CHECK:         %[[Y:.*]] = onnx.node "RMSNormalization"(%[[X]], %[[W]]) {axis = -1 : i64, epsilon = 9.99999974E-6 : f32}
// CHECK-NOT:     onnx.node
// CHECK:         return %[[Y]]
func.func @rms_norm(%x: tensor<?x?x8xf32>) -> none {
  %w = onnx.constant "w" from "f" at 0 dense<1.0> : tensor<8xf32>
  %two = onnx.constant dense<2.0> : tensor<f32>
  %one = onnx.constant dense<1.0> : tensor<f32>
  %epsilon = onnx.constant dense<1.0e-5> : tensor<f32>
  %c = onnx.node "Cast"(%x) {to = 1 : i64} : (tensor<?x?x8xf32>) -> none
  %p = onnx.node "Pow"(%c, %two) : (none, tensor<f32>) -> none
  %m = onnx.node "ReduceMean"(%p) {axes = array<i64: -1>, keepdims = 1 : i64} : (none) -> none
  %e = onnx.node "Add"(%m, %epsilon) : (none, tensor<f32>) -> none
  %s = onnx.node "Sqrt"(%e) : (none) -> none
  %r = onnx.node "Div"(%one, %s) : (tensor<f32>, none) -> none
  %n = onnx.node "Mul"(%c, %r) : (none, none) -> none
  %y = onnx.node "Mul"(%w, %n) : (tensor<8xf32>, none) -> none
  return %y : none
}

// -----

// The square as a product, the root as a divisor, axes as an input.

// CHECK-LABEL: func.func @rms_norm_divided
// CHECK:         onnx.node "RMSNormalization"
// CHECK-NOT:     onnx.node
func.func @rms_norm_divided(%x: tensor<?x?x8xf32>) -> none {
  %w = onnx.constant "w" from "f" at 0 dense<1.0> : tensor<8xf32>
  %axes = onnx.constant dense<2> : tensor<1xi64>
  %epsilon = onnx.constant dense<1.0e-5> : tensor<f32>
  %p = onnx.node "Mul"(%x, %x) : (tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x8xf32>
  %m = onnx.node "ReduceMean"(%p, %axes) : (tensor<?x?x8xf32>, tensor<1xi64>) -> none
  %e = onnx.node "Add"(%epsilon, %m) : (tensor<f32>, none) -> none
  %s = onnx.node "Sqrt"(%e) : (none) -> none
  %n = onnx.node "Div"(%x, %s) : (tensor<?x?x8xf32>, none) -> none
  %y = onnx.node "Mul"(%n, %w) : (none, tensor<8xf32>) -> none
  return %y : none
}

// -----

// CHECK-LABEL: func.func @layer_norm
// CHECK-SAME:    (%[[X:.*]]: tensor<?x8xf32>)
// CHECK:         %[[Y:.*]] = onnx.node "LayerNormalization"(%[[X]], %{{.*}}, %{{.*}}) {axis = -1 : i64, epsilon = 9.99999974E-6 : f32}
// CHECK-NOT:     onnx.node
// CHECK:         return %[[Y]]
func.func @layer_norm(%x: tensor<?x8xf32>) -> none {
  %w = onnx.constant "w" from "f" at 0 dense<1.0> : tensor<8xf32>
  %b = onnx.constant "b" from "f" at 32 dense<1.0> : tensor<8xf32>
  %two = onnx.constant dense<2.0> : tensor<f32>
  %epsilon = onnx.constant dense<1.0e-5> : tensor<f32>
  %mean = onnx.node "ReduceMean"(%x) {axes = array<i64: -1>} : (tensor<?x8xf32>) -> none
  %d = onnx.node "Sub"(%x, %mean) : (tensor<?x8xf32>, none) -> none
  %p = onnx.node "Pow"(%d, %two) : (none, tensor<f32>) -> none
  %m = onnx.node "ReduceMean"(%p) {axes = array<i64: -1>} : (none) -> none
  %e = onnx.node "Add"(%m, %epsilon) : (none, tensor<f32>) -> none
  %s = onnx.node "Sqrt"(%e) : (none) -> none
  %n = onnx.node "Div"(%d, %s) : (none, none) -> none
  %g = onnx.node "Mul"(%n, %w) : (none, tensor<8xf32>) -> none
  %y = onnx.node "Add"(%g, %b) : (none, tensor<8xf32>) -> none
  return %y : none
}

// -----

// The sum that ONNX Runtime's operator adds first is its fourth result.

// CHECK-LABEL: func.func @skip
// CHECK-SAME:    (%[[X:.*]]: tensor<?x8xf32>, %[[S:.*]]: tensor<?x8xf32>)
// CHECK:         %[[SUM:.*]] = onnx.node "Add"(%[[X]], %[[S]])
// CHECK:         %[[Y:.*]] = onnx.node "RMSNormalization"(%[[SUM]], %{{.*}}) {axis = -1 : i64, epsilon = 1.000000e-01 : f32}
// CHECK:         return %[[Y]], %[[SUM]]
func.func @skip(%x: tensor<?x8xf32>, %s: tensor<?x8xf32>) -> (none, none) {
  %w = onnx.constant "w" from "f" at 0 dense<1.0> : tensor<8xf32>
  %y:4 = onnx.node "com.microsoft.SkipSimplifiedLayerNormalization"(%x, %s, %w) {epsilon = 1.0e-1 : f32} : (tensor<?x8xf32>, tensor<?x8xf32>, tensor<8xf32>) -> (none, none, none, none)
  return %y#0, %y#3 : none, none
}

// -----

// CHECK-LABEL: func.func @negative_other_axis
// CHECK-NOT:     RMSNormalization
func.func @negative_other_axis(%x: tensor<?x?x8xf32>) -> none {
  %w = onnx.constant "w" from "f" at 0 dense<1.0> : tensor<8xf32>
  %epsilon = onnx.constant dense<1.0e-5> : tensor<f32>
  %p = onnx.node "Mul"(%x, %x) : (tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> none
  %m = onnx.node "ReduceMean"(%p) {axes = array<i64: 1>} : (none) -> none
  %e = onnx.node "Add"(%epsilon, %m) : (tensor<f32>, none) -> none
  %s = onnx.node "Sqrt"(%e) : (none) -> none
  %n = onnx.node "Div"(%x, %s) : (tensor<?x?x8xf32>, none) -> none
  %y = onnx.node "Mul"(%n, %w) : (none, tensor<8xf32>) -> none
  return %y : none
}

// -----

// CHECK-LABEL: func.func @negative_other_input
// CHECK-NOT:     RMSNormalization
func.func @negative_other_input(%x: tensor<?x8xf32>, %z: tensor<?x8xf32>) -> none {
  %w = onnx.constant "w" from "f" at 0 dense<1.0> : tensor<8xf32>
  %epsilon = onnx.constant dense<1.0e-5> : tensor<f32>
  %p = onnx.node "Mul"(%x, %x) : (tensor<?x8xf32>, tensor<?x8xf32>) -> none
  %m = onnx.node "ReduceMean"(%p) {axes = array<i64: -1>} : (none) -> none
  %e = onnx.node "Add"(%epsilon, %m) : (tensor<f32>, none) -> none
  %s = onnx.node "Sqrt"(%e) : (none) -> none
  %n = onnx.node "Div"(%z, %s) : (tensor<?x8xf32>, none) -> none
  %y = onnx.node "Mul"(%n, %w) : (none, tensor<8xf32>) -> none
  return %y : none
}
