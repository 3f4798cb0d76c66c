// RUN: quant-opt %s --qlm-infer-nodes --split-input-file | FileCheck %s

// What follows from sizes that are known is a constant, though other sizes
// are open; the nodes' types say which are.

// CHECK-LABEL: func.func @shapes
// CHECK:         %[[HALF:.*]] = onnx.constant dense<16> : tensor<1xi64>
// CHECK:         onnx.node "Slice"(%{{.*}}, %{{.*}}, %[[HALF]], %{{.*}}) : {{.*}} -> tensor<?x4x?x16xf32>
func.func @shapes(%x: tensor<?x4x?x32xf32> {onnx.name = "past_key_values.0.key"}) -> (none {onnx.name = "y"}) {
  %zero = onnx.constant dense<0> : tensor<1xi64>
  %two = onnx.constant dense<2> : tensor<1xi64>
  %three = onnx.constant dense<3> : tensor<1xi64>
  %s = onnx.node "Shape"(%x) : (tensor<?x4x?x32xf32>) -> none
  %d = onnx.node "Gather"(%s, %three) {axis = 0 : i64} : (none, tensor<1xi64>) -> none
  %half = onnx.node "Div"(%d, %two) : (none, tensor<1xi64>) -> none
  %y = onnx.node "Slice"(%x, %zero, %half, %three) : (tensor<?x4x?x32xf32>, tensor<1xi64>, none, tensor<1xi64>) -> none
  return %y : none
}

// -----

// An open size stays a node; an unknown operator has no type.

// CHECK-LABEL: func.func @negative_open
// CHECK:         onnx.node "Shape"(%{{.*}}) : (tensor<?x8xf32>) -> tensor<2xi64>
// CHECK:         onnx.node "Frob"(%{{.*}}) : (tensor<2xi64>) -> none
func.func @negative_open(%x: tensor<?x8xf32> {onnx.name = "x"}) -> (none {onnx.name = "y"}) {
  %s = onnx.node "Shape"(%x) : (tensor<?x8xf32>) -> none
  %y = onnx.node "Frob"(%s) : (none) -> none
  return %y : none
}
