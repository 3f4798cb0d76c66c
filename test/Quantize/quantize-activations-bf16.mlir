// RUN: quant-opt %s --qlm-quantize-activations="activations=bf16" | FileCheck %s

#int4 = #qlm.scheme<i4, group, 64, range [-8, 7], bound 7.5, scales f16>
qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"

// Linears of bf16 weights take rounded activations; others stay as they are.
// CHECK-LABEL: func @beside_codes
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>)
// CHECK: %[[SHORT:.*]] = qlm.convert %[[X]] : tensor<?x128xf32> to tensor<?x128xbf16>
// CHECK: %[[ROUNDED:.*]] = qlm.convert %[[SHORT]] : tensor<?x128xbf16> to tensor<?x128xf32>
// CHECK: qlm.linear %[[X]], %{{.*}} : tensor<?x128xf32>, tensor<64x128xf32>
// CHECK: qlm.linear %[[ROUNDED]], %{{.*}} : tensor<?x128xf32>, tensor<64x128xbf16>
func.func @beside_codes(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int4} : tensor<64x128xbf16> to tensor<64x128xi4>, tensor<64x2xf16>
  %d = qlm.dequantize %c scales %s {scheme = #int4} : tensor<64x128xi4>, tensor<64x2xf16> -> tensor<64x128xf32>
  %y = qlm.linear %x, %d : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  %z = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}
