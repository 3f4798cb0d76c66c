// RUN: quant-opt %s --qlm-quantize-activations="activations=int8-dynamic" -verify-diagnostics

qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"

func.func @float_weights(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  %w = qlm.load @w : tensor<64x128xbf16>
  // expected-error @below {{activations=int8-dynamic needs weights of integer codes, got bf16 in linear}}
  // expected-note @below {{choose weights=int8 or weights=int4, or activations=none}}
  %y = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
