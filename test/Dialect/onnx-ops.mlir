// RUN: quant-opt %s | quant-opt | FileCheck %s

// CHECK-LABEL: func @nodes
func.func @nodes(%a: tensor<?x4xf32>, %b: none) -> none {
  // CHECK: %[[NONE:.*]] = onnx.absent : none
  %none = onnx.absent : none
  // CHECK: onnx.constant dense<[1, -1]> : tensor<2xi64>
  %c = onnx.constant dense<[1, -1]> : tensor<2xi64>
  // CHECK: onnx.constant "scale" from "model.onnx" at 96 dense<[1.000000e+00, 2.000000e+00]> : tensor<2xf32>
  %d = onnx.constant "scale" from "model.onnx" at 96 dense<[1.0, 2.0]> : tensor<2xf32>
  // CHECK: onnx.initializer "model.norm.weight" from "model.onnx.data" at 4096 : tensor<2048xf32>
  %w = onnx.initializer "model.norm.weight" from "model.onnx.data" at 4096 : tensor<2048xf32>
  // CHECK: %[[P:.*]]:2 = onnx.node "Split"(%{{.*}}, %[[NONE]]) {axis = -1 : i64} : (tensor<?x4xf32>, none) -> (none, tensor<?x2xf32>)
  %p:2 = onnx.node "Split"(%a, %none) {axis = -1 : i64} : (tensor<?x4xf32>, none) -> (none, tensor<?x2xf32>)
  return %p#0 : none
}
