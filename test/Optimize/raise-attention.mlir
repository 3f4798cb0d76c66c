// RUN: quant-opt %s --qlm-raise-attention --split-input-file | FileCheck %s

// Scaled queries, repeated keys and values behind a cache, a mask that is
// added, zeros for NaN.

// CHECK-LABEL: func.func @cached
// CHECK-SAME:    (%[[Q:.*]]: tensor<?x4x?x32xf32>, %[[K:.*]]: tensor<?x2x?x32xf32>, %[[V:.*]]: tensor<?x2x?x32xf32>, %[[PK:.*]]: tensor<?x2x?x32xf32>, %[[PV:.*]]: tensor<?x2x?x32xf32>, %[[M:.*]]: tensor<?x1x?x?xf32>)
// CHECK:         %[[Y:.*]] = onnx.node "Attention"(%[[Q]], %[[K]], %[[V]], %[[M]], %[[PK]], %[[PV]]) {scale = 1.250000e-01 : f32}
// CHECK:         return %[[Y]]
func.func @cached(%q: tensor<?x4x?x32xf32>, %k: tensor<?x2x?x32xf32>, %v: tensor<?x2x?x32xf32>, %pk: tensor<?x2x?x32xf32>, %pv: tensor<?x2x?x32xf32>, %mask: tensor<?x1x?x?xf32>) -> tensor<?x4x?x32xf32> {
  %two = onnx.constant dense<2> : tensor<1xi64>
  %shape = onnx.constant dense<[1, 2, 2, 9, 32]> : tensor<5xi64>
  %joined = onnx.constant dense<[1, 4, 9, 32]> : tensor<4xi64>
  %scale = onnx.constant dense<0.125> : tensor<f32>
  %zero = onnx.constant dense<0.0> : tensor<f32>
  %ck = onnx.node "Concat"(%pk, %k) {axis = -2 : i64} : (tensor<?x2x?x32xf32>, tensor<?x2x?x32xf32>) -> tensor<?x2x?x32xf32>
  %cv = onnx.node "Concat"(%pv, %v) {axis = 2 : i64} : (tensor<?x2x?x32xf32>, tensor<?x2x?x32xf32>) -> tensor<?x2x?x32xf32>
  %uk = onnx.node "Unsqueeze"(%ck, %two) : (tensor<?x2x?x32xf32>, tensor<1xi64>) -> tensor<?x2x1x?x32xf32>
  %ek = onnx.node "Expand"(%uk, %shape) : (tensor<?x2x1x?x32xf32>, tensor<5xi64>) -> tensor<?x2x2x?x32xf32>
  %rk = onnx.node "Reshape"(%ek, %joined) : (tensor<?x2x2x?x32xf32>, tensor<4xi64>) -> tensor<?x4x?x32xf32>
  %uv = onnx.node "Unsqueeze"(%cv, %two) : (tensor<?x2x?x32xf32>, tensor<1xi64>) -> tensor<?x2x1x?x32xf32>
  %ev = onnx.node "Expand"(%uv, %shape) : (tensor<?x2x1x?x32xf32>, tensor<5xi64>) -> tensor<?x2x2x?x32xf32>
  %rv = onnx.node "Reshape"(%ev, %joined) : (tensor<?x2x2x?x32xf32>, tensor<4xi64>) -> tensor<?x4x?x32xf32>
  %t = onnx.node "Transpose"(%rk) {perm = array<i64: 0, 1, 3, 2>} : (tensor<?x4x?x32xf32>) -> tensor<?x4x32x?xf32>
  %sq = onnx.node "Mul"(%q, %scale) : (tensor<?x4x?x32xf32>, tensor<f32>) -> tensor<?x4x?x32xf32>
  %s = onnx.node "MatMul"(%sq, %t) : (tensor<?x4x?x32xf32>, tensor<?x4x32x?xf32>) -> tensor<?x4x?x?xf32>
  %a = onnx.node "Add"(%s, %mask) : (tensor<?x4x?x?xf32>, tensor<?x1x?x?xf32>) -> tensor<?x4x?x?xf32>
  %p = onnx.node "Softmax"(%a) {axis = -1 : i64} : (tensor<?x4x?x?xf32>) -> tensor<?x4x?x?xf32>
  %n = onnx.node "IsNaN"(%p) : (tensor<?x4x?x?xf32>) -> tensor<?x4x?x?xi1>
  %w = onnx.node "Where"(%n, %zero, %p) : (tensor<?x4x?x?xi1>, tensor<f32>, tensor<?x4x?x?xf32>) -> tensor<?x4x?x?xf32>
  %y = onnx.node "MatMul"(%w, %rv) : (tensor<?x4x?x?xf32>, tensor<?x4x?x32xf32>) -> tensor<?x4x?x32xf32>
  return %y : tensor<?x4x?x32xf32>
}

// -----

// Scaled scores, no cache and no mask: an encoder's.

// CHECK-LABEL: func.func @encoder
// CHECK-SAME:    (%[[Q:.*]]: tensor<?x4x?x32xf32>, %[[K:.*]]: tensor<?x4x?x32xf32>, %[[V:.*]]: tensor<?x4x?x32xf32>)
// CHECK:         onnx.node "Attention"(%[[Q]], %[[K]], %[[V]]) {scale = 2.500000e-01 : f32}
func.func @encoder(%q: tensor<?x4x?x32xf32>, %k: tensor<?x4x?x32xf32>, %v: tensor<?x4x?x32xf32>) -> none {
  %four = onnx.constant dense<4.0> : tensor<f32>
  %t = onnx.node "Transpose"(%k) {perm = array<i64: 0, 1, 3, 2>} : (tensor<?x4x?x32xf32>) -> tensor<?x4x32x?xf32>
  %s = onnx.node "MatMul"(%q, %t) : (tensor<?x4x?x32xf32>, tensor<?x4x32x?xf32>) -> tensor<?x4x?x?xf32>
  %a = onnx.node "Div"(%s, %four) : (tensor<?x4x?x?xf32>, tensor<f32>) -> tensor<?x4x?x?xf32>
  %p = onnx.node "Softmax"(%a) : (tensor<?x4x?x?xf32>) -> tensor<?x4x?x?xf32>
  %y = onnx.node "MatMul"(%p, %v) : (tensor<?x4x?x?xf32>, tensor<?x4x?x32xf32>) -> none
  return %y : none
}

// -----

// ONNX Runtime's operator with everything in one input; the positions follow
// from the lengths.

// CHECK-LABEL: func.func @packed
// CHECK:         %[[P:.*]]:3 = onnx.node "Split"
// CHECK:         onnx.node "Range"
// CHECK:         %[[POS:.*]] = onnx.node "Add"
// CHECK:         %[[Q:.*]] = onnx.node "RotaryEmbedding"(%[[P]]#0, %{{.*}}, %{{.*}}, %[[POS]]) {interleaved = 0 : i64, num_heads = 4 : i64}
// CHECK:         %[[K:.*]] = onnx.node "RotaryEmbedding"(%[[P]]#1, %{{.*}}, %{{.*}}, %[[POS]]) {interleaved = 0 : i64, num_heads = 2 : i64}
// CHECK:         onnx.node "Attention"(%[[Q]], %[[K]], %[[P]]#2, %{{.*}}, %{{.*}}, %{{.*}}) {is_causal = 1 : i64, kv_num_heads = 2 : i64, q_num_heads = 4 : i64}
func.func @packed(%x: tensor<?x?x256xf32>, %pk: tensor<?x2x?x32xf32>, %pv: tensor<?x2x?x32xf32>, %l: tensor<?xi32>, %n: tensor<i32>, %c: tensor<99x16xf32>, %s: tensor<99x16xf32>) -> none {
  %no = onnx.absent : none
  %y:3 = onnx.node "com.microsoft.GroupQueryAttention"(%x, %no, %no, %pk, %pv, %l, %n, %c, %s) {do_rotary = 1 : i64, kv_num_heads = 2 : i64, num_heads = 4 : i64} : (tensor<?x?x256xf32>, none, none, tensor<?x2x?x32xf32>, tensor<?x2x?x32xf32>, tensor<?xi32>, tensor<i32>, tensor<99x16xf32>, tensor<99x16xf32>) -> (none, none, none)
  return %y#0 : none
}

// -----

// A mask that is scaled with the scores means another function.

// CHECK-LABEL: func.func @negative_scaled_mask
// CHECK-NOT:     "Attention"
func.func @negative_scaled_mask(%q: tensor<?x4x?x32xf32>, %k: tensor<?x4x?x32xf32>, %v: tensor<?x4x?x32xf32>, %m: tensor<?x1x?x?xf32>) -> none {
  %four = onnx.constant dense<4.0> : tensor<f32>
  %t = onnx.node "Transpose"(%k) {perm = array<i64: 0, 1, 3, 2>} : (tensor<?x4x?x32xf32>) -> tensor<?x4x32x?xf32>
  %s = onnx.node "MatMul"(%q, %t) : (tensor<?x4x?x32xf32>, tensor<?x4x32x?xf32>) -> tensor<?x4x?x?xf32>
  %b = onnx.node "Add"(%s, %m) : (tensor<?x4x?x?xf32>, tensor<?x1x?x?xf32>) -> tensor<?x4x?x?xf32>
  %a = onnx.node "Div"(%b, %four) : (tensor<?x4x?x?xf32>, tensor<f32>) -> tensor<?x4x?x?xf32>
  %p = onnx.node "Softmax"(%a) : (tensor<?x4x?x?xf32>) -> tensor<?x4x?x?xf32>
  %y = onnx.node "MatMul"(%p, %v) : (tensor<?x4x?x?xf32>, tensor<?x4x?x32xf32>) -> none
  return %y : none
}
