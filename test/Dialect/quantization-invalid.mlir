// RUN: quant-opt %s -split-input-file -verify-diagnostics

// One case a constraint, in the order of QuantizationVerifiers.cpp.

// expected-error @+1 {{type must be a static tensor of f32, f16 or bf16, got 'tensor<?x4xf32>'}}
qlm.parameter @w : tensor<?x4xf32> from "a" key "b"

// -----

// expected-error @+1 {{file must be a relative path without '..', got '../a'}}
qlm.parameter @w : tensor<4xf32> from "../a" key "b"

// -----

// expected-error @+1 {{file must be a relative path without '..', got '/a'}}
qlm.parameter @w : tensor<4xf32> from "/a" key "b"

// -----

func.func @f() {
  // expected-error @+1 {{names no qlm.parameter: @none}}
  %0 = qlm.load @none : tensor<4xf32>
  return
}

// -----

qlm.parameter @w : tensor<4xf32> from "a" key "b"
func.func @f() {
  // expected-error @+1 {{has type 'tensor<5xf32>', but parameter @w has type 'tensor<4xf32>'}}
  %0 = qlm.load @w : tensor<5xf32>
  return
}

// -----

func.func @f(%x: tensor<4xf32>) {
  // expected-error @+1 {{result must have the operand's shape}}
  %0 = qlm.convert %x : tensor<4xf32> to tensor<5xbf16>
  return
}

// -----

func.func @f(%x: tensor<4xf32>) {
  // expected-error @+1 {{result must be [contextLength, 4, 2]}}
  %0 = qlm.rope_table %x : tensor<4xf32> to tensor<9x4x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x12xf32>) {
  // expected-error @+1 {{group size must divide the columns, got 8 and 12}}
  %0, %1 = qlm.rtn %x {scheme = #qlm.scheme<i4, group, 8, range [-8, 7], bound 7.5, scales f16>} : tensor<2x12xf32> to tensor<2x12xi4>, tensor<2x1xf16>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{codes must have the scheme's storage type, got 'i8' and 'i4'}}
  %0, %1 = qlm.rtn %x {scheme = #qlm.scheme<i4, group, 8, range [-8, 7], bound 7.5, scales f16>} : tensor<2x8xf32> to tensor<2x8xi8>, tensor<2x1xf16>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{scales must be tensor<2x1xf16>, got tensor<2x1xf32>}}
  %0, %1 = qlm.rtn %x {scheme = #qlm.scheme<i4, group, 8, range [-8, 7], bound 7.5, scales f16>} : tensor<2x8xf32> to tensor<2x8xi4>, tensor<2x1xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{needs zero points, which its scheme has}}
  %0, %1 = qlm.rtn %x {scheme = #qlm.scheme<ui4, group, 8, zero_points, range [0, 15], scales f16>} : tensor<2x8xf32> to tensor<2x8xui4>, tensor<2x1xf16>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{scheme must not be per row}}
  %0, %1 = qlm.rtn %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<2x8xf32> to tensor<2x8xi8>, tensor<2xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xi8>) {
  // expected-error @+1 {{layout i4x16x8 does not take tensor<2x8xi8>}}
  %0 = qlm.pack %x {layout = #qlm.layout<i4x16x8>, name = "a"} : tensor<2x8xi8> to tensor<1x1x64xi8>
  return
}

// -----

func.func @f(%x: tensor<2x8xi8>) {
  // expected-error @+1 {{result must be tensor<1x2x64xi8>, got tensor<1x1x64xi8>}}
  %0 = qlm.pack %x {layout = #qlm.layout<i8x16x4>, name = "a"} : tensor<2x8xi8> to tensor<1x1x64xi8>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %s: tensor<2xf32>) {
  // expected-error @+1 {{codes must have the input's shape}}
  %0 = qlm.quantize %x scales %s {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<2x8xf32>, tensor<2xf32> -> tensor<2x9xi8>
  return
}

// -----

func.func @f(%x: tensor<2x8xi8>, %s: tensor<2xf32>, %z: tensor<2xi8>) {
  // expected-error @+1 {{has zero points, but its scheme has none}}
  %0 = qlm.dequantize %x scales %s zero_points %z {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<2x8xi8>, tensor<2xf32>, tensor<2xi8> -> tensor<2x8xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{scheme must be <i8, row}}
  %0, %1 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<2x8xf32> -> tensor<2x8xi8>, tensor<2xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{threshold must be positive and finite, got 0}}
  %0, %1, %2 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>, threshold = 0.0 : f32} : tensor<2x8xf32> -> tensor<2x8xi8>, tensor<2xf32>, tensor<2x17xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{has outliers exactly if it has a threshold}}
  %0, %1 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>, threshold = 6.0 : f32} : tensor<2x8xf32> -> tensor<2x8xi8>, tensor<2xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{outliers' columns must be 1 + 2 * features = 17, got 16}}
  %0, %1, %2 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>, threshold = 6.0 : f32} : tensor<2x8xf32> -> tensor<2x8xi8>, tensor<2xf32>, tensor<2x16xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{outliers' rows must be the tokens, got 3 and 2}}
  %0, %1, %2 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>, threshold = 6.0 : f32} : tensor<2x8xf32> -> tensor<2x8xi8>, tensor<2xf32>, tensor<3x17xf32>
  return
}

// -----

func.func @f(%x: tensor<2x16777217xf32>) {
  // expected-error @+1 {{outliers need known features, at most 16777216, got 16777217}}
  %0, %1, %2 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>, threshold = 6.0 : f32} : tensor<2x16777217xf32> -> tensor<2x16777217xi8>, tensor<2xf32>, tensor<2x17xf32>
  return
}

// -----

func.func @f(%c: tensor<2x8xi8>, %s: tensor<2xf32>, %o: tensor<2x17xf32>) {
  // expected-error @+1 {{outliers need a scheme by row}}
  %0 = qlm.dequantize %c scales %s outliers %o : tensor<2x17xf32> {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<2x8xi8>, tensor<2xf32> -> tensor<2x8xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xi8>, %xs: tensor<2xf32>, %o: tensor<2x17xf32>, %c: tensor<3x8xi8>, %s: tensor<3x2xf32>) {
  // expected-error @+1 {{outliers need i8 activations and a weight of 8-bit codes by tensor or channel}}
  %0 = qlm.quantized_linear %x input_scales %xs outliers %o, %c scales %s {scheme = #qlm.scheme<i8, group, 4, range [-127, 127], bound 127.0, scales f32>} : (tensor<2x8xi8>, tensor<2xf32>, tensor<2x17xf32>, tensor<3x8xi8>, tensor<3x2xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %o: tensor<2x17xf32>, %c: tensor<3x8xi8>, %s: tensor<3xf32>) {
  // expected-error @+1 {{outliers need i8 activations and a weight of 8-bit codes by tensor or channel}}
  %0 = qlm.quantized_linear %x outliers %o, %c scales %s {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<2x8xf32>, tensor<2x17xf32>, tensor<3x8xi8>, tensor<3xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xi8>, %c: tensor<3x8xi8>, %s: tensor<3xf32>) {
  // expected-error @+1 {{needs input scales for i8 activations}}
  %0 = qlm.quantized_linear %x, %c scales %s {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<2x8xi8>, tensor<3x8xi8>, tensor<3xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%s: tensor<3x100xf32>) {
  // expected-error @+1 {{super must be tensor<3xf32>, got tensor<2xf32>}}
  %0, %1 = qlm.quantize_scales %s : tensor<3x100xf32> to tensor<3x100xui8>, tensor<2xf32>
  return
}

// -----

func.func @f(%s: tensor<3x100xf32>) {
  // expected-error @+1 {{codes must have the scales' shape, got tensor<3x99xui8> and tensor<3x100xf32>}}
  %0, %1 = qlm.quantize_scales %s : tensor<3x100xf32> to tensor<3x99xui8>, tensor<3xf32>
  return
}

// -----

func.func @f(%c: tensor<300xui8>, %t: tensor<3xf32>) {
  // expected-error @+1 {{scales must be a static matrix, got tensor<300xui8>}}
  %0 = qlm.dequantize_scales %c, %t : tensor<300xui8>, tensor<3xf32> to tensor<300xf32>
  return
}

// -----

func.func @f(%c: tensor<3x100xui8>, %t: tensor<3xf32>) {
  // expected-error @+1 {{result must have the codes' shape, got tensor<100x3xf32> and tensor<3x100xui8>}}
  %0 = qlm.dequantize_scales %c, %t : tensor<3x100xui8>, tensor<3xf32> to tensor<100x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xi8>, %xs: tensor<?xf32>, %c: tensor<3x64xui4>, %s: tensor<3x1xf32>) {
  // expected-error @+1 {{i8 activations need a weight of integer codes, got #qlm.scheme<ui4, group, 64, nf4, scales f32>}}
  %0 = qlm.quantized_linear %x input_scales %xs, %c scales %s {scheme = #qlm.scheme<ui4, group, 64, nf4, scales f32>} : (tensor<?x64xi8>, tensor<?xf32>, tensor<3x64xui4>, tensor<3x1xf32>) -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%s: tensor<2xf32>) {
  // expected-error @+1 {{result must be tensor<1x1x16xf32>, got tensor<4x1x16xf32>}}
  %0 = qlm.pack %s {layout = #qlm.layout<scale16>, name = "s"} : tensor<2xf32> to tensor<4x1x16xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{scheme must be <i8, row, range [-127, 127], bound 127.0, scales f32> or <f8E4M3FN, row, bound 448.0, scales f32>, got #qlm.scheme<f8E4M3FN, row, bound 2.400000e+02, scales f32>}}
  %0, %1 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<f8E4M3FN, row, bound 240.0, scales f32>} : tensor<2x8xf32> -> tensor<2x8xf8E4M3FN>, tensor<2xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>) {
  // expected-error @+1 {{threshold needs i8 codes, got 'f8E4M3FN'}}
  %0, %1, %2 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<f8E4M3FN, row, bound 448.0, scales f32>, threshold = 6.0 : f32} : tensor<2x8xf32> -> tensor<2x8xf8E4M3FN>, tensor<2xf32>, tensor<2x17xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf8E4M3FN>, %xs: tensor<2xf32>, %c: tensor<3x8xi8>, %s: tensor<3xf32>) {
  // expected-error @+1 {{f8E4M3FN activations need a weight of f8E4M3FN, got #qlm.scheme<i8, channel}}
  %0 = qlm.quantized_linear %x input_scales %xs, %c scales %s {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<2x8xf8E4M3FN>, tensor<2xf32>, tensor<3x8xi8>, tensor<3xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf8E4M3FN>, %c: tensor<3x8xf8E4M3FN>, %s: tensor<3xf32>) {
  // expected-error @+1 {{needs input scales for f8E4M3FN activations}}
  %0 = qlm.quantized_linear %x, %c scales %s {scheme = #qlm.scheme<f8E4M3FN, channel, bound 448.0, scales f32>} : (tensor<2x8xf8E4M3FN>, tensor<3x8xf8E4M3FN>, tensor<3xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %a: tensor<1xf32>) {
  // expected-error @+1 {{scheme must be <i8, row, range [-127, 127], bound 127.0, scales f32>, got #qlm.scheme<f8E4M3FN, row}}
  %0, %1 = qlm.static_quantize %x scale %a {scheme = #qlm.scheme<f8E4M3FN, row, bound 448.0, scales f32>} : tensor<2x8xf32>, tensor<1xf32> -> tensor<2x8xf8E4M3FN>, tensor<2xf32>
  return
}
