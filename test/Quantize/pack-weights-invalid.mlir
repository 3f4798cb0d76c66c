// RUN: quant-opt %s --split-input-file --qlm-pack-weights -verify-diagnostics

#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>

func.func @unfolded(%x: tensor<?x128xf32>, %c: tensor<64x128xi8>, %s: tensor<64xf32>) -> tensor<?x64xf32> {
  %w = qlm.dequantize %c scales %s {scheme = #int8} : tensor<64x128xi8>, tensor<64xf32> -> tensor<64x128xf32>
  // expected-error @below {{weight must be a parameter, got the result of qlm.dequantize}}
  // expected-note @below {{a parameter leads back to qlm.load or a constant}}
  %y = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

qlm.parameter @w : tensor<64x128xf32> from "m.safetensors" key "w"

func.func @bias(%x: tensor<?x128xf32>, %b: tensor<64xf32>) -> tensor<?x64xf32> {
  %w = qlm.load @w : tensor<64x128xf32>
  // expected-error @below {{bias must be a parameter, got an argument}}
  // expected-note @below {{a parameter leads back}}
  %y = qlm.linear %x, %w bias %b : tensor<64xf32> : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

func.func @norm(%x: tensor<?x128xf32>, %w: tensor<128xf32>) -> tensor<?x128xf32> {
  // expected-error @below {{weight must be a parameter, got an argument}}
  // expected-note @below {{a parameter leads back}}
  %y = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x128xf32>, tensor<128xf32>
  return %y : tensor<?x128xf32>
}
