// RUN: quant-opt --qlm-fuse-swiglu --split-input-file %s | FileCheck %s

// CHECK-LABEL: func.func @gate_times_up
// CHECK-SAME: (%[[X:.*]]: tensor<?x12xf32>)
func.func @gate_times_up(%x: tensor<?x12xf32>) -> tensor<?x6xf32> {
  // CHECK-NEXT: %[[Y:.*]] = qlm.swiglu %[[X]] : tensor<?x12xf32> -> tensor<?x6xf32>
  // CHECK-NEXT: return %[[Y]]
  %g, %u = qlm.split %x : tensor<?x12xf32> -> tensor<?x6xf32>, tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @up_times_gate
// CHECK-NEXT: qlm.swiglu
// CHECK-NEXT: return
func.func @up_times_gate(%x: tensor<?x12xf32>) -> tensor<?x6xf32> {
  %g, %u = qlm.split %x : tensor<?x12xf32> -> tensor<?x6xf32>, tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %u, %s : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_up_comes_first
// CHECK-NOT: qlm.swiglu
func.func @negative_up_comes_first(%x: tensor<?x12xf32>) -> tensor<?x6xf32> {
  %u, %g = qlm.split %x : tensor<?x12xf32> -> tensor<?x6xf32>, tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_three_parts
// CHECK-NOT: qlm.swiglu
func.func @negative_three_parts(%x: tensor<?x12xf32>) -> tensor<?x4xf32> {
  %g, %u, %r = qlm.split %x : tensor<?x12xf32> -> tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
  %s = qlm.silu %g : tensor<?x4xf32>
  %m = qlm.mul %s, %u : tensor<?x4xf32>
  return %m : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @negative_not_merged
// CHECK-NOT: qlm.swiglu
func.func @negative_not_merged(%g: tensor<?x6xf32>, %u: tensor<?x6xf32>) -> tensor<?x6xf32> {
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_parts_of_two_linears
// CHECK-NOT: qlm.swiglu
func.func @negative_parts_of_two_linears(%x: tensor<?x12xf32>, %y: tensor<?x12xf32>) -> tensor<?x6xf32> {
  %g, %a = qlm.split %x : tensor<?x12xf32> -> tensor<?x6xf32>, tensor<?x6xf32>
  %b, %u = qlm.split %y : tensor<?x12xf32> -> tensor<?x6xf32>, tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_silu_used
// CHECK-NOT: qlm.swiglu
func.func @negative_silu_used(%x: tensor<?x12xf32>) -> (tensor<?x6xf32>, tensor<?x6xf32>) {
  %g, %u = qlm.split %x : tensor<?x12xf32> -> tensor<?x6xf32>, tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m, %s : tensor<?x6xf32>, tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_no_silu
// CHECK-NOT: qlm.swiglu
func.func @negative_no_silu(%x: tensor<?x12xf32>) -> tensor<?x6xf32> {
  %g, %u = qlm.split %x : tensor<?x12xf32> -> tensor<?x6xf32>, tensor<?x6xf32>
  %m = qlm.mul %g, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}
