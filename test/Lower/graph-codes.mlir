// RUN: quant-opt %s --qlm-lower-graph-codes | FileCheck %s

// CHECK-LABEL: func @quantize
// CHECK: linalg.generic
// CHECK: arith.divf
// CHECK: arith.cmpf ogt
// CHECK: arith.cmpf olt
// CHECK: arith.extui
// CHECK: math.roundeven
// CHECK: arith.fptosi {{.*}} : f32 to i32
// CHECK: arith.addi
// CHECK: arith.minsi
// CHECK: arith.maxsi
// CHECK: arith.trunci {{.*}} : i32 to i8
func.func @quantize(%x: tensor<?x4xf32>, %s: tensor<4xf32>, %z: tensor<4xi8>) -> tensor<?x4xi8> {
  %q = graph.quantize %x, %s, %z {axis = 1 : i64, unsignedCodes} : (tensor<?x4xf32>, tensor<4xf32>, tensor<4xi8>) -> tensor<?x4xi8>
  return %q : tensor<?x4xi8>
}

// CHECK-LABEL: func @dequantize
// CHECK: arith.extsi {{.*}} : i32 to i64
// CHECK: arith.subi
// CHECK: arith.sitofp
// CHECK: arith.mulf
func.func @dequantize(%q: tensor<4xi32>, %s: tensor<f32>, %z: tensor<i32>) -> tensor<4xf32> {
  %x = graph.dequantize %q, %s, %z : (tensor<4xi32>, tensor<f32>, tensor<i32>) -> tensor<4xf32>
  return %x : tensor<4xf32>
}

// Windows are taken of the rounded pixels.
// CHECK-LABEL: func @static
// CHECK-SAME: %[[X:.*]]: tensor<16x8xf32>, %[[S:.*]]: tensor<1xf32>
// CHECK: %[[Q:.*]] = linalg.generic {{.*}} ins(%[[X]], %[[S]] :
// CHECK: arith.divf
// CHECK: math.fma
// CHECK: math.fma
// CHECK: arith.trunci
// CHECK: graph.windows %[[Q]] {{.*}} : tensor<16x8xi8> -> tensor<16x72xi8>
// CHECK: linalg.generic {{.*}} ins(%[[S]] : tensor<1xf32>) outs(%{{.*}} : tensor<16xf32>)
func.func @static(%x: tensor<16x8xf32>, %s: tensor<1xf32>) -> (tensor<16x72xi8>, tensor<16xf32>) {
  %p = graph.windows %x {size = array<i64: 4, 4>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : tensor<16x8xf32> -> tensor<16x72xf32>
  %c, %k = qlm.static_quantize %p scale %s {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<16x72xf32>, tensor<1xf32> -> tensor<16x72xi8>, tensor<16xf32>
  return %c, %k : tensor<16x72xi8>, tensor<16xf32>
}
