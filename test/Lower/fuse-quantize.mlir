// RUN: quant-opt %s --qlm-fuse-quantize --mlir-print-debuginfo --mlir-print-local-scope | FileCheck %s

#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>

// CHECK-LABEL: func.func @norm(
// CHECK-SAME: %[[X:.*]]: tensor<?x64xf32> {{.*}}, %[[W:.*]]: tensor<64xf32>
// CHECK-NEXT: %[[C:.*]], %[[S:.*]] = qlm.rms_norm_quantize %[[X]], %[[W]] {epsilon = 5.000000e-01 : f32, scheme = #qlm.scheme<i8, row, {{.*}}>} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xi8>, tensor<?xf32> loc("layers.0.mlp_norm")
// CHECK-NEXT: return %[[C]], %[[S]]
func.func @norm(%x: tensor<?x64xf32>, %w: tensor<64xf32>) -> (tensor<?x64xi8>, tensor<?xf32>) {
  %n = qlm.rms_norm %x, %w {epsilon = 0.5 : f32} : tensor<?x64xf32>, tensor<64xf32> loc("layers.0.mlp_norm")
  %c, %s = qlm.dynamic_quantize %n {scheme = #row} : tensor<?x64xf32> -> tensor<?x64xi8>, tensor<?xf32> loc("layers.0.gate_up")
  return %c, %s : tensor<?x64xi8>, tensor<?xf32>
}

// CHECK-LABEL: func.func @norm_of_selected_rows(
// CHECK-SAME: %[[X:.*]]: tensor<?x64xf32> {{.*}}, %[[W:.*]]: tensor<64xf32> {{.*}}, %[[R:.*]]: tensor<?xi32>
// CHECK-NEXT: qlm.rms_norm_quantize %[[X]], %[[W]] rows %[[R]] : tensor<?xi32> {{.*}} loc("norm")
// CHECK-NEXT: return
func.func @norm_of_selected_rows(%x: tensor<?x64xf32>, %w: tensor<64xf32>, %r: tensor<?xi32>) -> (tensor<?x64xi8>, tensor<?xf32>) {
  %y = qlm.select_rows %x, %r : tensor<?x64xf32>, tensor<?xi32> -> tensor<?x64xf32> loc("select_rows")
  %n = qlm.rms_norm %y, %w {epsilon = 0.5 : f32} : tensor<?x64xf32>, tensor<64xf32> loc("norm")
  %c, %s = qlm.dynamic_quantize %n {scheme = #row} : tensor<?x64xf32> -> tensor<?x64xi8>, tensor<?xf32> loc("lm_head")
  return %c, %s : tensor<?x64xi8>, tensor<?xf32>
}

// CHECK-LABEL: func.func @swiglu(
// CHECK-SAME: %[[X:.*]]: tensor<?x64xf32>
// CHECK-NEXT: %[[C:.*]], %[[S:.*]] = qlm.swiglu_quantize %[[X]] {scheme = #qlm.scheme<i8, row, {{.*}}>} : tensor<?x64xf32> -> tensor<?x32xi8>, tensor<?xf32> loc("layers.0.swiglu")
// CHECK-NEXT: return %[[C]], %[[S]]
func.func @swiglu(%x: tensor<?x64xf32>) -> (tensor<?x32xi8>, tensor<?xf32>) {
  %y = qlm.swiglu %x : tensor<?x64xf32> -> tensor<?x32xf32> loc("layers.0.swiglu")
  %c, %s = qlm.dynamic_quantize %y {scheme = #row} : tensor<?x32xf32> -> tensor<?x32xi8>, tensor<?xf32> loc("layers.0.down")
  return %c, %s : tensor<?x32xi8>, tensor<?xf32>
}

// CHECK-LABEL: func.func @outliers(
// CHECK-NEXT: %[[C:.*]], %[[S:.*]], %[[O:.*]] = qlm.rms_norm_quantize {{.*}}threshold = 6.000000e+00 : f32} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xi8>, tensor<?xf32>, tensor<?x129xf32>
// CHECK-NEXT: %[[D:.*]], %[[T:.*]], %[[P:.*]] = qlm.swiglu_quantize {{.*}}threshold = 7.000000e+00 : f32} : tensor<?x64xf32> -> tensor<?x32xi8>, tensor<?xf32>, tensor<?x65xf32>
// CHECK-NEXT: return %[[C]], %[[S]], %[[O]], %[[D]], %[[T]], %[[P]]
func.func @outliers(%x: tensor<?x64xf32>, %w: tensor<64xf32>) -> (tensor<?x64xi8>, tensor<?xf32>, tensor<?x129xf32>, tensor<?x32xi8>, tensor<?xf32>, tensor<?x65xf32>) {
  %n = qlm.rms_norm %x, %w {epsilon = 0.5 : f32} : tensor<?x64xf32>, tensor<64xf32>
  %c, %s, %o = qlm.dynamic_quantize %n {scheme = #row, threshold = 6.0 : f32} : tensor<?x64xf32> -> tensor<?x64xi8>, tensor<?xf32>, tensor<?x129xf32>
  %y = qlm.swiglu %x : tensor<?x64xf32> -> tensor<?x32xf32>
  %d, %t, %p = qlm.dynamic_quantize %y {scheme = #row, threshold = 7.0 : f32} : tensor<?x32xf32> -> tensor<?x32xi8>, tensor<?xf32>, tensor<?x65xf32>
  return %c, %s, %o, %d, %t, %p : tensor<?x64xi8>, tensor<?xf32>, tensor<?x129xf32>, tensor<?x32xi8>, tensor<?xf32>, tensor<?x65xf32>
}

// The rows are selected for somebody else too, who keeps them.
// CHECK-LABEL: func.func @negative_selected_rows_have_another_user(
// CHECK: %[[Y:.*]] = qlm.select_rows
// CHECK-NEXT: qlm.rms_norm_quantize %[[Y]], %{{[^ ]*}} {epsilon
func.func @negative_selected_rows_have_another_user(%x: tensor<?x64xf32>, %w: tensor<64xf32>, %r: tensor<?xi32>) -> (tensor<?x64xi8>, tensor<?xf32>, tensor<?x64xf32>) {
  %y = qlm.select_rows %x, %r : tensor<?x64xf32>, tensor<?xi32> -> tensor<?x64xf32>
  %n = qlm.rms_norm %y, %w {epsilon = 0.5 : f32} : tensor<?x64xf32>, tensor<64xf32>
  %c, %s = qlm.dynamic_quantize %n {scheme = #row} : tensor<?x64xf32> -> tensor<?x64xi8>, tensor<?xf32>
  return %c, %s, %y : tensor<?x64xi8>, tensor<?xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func.func @negative_norm_has_another_user(
// CHECK: qlm.rms_norm %
// CHECK: qlm.dynamic_quantize
func.func @negative_norm_has_another_user(%x: tensor<?x64xf32>, %w: tensor<64xf32>) -> (tensor<?x64xi8>, tensor<?xf32>, tensor<?x64xf32>) {
  %n = qlm.rms_norm %x, %w {epsilon = 0.5 : f32} : tensor<?x64xf32>, tensor<64xf32>
  %c, %s = qlm.dynamic_quantize %n {scheme = #row} : tensor<?x64xf32> -> tensor<?x64xi8>, tensor<?xf32>
  return %c, %s, %n : tensor<?x64xi8>, tensor<?xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func.func @negative_swiglu_has_another_user(
// CHECK: qlm.swiglu %
// CHECK: qlm.dynamic_quantize
func.func @negative_swiglu_has_another_user(%x: tensor<?x64xf32>) -> (tensor<?x32xi8>, tensor<?xf32>, tensor<?x32xf32>) {
  %y = qlm.swiglu %x : tensor<?x64xf32> -> tensor<?x32xf32>
  %c, %s = qlm.dynamic_quantize %y {scheme = #row} : tensor<?x32xf32> -> tensor<?x32xi8>, tensor<?xf32>
  return %c, %s, %y : tensor<?x32xi8>, tensor<?xf32>, tensor<?x32xf32>
}

// CHECK-LABEL: func.func @negative_other_input(
// CHECK: qlm.dynamic_quantize
func.func @negative_other_input(%x: tensor<?x32xf32>) -> (tensor<?x32xi8>, tensor<?xf32>) {
  %c, %s = qlm.dynamic_quantize %x {scheme = #row} : tensor<?x32xf32> -> tensor<?x32xi8>, tensor<?xf32>
  return %c, %s : tensor<?x32xi8>, tensor<?xf32>
}
