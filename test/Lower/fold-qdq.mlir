// RUN: quant-opt %s --qlm-fold-qdq --split-input-file | FileCheck %s

// CHECK-LABEL: func @signed
// CHECK-SAME: %[[Q:.*]]: tensor<?x8xi8>, %[[V:.*]]: tensor<16x8xi8>, %[[T:.*]]: tensor<16xf32>
// CHECK: %[[W:.*]] = graph.dequantize %[[V]], %[[T]]
// CHECK: %[[C:.*]], %[[K:.*]] = qlm.keep_codes %[[W]] scales %[[T]]
// CHECK: %[[R:.*]] = linalg.fill
// CHECK: qlm.quantized_linear %[[Q]] input_scales %[[R]], %[[C]] scales %[[K]] {
func.func @signed(%q: tensor<?x8xi8>, %v: tensor<16x8xi8>, %t: tensor<16xf32>) -> tensor<?x16xf32> {
  %s = arith.constant dense<0.5> : tensor<f32>
  %x = graph.dequantize %q, %s {axis = 0 : i64} : (tensor<?x8xi8>, tensor<f32>) -> tensor<?x8xf32>
  %w = graph.dequantize %v, %t {axis = 0 : i64} : (tensor<16x8xi8>, tensor<16xf32>) -> tensor<16x8xf32>
  %y = qlm.linear %x, %w : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// -----

// The zero point 130 of unsigned codes is 2 of signed ones: a shift by 2 / 2.
// CHECK-LABEL: func @unsigned
// CHECK-SAME: %[[Q:.*]]: tensor<?x8xi8>, %{{.*}}: tensor<16x8xi8>, %[[B:.*]]: tensor<16xf32>
// CHECK: %[[W:.*]] = graph.dequantize %{{.*}}, %{{.*}} {axis = 0 : i64} : (tensor<16x8xi8>
// CHECK: qlm.keep_codes %[[W]]
// CHECK: %[[F:.*]] = linalg.generic {{.*}} ins(%[[Q]] :
// CHECK: arith.xori
// CHECK: %[[S:.*]] = graph.shifted_bias %[[W]], %[[B]] {shift = 1.000000e+00 : f32}
// CHECK: qlm.quantized_linear %[[F]] input_scales %{{.*}}, %{{.*}} scales %{{.*}} bias %[[S]] {
func.func @unsigned(%q: tensor<?x8xi8>, %v: tensor<16x8xi8>, %b: tensor<16xf32>) -> tensor<?x16xf32> {
  %s = arith.constant dense<0.5> : tensor<f32>
  %z = arith.constant dense<-126> : tensor<i8>
  %x = graph.dequantize %q, %s, %z {axis = 0 : i64, unsignedCodes} : (tensor<?x8xi8>, tensor<f32>, tensor<i8>) -> tensor<?x8xf32>
  %w = graph.dequantize %v, %s {axis = 0 : i64} : (tensor<16x8xi8>, tensor<f32>) -> tensor<16x8xf32>
  %y = qlm.linear %x, %w bias %b : tensor<16xf32> : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// -----

// Scales of input features, and zero points of weights, stay.
// CHECK-LABEL: func @negative_other_axis
// CHECK-NOT: qlm.quantized_linear
func.func @negative_other_axis(%q: tensor<?x8xi8>, %v: tensor<16x8xi8>, %t: tensor<8xf32>) -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  %s = arith.constant dense<0.5> : tensor<f32>
  %z = arith.constant dense<3> : tensor<i8>
  %x = graph.dequantize %q, %s {axis = 0 : i64} : (tensor<?x8xi8>, tensor<f32>) -> tensor<?x8xf32>
  %w = graph.dequantize %v, %t {axis = 1 : i64} : (tensor<16x8xi8>, tensor<8xf32>) -> tensor<16x8xf32>
  %y = qlm.linear %x, %w : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  %u = graph.dequantize %v, %s, %z {axis = 0 : i64} : (tensor<16x8xi8>, tensor<f32>, tensor<i8>) -> tensor<16x8xf32>
  %o = qlm.linear %x, %u : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  return %y, %o : tensor<?x16xf32>, tensor<?x16xf32>
}
