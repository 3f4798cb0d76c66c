// RUN: quant-opt %s --qlm-quantize-activations="activations=fp8-dynamic" --qlm-fold-scales | FileCheck %s
// RUN: quant-opt %s --qlm-quantize-activations="activations=fp8-dynamic" --qlm-fold-scales --qlm-pack-weights | FileCheck %s --check-prefix=CPU
// RUN: quant-opt %s --qlm-quantize-activations="activations=fp8-dynamic" --qlm-fold-scales --qlm-pack-weights=target=cuda | FileCheck %s --check-prefix=GPU

#fp8 = #qlm.scheme<f8E4M3FN, channel, bound 448.0, scales f32>
#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"

// Both linears multiply the same codes; weights stand in the order of 8-bit
// tensor cores on a GPU.
// CHECK-LABEL: func @shared
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>)
// CHECK: %[[CODES:.*]], %[[SCALES:.*]] = qlm.dynamic_quantize %[[X]] {scheme = #{{.*}}<f8E4M3FN, row, bound 4.480000e+02, scales f32>} : tensor<?x128xf32> -> tensor<?x128xf8E4M3FN>, tensor<?xf32>
// CHECK-NOT: qlm.dynamic_quantize
// CHECK: qlm.quantized_linear %[[CODES]] input_scales %[[SCALES]], %{{.*}} : (tensor<?x128xf8E4M3FN>, tensor<?xf32>, tensor<64x128xf8E4M3FN>, tensor<64xf32>)
// CHECK: qlm.quantized_linear %[[CODES]] input_scales %[[SCALES]],
// CPU: layout = #{{.*}}<f8x16x4>
// GPU: qlm.packed_linear {{.*}} layout = #{{.*}}<frag8x8>{{.*}} : (tensor<?x128xf8E4M3FN>, tensor<?xf32>, tensor<4x4x512xi8>,
func.func @shared(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #fp8} : tensor<64x128xbf16> to tensor<64x128xf8E4M3FN>, tensor<64xf32>
  %d = qlm.dequantize %c scales %s {scheme = #fp8} : tensor<64x128xf8E4M3FN>, tensor<64xf32> -> tensor<64x128xf32>
  %y = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  %z = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func @negative_integer_weight
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>)
// CHECK: qlm.quantized_linear %[[X]], %{{.*}} : (tensor<?x128xf32>, tensor<64x128xi8>, tensor<64xf32>)
func.func @negative_integer_weight(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int8} : tensor<64x128xbf16> to tensor<64x128xi8>, tensor<64xf32>
  %d = qlm.dequantize %c scales %s {scheme = #int8} : tensor<64x128xi8>, tensor<64xf32> -> tensor<64x128xf32>
  %e, %t = qlm.rtn %w {scheme = #fp8} : tensor<64x128xbf16> to tensor<64x128xf8E4M3FN>, tensor<64xf32>
  %f = qlm.dequantize %e scales %t {scheme = #fp8} : tensor<64x128xf8E4M3FN>, tensor<64xf32> -> tensor<64x128xf32>
  %y = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  %z = qlm.linear %x, %f : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}
