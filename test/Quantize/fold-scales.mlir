// RUN: quant-opt %s --qlm-fold-scales | FileCheck %s

#int4 = #qlm.scheme<ui4, group, 64, zero_points, range [0, 15], scales f16>
#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>
qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"
qlm.parameter @b : tensor<64xbf16> from "m.safetensors" key "b"

// CHECK-LABEL: func @weight_only
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>, %[[R:.*]]: tensor<?x64xf32>)
func.func @weight_only(%x: tensor<?x128xf32>, %r: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %w = qlm.load @w : tensor<64x128xbf16>
  // CHECK: %[[B:.*]] = qlm.load @b
  %b = qlm.load @b : tensor<64xbf16>
  // CHECK: %[[C:.*]], %[[S:.*]], %[[Z:.*]] = qlm.rtn
  // CHECK-NOT: qlm.dequantize
  // CHECK: qlm.quantized_linear %[[X]], %[[C]] scales %[[S]] zero_points %[[Z]] bias %[[B]] residual %[[R]] {scheme = #{{.*}}<ui4, group, 64,
  %c, %s, %z = qlm.rtn %w {scheme = #int4} : tensor<64x128xbf16> to tensor<64x128xui4>, tensor<64x2xf16>, tensor<64x2xui4>
  %d = qlm.dequantize %c scales %s zero_points %z {scheme = #int4} : tensor<64x128xui4>, tensor<64x2xf16>, tensor<64x2xui4> -> tensor<64x128xf32>
  %y = qlm.linear %x, %d bias %b : tensor<64xbf16> residual %r : tensor<?x64xf32> : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: func @int8_activations
func.func @int8_activations(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  // CHECK: %[[XC:.*]], %[[XS:.*]] = qlm.dynamic_quantize
  %xc, %xs = qlm.dynamic_quantize %x {scheme = #row} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>
  %xd = qlm.dequantize %xc scales %xs {scheme = #row} : tensor<?x128xi8>, tensor<?xf32> -> tensor<?x128xf32>
  %w = qlm.load @w : tensor<64x128xbf16>
  // CHECK: %[[C:.*]], %[[S:.*]] = qlm.rtn
  // CHECK-NOT: qlm.dequantize
  // CHECK: qlm.quantized_linear %[[XC]] input_scales %[[XS]], %[[C]] scales %[[S]] {scheme
  %c, %s = qlm.rtn %w {scheme = #int8} : tensor<64x128xbf16> to tensor<64x128xi8>, tensor<64xf32>
  %d = qlm.dequantize %c scales %s {scheme = #int8} : tensor<64x128xi8>, tensor<64xf32> -> tensor<64x128xf32>
  %y = qlm.linear %xd, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: func @outliers
func.func @outliers(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  // CHECK: %[[XC:.*]], %[[XS:.*]], %[[O:.*]] = qlm.dynamic_quantize
  %xc, %xs, %o = qlm.dynamic_quantize %x {scheme = #row, threshold = 6.0 : f32} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>, tensor<?x257xf32>
  %xd = qlm.dequantize %xc scales %xs outliers %o : tensor<?x257xf32> {scheme = #row} : tensor<?x128xi8>, tensor<?xf32> -> tensor<?x128xf32>
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int8} : tensor<64x128xbf16> to tensor<64x128xi8>, tensor<64xf32>
  // CHECK-NOT: qlm.dequantize
  // CHECK: qlm.quantized_linear %[[XC]] input_scales %[[XS]] outliers %[[O]], %
  %d = qlm.dequantize %c scales %s {scheme = #int8} : tensor<64x128xi8>, tensor<64xf32> -> tensor<64x128xf32>
  %y = qlm.linear %xd, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: func @negative_float_weight
func.func @negative_float_weight(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  // CHECK: %[[W:.*]] = qlm.load @w
  // CHECK: qlm.linear %{{.*}}, %[[W]]
  %w = qlm.load @w : tensor<64x128xbf16>
  %y = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// Values of int8 activations that another operation uses stay.
// CHECK-LABEL: func @negative_shared_activations
func.func @negative_shared_activations(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x128xf32>) {
  %xc, %xs = qlm.dynamic_quantize %x {scheme = #row} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>
  // CHECK: %[[XD:.*]] = qlm.dequantize
  %xd = qlm.dequantize %xc scales %xs {scheme = #row} : tensor<?x128xi8>, tensor<?xf32> -> tensor<?x128xf32>
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int8} : tensor<64x128xbf16> to tensor<64x128xi8>, tensor<64xf32>
  %d = qlm.dequantize %c scales %s {scheme = #int8} : tensor<64x128xi8>, tensor<64xf32> -> tensor<64x128xf32>
  // CHECK: qlm.quantized_linear
  // CHECK: qlm.silu %[[XD]]
  %y = qlm.linear %xd, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  %z = qlm.silu %xd : tensor<?x128xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x128xf32>
}
