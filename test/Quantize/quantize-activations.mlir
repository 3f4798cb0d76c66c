// RUN: quant-opt %s --qlm-quantize-activations="activations=int8-dynamic" | FileCheck %s
// RUN: quant-opt %s --qlm-quantize-activations | FileCheck %s --check-prefix=NONE

// NONE-NOT: qlm.dynamic_quantize
// NONE-NOT: qlm.convert

#int4 = #qlm.scheme<i4, group, 64, range [-8, 7], bound 7.5, scales f16>
qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"

// CHECK-LABEL: func @shared
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>)
func.func @shared(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  // CHECK: %[[CODES:.*]], %[[SCALES:.*]] = qlm.dynamic_quantize %[[X]] {scheme = #{{.*}}<i8, row, range [-127, 127], bound 1.270000e+02, scales f32>} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>
  // CHECK: %[[ROUNDED:.*]] = qlm.dequantize %[[CODES]] scales %[[SCALES]]
  // CHECK-NOT: qlm.dynamic_quantize
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int4} : tensor<64x128xbf16> to tensor<64x128xi4>, tensor<64x2xf16>
  %d = qlm.dequantize %c scales %s {scheme = #int4} : tensor<64x128xi4>, tensor<64x2xf16> -> tensor<64x128xf32>
  // CHECK: qlm.linear %[[ROUNDED]],
  // CHECK: qlm.linear %[[ROUNDED]],
  %y = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  %z = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func @negative_float_weight
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>)
func.func @negative_float_weight(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int4} : tensor<64x128xbf16> to tensor<64x128xi4>, tensor<64x2xf16>
  %d = qlm.dequantize %c scales %s {scheme = #int4} : tensor<64x128xi4>, tensor<64x2xf16> -> tensor<64x128xf32>
  %y = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  // CHECK: qlm.linear %[[X]], %{{.*}} : tensor<?x128xf32>, tensor<64x128xbf16>
  %z = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func @negative_no_linear
// CHECK-NEXT: return
func.func @negative_no_linear(%x: tensor<?x128xf32>) -> tensor<?x128xf32> {
  return %x : tensor<?x128xf32>
}
