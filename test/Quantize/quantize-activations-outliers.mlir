// RUN: quant-opt %s --qlm-quantize-activations="activations=int8-dynamic outlier-threshold=6" | FileCheck %s

#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
#int4 = #qlm.scheme<i4, group, 64, range [-8, 7], bound 7.5, scales f16>
qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"

// CHECK-LABEL: func @int8
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>)
func.func @int8(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  // CHECK: %[[C:.*]], %[[S:.*]], %[[O:.*]] = qlm.dynamic_quantize %[[X]] {scheme = #{{.*}}, threshold = 6.000000e+00 : f32} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>, tensor<?x257xf32>
  // CHECK: %[[R:.*]] = qlm.dequantize %[[C]] scales %[[S]] outliers %[[O]] : tensor<?x257xf32>
  // CHECK: qlm.linear %[[R]],
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int8} : tensor<64x128xbf16> to tensor<64x128xi8>, tensor<64xf32>
  %d = qlm.dequantize %c scales %s {scheme = #int8} : tensor<64x128xi8>, tensor<64xf32> -> tensor<64x128xf32>
  %y = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// Groups don't go with outliers: beside a linear that does, one with groups
// keeps its input.
// CHECK-LABEL: func @negative_groups
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>)
func.func @negative_groups(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int8} : tensor<64x128xbf16> to tensor<64x128xi8>, tensor<64xf32>
  %d = qlm.dequantize %c scales %s {scheme = #int8} : tensor<64x128xi8>, tensor<64xf32> -> tensor<64x128xf32>
  %e, %t = qlm.rtn %w {scheme = #int4} : tensor<64x128xbf16> to tensor<64x128xi4>, tensor<64x2xf16>
  %f = qlm.dequantize %e scales %t {scheme = #int4} : tensor<64x128xi4>, tensor<64x2xf16> -> tensor<64x128xf32>
  %y = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  // CHECK: qlm.linear %[[X]],
  %z = qlm.linear %x, %f : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}
