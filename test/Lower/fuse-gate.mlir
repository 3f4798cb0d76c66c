// RUN: quant-opt %s --qlm-fuse-gate --split-input-file --mlir-print-debuginfo --mlir-print-local-scope | FileCheck %s

// CHECK-LABEL: func.func @gate(
// CHECK-SAME: %[[X:.*]]: tensor<?x16xf32> {{.*}}, %[[P:.*]]: tensor<4x16x16xf32>
// CHECK-NEXT: %[[Y:.*]] = qlm.packed_linear %[[X]], %[[P]] {inFeatures = 16 : i64, layout = #qlm.layout<f32x16>, outFeatures = 64 : i64, qlm.gated} : (tensor<?x16xf32>, tensor<4x16x16xf32>) -> tensor<?x32xf32> loc("layers.0.gate_up")
// CHECK-NEXT: return %[[Y]]
func.func @gate(%x: tensor<?x16xf32>, %p: tensor<4x16x16xf32>) -> tensor<?x32xf32> {
  %g = qlm.packed_linear %x, %p {inFeatures = 16 : i64, outFeatures = 64 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<4x16x16xf32>) -> tensor<?x64xf32> loc("layers.0.gate_up")
  %y = qlm.swiglu %g : tensor<?x64xf32> -> tensor<?x32xf32> loc("layers.0.swiglu")
  return %y : tensor<?x32xf32>
}

// -----

// CHECK-LABEL: func.func @rounds_to_bf16(
// CHECK: qlm.packed_linear {{.*}}qlm.gated} {{.*}} -> tensor<?x32xbf16>
// CHECK-NEXT: return
func.func @rounds_to_bf16(%x: tensor<?x16xf32>, %p: tensor<4x16x16xf32>) -> tensor<?x32xbf16> {
  %g = qlm.packed_linear %x, %p {inFeatures = 16 : i64, outFeatures = 64 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<4x16x16xf32>) -> tensor<?x64xf32>
  %y = qlm.swiglu %g : tensor<?x64xf32> -> tensor<?x32xf32>
  %s = qlm.convert %y : tensor<?x32xf32> to tensor<?x32xbf16>
  return %s : tensor<?x32xbf16>
}

// -----

// Another user wants what the gate is made of.
// CHECK-LABEL: func.func @negative_another_user(
// CHECK-NOT: qlm.gated
// CHECK: qlm.swiglu
func.func @negative_another_user(%x: tensor<?x16xf32>, %p: tensor<4x16x16xf32>) -> (tensor<?x32xf32>, tensor<?x64xf32>) {
  %g = qlm.packed_linear %x, %p {inFeatures = 16 : i64, outFeatures = 64 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<4x16x16xf32>) -> tensor<?x64xf32>
  %y = qlm.swiglu %g : tensor<?x64xf32> -> tensor<?x32xf32>
  return %y, %g : tensor<?x32xf32>, tensor<?x64xf32>
}

// -----

// Gate and up share a block.
// CHECK-LABEL: func.func @negative_no_whole_blocks(
// CHECK-NOT: qlm.gated
// CHECK: qlm.swiglu
func.func @negative_no_whole_blocks(%x: tensor<?x16xf32>, %p: tensor<3x16x16xf32>) -> tensor<?x24xf32> {
  %g = qlm.packed_linear %x, %p {inFeatures = 16 : i64, outFeatures = 48 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<3x16x16xf32>) -> tensor<?x48xf32>
  %y = qlm.swiglu %g : tensor<?x48xf32> -> tensor<?x24xf32>
  return %y : tensor<?x24xf32>
}

// -----

// Only a gated result is rounded by the linear.
// CHECK-LABEL: func.func @negative_plain_result(
// CHECK: qlm.convert
func.func @negative_plain_result(%x: tensor<?x16xf32>, %p: tensor<2x16x16xf32>) -> tensor<?x32xbf16> {
  %y = qlm.packed_linear %x, %p {inFeatures = 16 : i64, outFeatures = 32 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x16xf32>, tensor<2x16x16xf32>) -> tensor<?x32xf32>
  %s = qlm.convert %y : tensor<?x32xf32> to tensor<?x32xbf16>
  return %s : tensor<?x32xbf16>
}
