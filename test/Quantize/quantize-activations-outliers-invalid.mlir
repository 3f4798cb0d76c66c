// RUN: quant-opt %s --qlm-quantize-activations="activations=int8-dynamic outlier-threshold=6" -verify-diagnostics
// RUN: not quant-opt %s --qlm-quantize-activations="activations=int8-dynamic outlier-threshold=-1" 2>&1 | FileCheck %s --check-prefix=NEGATIVE
// RUN: not quant-opt %s --qlm-quantize-activations="activations=none outlier-threshold=6" 2>&1 | FileCheck %s --check-prefix=FLOAT

// NEGATIVE: outlier-threshold must be a number that is not negative, got -1
// FLOAT: outlier-threshold needs activations=int8-dynamic, got none

#int4 = #qlm.scheme<i4, group, 64, range [-8, 7], bound 7.5, scales f16>
qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"

func.func @groups(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  %w = qlm.load @w : tensor<64x128xbf16>
  %e, %t = qlm.rtn %w {scheme = #int4} : tensor<64x128xbf16> to tensor<64x128xi4>, tensor<64x2xf16>
  %f = qlm.dequantize %e scales %t {scheme = #int4} : tensor<64x128xi4>, tensor<64x2xf16> -> tensor<64x128xf32>
  // expected-error @below {{outlier-threshold needs weights of 8-bit codes by channel or tensor, got int4-g64 in linear}}
  // expected-note @below {{choose weights=int8, or no threshold}}
  %y = qlm.linear %x, %f : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
