// RUN: quant-opt %s --split-input-file --qlm-quantize-weights="weights=int4" -verify-diagnostics

qlm.parameter @w : tensor<64x172xbf16> from "m.safetensors" key "w"

func.func @groups(%x: tensor<?x172xf32>) -> tensor<?x64xf32> {
  %w = qlm.load @w : tensor<64x172xbf16>
  // expected-error @below {{got 128 and 172 in linear (64x172)}}
  // expected-note @below {{choose a group-size}}
  %y = qlm.linear %x, %w : tensor<?x172xf32>, tensor<64x172xbf16> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

func.func @argument(%x: tensor<?x128xf32>, %w: tensor<64x128xf32>) -> tensor<?x64xf32> {
  // expected-error @below {{weight must be a parameter, got an argument}}
  // expected-note @below {{a parameter leads back to qlm.load or a constant through parameter operations alone}}
  %y = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

func.func @computed(%x: tensor<128x128xf32>) -> tensor<128x128xf32> {
  %w = qlm.silu %x : tensor<128x128xf32>
  // expected-error @below {{weight must be a parameter, got the result of qlm.silu}}
  // expected-note @below {{a parameter leads back}}
  %y = qlm.linear %x, %w : tensor<128x128xf32>, tensor<128x128xf32> -> tensor<128x128xf32>
  return %y : tensor<128x128xf32>
}
