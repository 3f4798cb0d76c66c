// RUN: quant-opt %s -split-input-file -verify-diagnostics

// One case a constraint, in the order of the verifiers.

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

func.func @f(%t: tensor<?xi32>, %x: tensor<9x4xf32>) {
  // expected-error @+1 {{result's features must be the table's columns, got 5 and 4}}
  %0 = qlm.embedding %t, %x : tensor<?xi32>, tensor<9x4xf32> -> tensor<?x5xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>, %w: tensor<3x5xf32>) {
  // expected-error @+1 {{input's features must be the weight's columns, got 4 and 5}}
  %0 = qlm.linear %x, %w : tensor<?x4xf32>, tensor<3x5xf32> -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x5xf32>, %w: tensor<3x5xf32>, %b: tensor<4xf32>) {
  // expected-error @+1 {{bias size must be the weight's rows, got 4 and 3}}
  %0 = qlm.linear %x, %w bias %b : tensor<4xf32> : tensor<?x5xf32>, tensor<3x5xf32> -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x5xf32>, %w: tensor<3x5xf32>, %b: tensor<?x5xf32>) {
  // expected-error @+1 {{residual must have the result's type}}
  %0 = qlm.linear %x, %w residual %b : tensor<?x5xf32> : tensor<?x5xf32>, tensor<3x5xf32> -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x5xf32>, %w: tensor<5xf32>) {
  // expected-error @+1 {{epsilon must be positive, got 0}}
  %0 = qlm.rms_norm %x, %w {epsilon = 0.0 : f32} : tensor<?x5xf32>, tensor<5xf32>
  return
}

// -----

func.func @f(%x: tensor<?x5xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{weight size must be the input's features, got 4 and 5}}
  %0 = qlm.rms_norm %x, %w {epsilon = 1.0 : f32} : tensor<?x5xf32>, tensor<4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %p: tensor<?xi32>, %f: tensor<3xf32>) {
  // expected-error @+1 {{head size must divide the features, got 6 and 16}}
  %0 = qlm.rope %x, %p, %f : tensor<?x16xf32>, tensor<?xi32>, tensor<3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %k: tensor<?x12xf32>) {
  // expected-error @+1 {{kv_heads must divide heads, got 3 and 4}}
  %0 = qlm.attention %x, %k, %k heads 4 kv_heads 3 scale 1.0 : tensor<?x16xf32>, tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{heads must divide the query's features, got 5 and 16}}
  %0 = qlm.attention %x, %x, %x heads 5 kv_heads 5 scale 1.0 : tensor<?x16xf32>, tensor<?x16xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %k: tensor<?x12xf32>) {
  // expected-error @+1 {{keys and values must have kv_heads * head size = 8 features, got 12}}
  %0 = qlm.attention %x, %k, %k heads 4 kv_heads 2 scale 1.0 : tensor<?x16xf32>, tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{input must have twice the result's features, got 8 and 3}}
  %0 = qlm.swiglu %x : tensor<?x8xf32> -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{parts must add up to the features, got 7 and 8}}
  %0, %1 = qlm.split %x : tensor<?x8xf32> -> tensor<?x3xf32>, tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{result must be [heads * repeat, tokens, headDim]}}
  %0 = qlm.split_heads %x repeat 2 : tensor<?x8xf32> -> tensor<3x?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<2x?x4xf32>) {
  // expected-error @+1 {{result's features must be heads * head size, got 9 and 8}}
  %0 = qlm.merge_heads %x : tensor<2x?x4xf32> -> tensor<?x9xf32>
  return
}

// -----

func.func @f(%x: tensor<2x?x4xf32>, %y: tensor<2x5x?xf32>) {
  // expected-error @+1 {{right inner size must be the left inner size, got 5 and 4}}
  %0 = qlm.matmul %x, %y : tensor<2x?x4xf32>, tensor<2x5x?xf32> -> tensor<2x?x?xf32>
  return
}

// -----

func.func @f(%x: tensor<2x3x4xf32>) {
  // expected-error @+1 {{number of keys must be the number of queries, got 4 and 3}}
  %0 = qlm.causal_mask %x : tensor<2x3x4xf32>
  return
}

// -----

func.func @f(%x: tensor<*xf32>) {
  // expected-error @+1 {{input must have rank 1 to 4, got tensor<*xf32>}}
  %0 = qlm.softmax %x : tensor<*xf32>
  return
}

// -----

func.func @f(%x: tensor<*xf32>) {
  // expected-error @+1 {{operands must be ranked tensors}}
  %0 = qlm.add %x, %x : tensor<*xf32>
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

func.func @f(%x: tensor<2x16xf32>) {
  // expected-error @+1 {{has outliers exactly if it has a threshold}}
  %0, %1, %2 = qlm.swiglu_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<2x16xf32> -> tensor<2x8xi8>, tensor<2xf32>, tensor<2x17xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xi8>, %c: tensor<3x8xi8>, %s: tensor<3xf32>) {
  // expected-error @+1 {{needs input scales for i8 activations}}
  %0 = qlm.quantized_linear %x, %c scales %s {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<2x8xi8>, tensor<3x8xi8>, tensor<3xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %c: tensor<1x2x64xi8>, %s: tensor<1x1x16xf32>) {
  // expected-error @+1 {{layout must be i8x16x4 for 'i8', got i4x16x8}}
  %0 = qlm.packed_linear %x, %c scales %s {inFeatures = 8 : i64, outFeatures = 3 : i64, layout = #qlm.layout<i4x16x8>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<2x8xf32>, tensor<1x2x64xi8>, tensor<1x1x16xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %c: tensor<1x8x16xf32>, %s: tensor<1x1x16xf32>) {
  // expected-error @+1 {{has scales exactly if it has a scheme}}
  %0 = qlm.packed_linear %x, %c scales %s {inFeatures = 8 : i64, outFeatures = 3 : i64, layout = #qlm.layout<f32x16>} : (tensor<2x8xf32>, tensor<1x8x16xf32>, tensor<1x1x16xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %c: tensor<1x8x16xf32>) {
  // expected-error @+1 {{features must be positive, got 0 in and 3 out}}
  %0 = qlm.packed_linear %x, %c {inFeatures = 0 : i64, outFeatures = 3 : i64, layout = #qlm.layout<f32x16>} : (tensor<2x8xf32>, tensor<1x8x16xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>, %r: tensor<?xi32>) {
  // expected-error @+1 {{result's features must be the input's features, got 5 and 4}}
  %0 = qlm.select_rows %x, %r : tensor<?x4xf32>, tensor<?xi32> -> tensor<?x5xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>, %w: tensor<5xf32>) {
  // expected-error @+1 {{weight size must be the input's features, got 5 and 4}}
  %0, %1 = qlm.rms_norm_quantize %x, %w {epsilon = 1.0 : f32, scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<?x4xf32>, tensor<5xf32> -> tensor<?x4xi8>, tensor<?xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{epsilon must be positive, got -1.000000e+00}}
  %0, %1 = qlm.rms_norm_quantize %x, %w {epsilon = -1.0 : f32, scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xi8>, tensor<?xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{codes' features must be the input's features, got 5 and 4}}
  %0, %1 = qlm.rms_norm_quantize %x, %w {epsilon = 1.0 : f32, scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x5xi8>, tensor<?xf32>
  return
}

// -----

func.func @f(%x: tensor<3x4xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{codes' rows must be the input's tokens, got 2 and 3}}
  %0, %1 = qlm.rms_norm_quantize %x, %w {epsilon = 1.0 : f32, scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<3x4xf32>, tensor<4xf32> -> tensor<2x4xi8>, tensor<2xf32>
  return
}

// -----

func.func @f(%x: tensor<3x4xf32>, %w: tensor<4xf32>, %r: tensor<2xi32>) {
  // expected-error @+1 {{codes' rows must be the number of rows, got 3 and 2}}
  %0, %1 = qlm.rms_norm_quantize %x, %w rows %r : tensor<2xi32> {epsilon = 1.0 : f32, scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<3x4xf32>, tensor<4xf32> -> tensor<3x4xi8>, tensor<3xf32>
  return
}

// -----

func.func @f(%x: tensor<3x4xf32>, %w: tensor<4xf32>, %r: tensor<2x1xi32>) {
  // expected-error @+1 {{rows must have rank 1, got tensor<2x1xi32>}}
  %0, %1 = qlm.rms_norm_quantize %x, %w rows %r : tensor<2x1xi32> {epsilon = 1.0 : f32, scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<3x4xf32>, tensor<4xf32> -> tensor<2x4xi8>, tensor<2xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{scheme must be <i8, row, range [-127, 127], bound 127.0, scales f32> or <f8E4M3FN, row, bound 448.0, scales f32>, got #qlm.scheme<i8, channel, range [-127, 127], bound 1.270000e+02, scales f32>}}
  %0, %1 = qlm.rms_norm_quantize %x, %w {epsilon = 1.0 : f32, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xi8>, tensor<?xf32>
  return
}

// -----

func.func @f(%x: tensor<3x4xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{scales must be tensor<3xf32>, got tensor<2xf32>}}
  %0, %1 = qlm.rms_norm_quantize %x, %w {epsilon = 1.0 : f32, scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<3x4xf32>, tensor<4xf32> -> tensor<3x4xi8>, tensor<2xf32>
  return
}

// -----

func.func @f(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{input must have twice the codes' features, got 8 and 3}}
  %0, %1 = qlm.swiglu_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<?x8xf32> -> tensor<?x3xi8>, tensor<?xf32>
  return
}

// -----

func.func @f(%x: tensor<3x8xf32>) {
  // expected-error @+1 {{codes' rows must be the input's tokens, got 2 and 3}}
  %0, %1 = qlm.swiglu_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<3x8xf32> -> tensor<2x4xi8>, tensor<2xf32>
  return
}

// -----

func.func @f(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{scheme must be <i8, row, range [-127, 127], bound 127.0, scales f32> or <f8E4M3FN, row, bound 448.0, scales f32>, got #qlm.scheme<i8, row, range [-126, 127], bound 1.270000e+02, scales f32>}}
  %0, %1 = qlm.swiglu_quantize %x {scheme = #qlm.scheme<i8, row, range [-126, 127], bound 127.0, scales f32>} : tensor<?x8xf32> -> tensor<?x4xi8>, tensor<?xf32>
  return
}

// -----

func.func @f(%x: tensor<3x8xf32>) {
  // expected-error @+1 {{scales must be tensor<3xf32>, got tensor<3x1xf32>}}
  %0, %1 = qlm.swiglu_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<3x8xf32> -> tensor<3x4xi8>, tensor<3x1xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %c: tensor<5x2x1x255xf32>, %p: tensor<?xi32>, %b: tensor<?x?xi32>) {
  // expected-error @+1 {{cache must be [pages, 2, 1, 256], got tensor<5x2x1x255xf32>}}
  %0 = qlm.paged_attention %x, %c at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 scale 1.0 : (tensor<?x64xf32>, tensor<5x2x1x255xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %c: tensor<5x2x1x256xi8>, %p: tensor<?xi32>, %b: tensor<?x?xi32>) {
  // expected-error @+1 {{cache must be [pages, 2, 1, 320], got tensor<5x2x1x256xi8>}}
  %0 = qlm.paged_attention %x, %c at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 codes i8 scale 1.0 : (tensor<?x64xf32>, tensor<5x2x1x256xi8>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %c: tensor<5x2x1x320xi8>, %p: tensor<?xi32>, %b: tensor<?x?xi32>) {
  // expected-error @+1 {{cache must have i8 elements exactly if it has codes, got 'i8'}}
  %0 = qlm.paged_attention %x, %c at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 scale 1.0 : (tensor<?x64xf32>, tensor<5x2x1x320xi8>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %c: tensor<5x2x1x320xi8>, %p: tensor<?xi32>, %b: tensor<?x?xi32>) {
  // expected-error @+1 {{codes must be i8 or f8E4M3FN, got 'f8E5M2'}}
  %0 = qlm.paged_attention %x, %c at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 codes f8E5M2 scale 1.0 : (tensor<?x64xf32>, tensor<5x2x1x320xi8>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x95xf32>, %t: tensor<32x8x2xf32>, %c: tensor<5x2x1x256xf32>, %p: tensor<?xi32>, %b: tensor<?x?xi32>) {
  // expected-error @+1 {{qkv's features must be (heads + 2 * kv_heads) * head size, got 95 and 96}}
  %0, %1 = qlm.rope_append %x, %t, %c at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 : (tensor<?x95xf32>, tensor<32x8x2xf32>, tensor<5x2x1x256xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x64xf32>, tensor<5x2x1x256xf32>)
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{argument #qlm.arg<weight, 1> is out of range: the launch has 0 weights}}
  qlm.launch @k "a" tiles <1 * one, block 1> args [#qlm.arg<weight, 1>] {bytes = 0 : i64, flopsPerRow = 0 : i64}
  return
}

// -----

// expected-error @+1 {{storage must be i8, i4, ui8, ui4 or f8E4M3FN, got 'i16'}}
func.func @f() attributes {s = #qlm.scheme<i16, channel, range [-127, 127], bound 127.0, scales f32>} {
  return
}

// -----

// expected-error @+1 {{zero points need unsigned storage}}
func.func @f() attributes {s = #qlm.scheme<i4, channel, zero_points, range [0, 7], scales f32>} {
  return
}

// -----

// expected-error @+1 {{range must lie in [-8, 7] and hold 0, got [-9, 7]}}
func.func @f() attributes {s = #qlm.scheme<i4, channel, range [-9, 7], bound 7.5, scales f32>} {
  return
}

// -----

// expected-error @+1 {{group size must be positive, got 0}}
func.func @f() attributes {s = #qlm.scheme<i4, group, 0, range [-8, 7], bound 7.5, scales f32>} {
  return
}

// -----

// expected-error @+1 {{bound must be positive}}
func.func @f() attributes {s = #qlm.scheme<i4, channel, range [-8, 7], bound -1.0, scales f32>} {
  return
}

// -----

// expected-error @+1 {{scales must be f32 or f16, got 'bf16'}}
func.func @f() attributes {s = #qlm.scheme<i4, channel, range [-8, 7], bound 7.5, scales bf16>} {
  return
}

// -----

// expected-error @+1 {{unknown granularity 'rows', expected tensor, channel, group or row}}
func.func @f() attributes {s = #qlm.scheme<i4, rows, range [-8, 7], bound 7.5, scales f16>} {
  return
}

// -----

// expected-error @+1 {{storage must be ui4 with nf4, got 'i4'}}
func.func @f() attributes {s = #qlm.scheme<i4, group, 64, nf4, scales f32>} {
  return
}

// -----

// expected-error @+1 {{storage must be i8, i4, ui8, ui4 or f8E4M3FN, got 'bf16'}}
func.func @f() attributes {s = #qlm.scheme<bf16, channel, bound 448.0, scales f32>} {
  return
}

// -----

// expected-error @+1 {{zero points need a uniform scheme}}
func.func @f() attributes {s = #qlm.scheme<ui4, group, 64, zero_points, nf4, scales f32>} {
  return
}

// -----

// expected-error @+1 {{a scheme by row is of activations and has no table}}
func.func @f() attributes {s = #qlm.scheme<ui4, row, nf4, scales f32>} {
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

func.func @f(%x: tensor<2x64xf32>, %c: tensor<1x8x64xi8>, %s: tensor<1x1x16xi8>, %t: tensor<3xf32>) {
  // expected-error @+1 {{super scales must be tensor<2xf32>, got tensor<3xf32>}}
  %0 = qlm.packed_linear %x, %c scales %s super_scales %t {inFeatures = 64 : i64, outFeatures = 3 : i64, layout = #qlm.layout<i4x16x8>, scheme = #qlm.scheme<ui4, group, 64, nf4, scales f32>} : (tensor<2x64xf32>, tensor<1x8x64xi8>, tensor<1x1x16xi8>, tensor<3xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x64xf32>, %c: tensor<1x16x64xi8>, %s: tensor<1x1x16xi8>, %t: tensor<2xf32>) {
  // expected-error @+1 {{super scales need f32 scales by groups, got #qlm.scheme<i8, channel}}
  %0 = qlm.packed_linear %x, %c scales %s super_scales %t {inFeatures = 64 : i64, outFeatures = 3 : i64, layout = #qlm.layout<i8x16x4>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>} : (tensor<2x64xf32>, tensor<1x16x64xi8>, tensor<1x1x16xi8>, tensor<2xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%s: tensor<2xf32>) {
  // expected-error @+1 {{result must be tensor<1x1x16xf32>, got tensor<4x1x16xf32>}}
  %0 = qlm.pack %s {layout = #qlm.layout<scale16>, name = "s"} : tensor<2xf32> to tensor<4x1x16xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %c: tensor<3x8x16xf32>) {
  // expected-error @+1 {{gated out features must be a multiple of 32, got 48}}
  %0 = qlm.packed_linear %x, %c {qlm.gated, inFeatures = 8 : i64, outFeatures = 48 : i64, layout = #qlm.layout<f32x16>} : (tensor<2x8xf32>, tensor<3x8x16xf32>) -> tensor<2x24xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %c: tensor<2x8x16xf32>, %r: tensor<2x16xf32>) {
  // expected-error @+1 {{is gated and has a residual}}
  %0 = qlm.packed_linear %x, %c residual %r {qlm.gated, inFeatures = 8 : i64, outFeatures = 32 : i64, layout = #qlm.layout<f32x16>} : (tensor<2x8xf32>, tensor<2x8x16xf32>, tensor<2x16xf32>) -> tensor<2x16xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %c: tensor<2x8x16xf32>) {
  // expected-error @+1 {{result's features must be the weight's rows}}
  %0 = qlm.packed_linear %x, %c {qlm.gated, inFeatures = 8 : i64, outFeatures = 32 : i64, layout = #qlm.layout<f32x16>} : (tensor<2x8xf32>, tensor<2x8x16xf32>) -> tensor<2x32xf32>
  return
}

// -----

func.func @f(%q: tensor<?x64xf32>) {
  // expected-error @+1 {{window must be positive, got 0}}
  %0 = qlm.attention %q, %q, %q heads 4 kv_heads 4 scale 1.0 causal window 0 : tensor<?x64xf32>, tensor<?x64xf32>
  return
}

// -----

func.func @f(%q: tensor<?x64xf32>) {
  // expected-error @+1 {{has a window and is not causal}}
  %0 = qlm.attention %q, %q, %q heads 4 kv_heads 4 scale 1.0 window 8 : tensor<?x64xf32>, tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<4x?x?xf32>) {
  // expected-error @+1 {{window must be positive, got -3}}
  %0 = qlm.causal_mask %x window -3 : tensor<4x?x?xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %c: tensor<5x2x1x256xf32>, %p: tensor<?xi32>, %b: tensor<?x?xi32>) {
  // expected-error @+1 {{window must be positive, got -1}}
  %0 = qlm.paged_attention %x, %c at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 scale 1.0 window -1 : (tensor<?x64xf32>, tensor<5x2x1x256xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
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

func.func @f(%x: tensor<2x8xf8E4M3FN>, %xs: tensor<2xf32>, %w: tensor<1x8x16xf32>) {
  // expected-error @+1 {{f8E4M3FN activations need a quantized weight}}
  %0 = qlm.packed_linear %x input_scales %xs, %w {inFeatures = 8, outFeatures = 3, layout = #qlm.layout<f32x16>} : (tensor<2x8xf8E4M3FN>, tensor<2xf32>, tensor<1x8x16xf32>) -> tensor<2x3xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf32>, %a: tensor<1xf32>) {
  // expected-error @+1 {{scheme must be <i8, row, range [-127, 127], bound 127.0, scales f32>, got #qlm.scheme<f8E4M3FN, row}}
  %0, %1 = qlm.static_quantize %x scale %a {scheme = #qlm.scheme<f8E4M3FN, row, bound 448.0, scales f32>} : tensor<2x8xf32>, tensor<1xf32> -> tensor<2x8xf8E4M3FN>, tensor<2xf32>
  return
}
