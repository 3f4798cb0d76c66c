// RUN: quant-opt %s --qlm-lower-graph-codes | FileCheck %s

// CHECK-LABEL: func @quantize
// CHECK: linalg.generic
// CHECK: arith.divf
// CHECK: math.roundeven
// CHECK: arith.extui
// CHECK: arith.maxnumf
// CHECK: arith.minnumf
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
