// RUN: quant-opt %s --qlm-decompose | FileCheck %s

// An element of the result is a formula of its indices.
// CHECK-LABEL: @scale
func.func @scale(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // CHECK-NOT: qlm.
  // CHECK: %[[FACTOR:.*]] = arith.constant 2.500000e-01 : f32
  // CHECK: %[[ROWS:.*]] = tensor.dim %[[X:.*]], %{{.*}}
  // CHECK: tensor.generate %[[ROWS]]
  // CHECK: %[[E:.*]] = tensor.extract %[[X]][%{{.*}}, %{{.*}}]
  // CHECK: %[[P:.*]] = arith.mulf %[[E]], %[[FACTOR]]
  // CHECK: tensor.yield %[[P]]
  %y = qlm.scale %x by 2.5e-01 : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// Sums over features run in ascending order.
// CHECK-LABEL: @linear
func.func @linear(%x: tensor<2x8xf32>, %w: tensor<3x8xbf16>) -> tensor<2x3xf32> {
  // CHECK: %[[SUM:.*]] = scf.for
  // CHECK: tensor.extract %{{.*}} : tensor<3x8xbf16>
  // CHECK: arith.extf
  // CHECK: arith.addf
  // CHECK: tensor.yield %[[SUM]]
  %y = qlm.linear %x, %w : tensor<2x8xf32>, tensor<3x8xbf16> -> tensor<2x3xf32>
  return %y : tensor<2x3xf32>
}

// Parameters stay.
// CHECK-LABEL: @negative_load
func.func @negative_load() -> tensor<4xf32> {
  // CHECK: qlm.load @w
  %w = qlm.load @w : tensor<4xf32>
  return %w : tensor<4xf32>
}
qlm.parameter @w : tensor<4xf32> from "model.safetensors" key "w"
