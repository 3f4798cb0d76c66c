// RUN: quant-opt %s --qlm-raise-rotary --split-input-file | FileCheck %s

// Tables of both halves; the halves are cut by slices.

// CHECK-LABEL: func.func @rotated_half
// CHECK-SAME:    (%[[X:.*]]: tensor<?x4x?x32xf32>, %[[A:.*]]: tensor<?x?x16xf32>)
// CHECK:         %[[COS:.*]] = onnx.node "Cos"(%[[A]])
// CHECK:         %[[SIN:.*]] = onnx.node "Sin"(%[[A]])
// CHECK:         %[[Y:.*]] = onnx.node "RotaryEmbedding"(%[[X]], %[[COS]], %[[SIN]])
// CHECK:         return %[[Y]]
func.func @rotated_half(%x: tensor<?x4x?x32xf32>, %a: tensor<?x?x16xf32>) -> none {
  %zero = onnx.constant dense<0> : tensor<1xi64>
  %middle = onnx.constant dense<16> : tensor<1xi64>
  %end = onnx.constant dense<9223372036854775807> : tensor<1xi64>
  %last = onnx.constant dense<3> : tensor<1xi64>
  %one = onnx.constant dense<1> : tensor<1xi64>
  %both = onnx.node "Concat"(%a, %a) {axis = -1 : i64} : (tensor<?x?x16xf32>, tensor<?x?x16xf32>) -> tensor<?x?x32xf32>
  %c = onnx.node "Cos"(%both) : (tensor<?x?x32xf32>) -> none
  %s = onnx.node "Sin"(%both) : (tensor<?x?x32xf32>) -> none
  %cos = onnx.node "Unsqueeze"(%c, %one) : (none, tensor<1xi64>) -> none
  %sin = onnx.node "Unsqueeze"(%s, %one) : (none, tensor<1xi64>) -> none
  %kept = onnx.node "Mul"(%x, %cos) : (tensor<?x4x?x32xf32>, none) -> tensor<?x4x?x32xf32>
  %first = onnx.node "Slice"(%x, %zero, %middle, %last) : (tensor<?x4x?x32xf32>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x4x?x16xf32>
  %second = onnx.node "Slice"(%x, %middle, %end, %last) : (tensor<?x4x?x32xf32>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x4x?x16xf32>
  %n = onnx.node "Neg"(%second) : (tensor<?x4x?x16xf32>) -> tensor<?x4x?x16xf32>
  %r = onnx.node "Concat"(%n, %first) {axis = -1 : i64} : (tensor<?x4x?x16xf32>, tensor<?x4x?x16xf32>) -> tensor<?x4x?x32xf32>
  %turned = onnx.node "Mul"(%r, %sin) : (tensor<?x4x?x32xf32>, none) -> tensor<?x4x?x32xf32>
  %y = onnx.node "Add"(%kept, %turned) : (tensor<?x4x?x32xf32>, tensor<?x4x?x32xf32>) -> none
  return %y : none
}

// -----

// Tables of one half; the halves are cut by a split.

// CHECK-LABEL: func.func @halves
// CHECK-SAME:    (%[[X:.*]]: tensor<?x4x?x32xf32>, %[[C:.*]]: tensor<?x?x16xf32>, %[[S:.*]]: tensor<?x?x16xf32>)
// CHECK:         %[[Y:.*]] = onnx.node "RotaryEmbedding"(%[[X]], %[[C]], %[[S]])
// CHECK:         return %[[Y]]
func.func @halves(%x: tensor<?x4x?x32xf32>, %c: tensor<?x?x16xf32>, %s: tensor<?x?x16xf32>) -> none {
  %one = onnx.constant dense<1> : tensor<1xi64>
  %cos = onnx.node "Unsqueeze"(%c, %one) : (tensor<?x?x16xf32>, tensor<1xi64>) -> none
  %sin = onnx.node "Unsqueeze"(%s, %one) : (tensor<?x?x16xf32>, tensor<1xi64>) -> none
  %a, %b = onnx.node "Split"(%x) {axis = 3 : i64} : (tensor<?x4x?x32xf32>) -> (tensor<?x4x?x16xf32>, tensor<?x4x?x16xf32>)
  %ac = onnx.node "Mul"(%a, %cos) : (tensor<?x4x?x16xf32>, none) -> none
  %bs = onnx.node "Mul"(%b, %sin) : (tensor<?x4x?x16xf32>, none) -> none
  %bc = onnx.node "Mul"(%b, %cos) : (tensor<?x4x?x16xf32>, none) -> none
  %as = onnx.node "Mul"(%sin, %a) : (none, tensor<?x4x?x16xf32>) -> none
  %d = onnx.node "Sub"(%ac, %bs) : (none, none) -> none
  %e = onnx.node "Add"(%bc, %as) : (none, none) -> none
  %y = onnx.node "Concat"(%d, %e) {axis = -1 : i64} : (none, none) -> none
  return %y : none
}

// -----

// ONNX Runtime's operator has the positions second.

// CHECK-LABEL: func.func @contributed
// CHECK-SAME:    (%[[X:.*]]: tensor<?x?x64xf32>, %[[P:.*]]: tensor<?x?xi64>, %[[C:.*]]: tensor<99x16xf32>, %[[S:.*]]: tensor<99x16xf32>)
// CHECK:         onnx.node "RotaryEmbedding"(%[[X]], %[[C]], %[[S]], %[[P]]) {num_heads = 2 : i64}
func.func @contributed(%x: tensor<?x?x64xf32>, %p: tensor<?x?xi64>, %c: tensor<99x16xf32>, %s: tensor<99x16xf32>) -> none {
  %y = onnx.node "com.microsoft.RotaryEmbedding"(%x, %p, %c, %s) {num_heads = 2 : i64} : (tensor<?x?x64xf32>, tensor<?x?xi64>, tensor<99x16xf32>, tensor<99x16xf32>) -> none
  return %y : none
}

// -----

// The first half turned, not the second: another function.

// CHECK-LABEL: func.func @negative_halves_swapped
// CHECK-NOT:     RotaryEmbedding
func.func @negative_halves_swapped(%x: tensor<?x4x?x32xf32>, %a: tensor<?x?x16xf32>) -> none {
  %one = onnx.constant dense<1> : tensor<1xi64>
  %both = onnx.node "Concat"(%a, %a) {axis = -1 : i64} : (tensor<?x?x16xf32>, tensor<?x?x16xf32>) -> tensor<?x?x32xf32>
  %c = onnx.node "Cos"(%both) : (tensor<?x?x32xf32>) -> none
  %s = onnx.node "Sin"(%both) : (tensor<?x?x32xf32>) -> none
  %cos = onnx.node "Unsqueeze"(%c, %one) : (none, tensor<1xi64>) -> none
  %sin = onnx.node "Unsqueeze"(%s, %one) : (none, tensor<1xi64>) -> none
  %kept = onnx.node "Mul"(%x, %cos) : (tensor<?x4x?x32xf32>, none) -> none
  %first, %second = onnx.node "Split"(%x) {axis = 3 : i64} : (tensor<?x4x?x32xf32>) -> (tensor<?x4x?x16xf32>, tensor<?x4x?x16xf32>)
  %n = onnx.node "Neg"(%first) : (tensor<?x4x?x16xf32>) -> tensor<?x4x?x16xf32>
  %r = onnx.node "Concat"(%n, %second) {axis = -1 : i64} : (tensor<?x4x?x16xf32>, tensor<?x4x?x16xf32>) -> tensor<?x4x?x32xf32>
  %turned = onnx.node "Mul"(%r, %sin) : (tensor<?x4x?x32xf32>, none) -> none
  %y = onnx.node "Add"(%kept, %turned) : (none, none) -> none
  return %y : none
}
