// RUN: quant-opt --qlm-fuse-residual --split-input-file %s | FileCheck %s

// CHECK: module attributes {qlm.stage = "optimize"}
// CHECK-LABEL: func.func @linear_on_the_right
// CHECK-SAME: (%[[X:.*]]: tensor<?x8xf32>, %[[W:.*]]: tensor<4x8xf16>, %[[R:.*]]: tensor<?x4xf32>)
func.func @linear_on_the_right(%x: tensor<?x8xf32>, %w: tensor<4x8xf16>, %r: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // CHECK-NEXT: %[[Z:.*]] = qlm.linear %[[X]], %[[W]] residual %[[R]]
  // CHECK-NEXT: return %[[Z]]
  %y = qlm.linear %x, %w : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %z = qlm.add %r, %y : tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// -----

// The bias stays.
// CHECK-LABEL: func.func @linear_on_the_left
// CHECK-NEXT: qlm.linear %{{.*}}, %{{.*}} bias %{{.*}} residual
// CHECK-NEXT: return
func.func @linear_on_the_left(%x: tensor<?x8xf32>, %w: tensor<4x8xf16>, %b: tensor<4xf16>, %r: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %y = qlm.linear %x, %w bias %b : tensor<4xf16> : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %z = qlm.add %y, %r : tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// -----

// The residual is made after the linear, so the linear moves down.
// CHECK-LABEL: func.func @residual_made_later
// CHECK: %[[S:.*]] = qlm.silu
// CHECK-NEXT: qlm.linear %{{.*}}, %{{.*}} residual %[[S]]
func.func @residual_made_later(%x: tensor<?x8xf32>, %w: tensor<4x8xf16>, %r: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %y = qlm.linear %x, %w : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %s = qlm.silu %r : tensor<?x4xf32>
  %z = qlm.add %s, %y : tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @sum_of_two_linears
// CHECK-SAME: (%[[X:.*]]: tensor<?x8xf32>, %[[V:.*]]: tensor<4x8xf16>, %[[W:.*]]: tensor<4x8xf16>)
// CHECK-NEXT: %[[A:.*]] = qlm.linear %[[X]], %[[V]] :
// CHECK-NEXT: qlm.linear %[[X]], %[[W]] residual %[[A]]
func.func @sum_of_two_linears(%x: tensor<?x8xf32>, %v: tensor<4x8xf16>, %w: tensor<4x8xf16>) -> tensor<?x4xf32> {
  %a = qlm.linear %x, %v : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %b = qlm.linear %x, %w : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %z = qlm.add %a, %b : tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @negative_linear_used_twice
// CHECK: qlm.add
func.func @negative_linear_used_twice(%x: tensor<?x8xf32>, %w: tensor<4x8xf16>, %r: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %y = qlm.linear %x, %w : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %z = qlm.add %r, %y : tensor<?x4xf32>
  return %z, %y : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @negative_doubled_linear
// CHECK: qlm.add
func.func @negative_doubled_linear(%x: tensor<?x8xf32>, %w: tensor<4x8xf16>) -> tensor<?x4xf32> {
  %y = qlm.linear %x, %w : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %z = qlm.add %y, %y : tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @negative_second_residual
// CHECK: qlm.linear {{.*}} residual
// CHECK-NEXT: qlm.add
func.func @negative_second_residual(%x: tensor<?x8xf32>, %w: tensor<4x8xf16>, %r: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %y = qlm.linear %x, %w residual %r : tensor<?x4xf32> : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %z = qlm.add %r, %y : tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @negative_no_linear
// CHECK: qlm.add
func.func @negative_no_linear(%x: tensor<?x8xf32>, %y: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %z = qlm.add %x, %y : tensor<?x8xf32>
  return %z : tensor<?x8xf32>
}
