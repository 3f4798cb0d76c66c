// RUN: quant-opt %s -split-input-file -verify-diagnostics

// One case a constraint, in the order of PlannedVerifiers.cpp.

func.func @f(%x: tensor<2x16xf32>) {
  // expected-error @+1 {{has outliers exactly if it has a threshold}}
  %0, %1, %2 = qlm.swiglu_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>} : tensor<2x16xf32> -> tensor<2x8xi8>, tensor<2xf32>, tensor<2x17xf32>
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

func.func @f(%x: tensor<?x64xf32>, %c: tensor<5x2x1x256xf32>, %p: tensor<?xi32>, %b: tensor<?x?xi32>) {
  // expected-error @+1 {{window must be positive, got -1}}
  %0 = qlm.paged_attention %x, %c at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 scale 1.0 window -1 : (tensor<?x64xf32>, tensor<5x2x1x256xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<2x8xf8E4M3FN>, %xs: tensor<2xf32>, %w: tensor<1x8x16xf32>) {
  // expected-error @+1 {{f8E4M3FN activations need a quantized weight}}
  %0 = qlm.packed_linear %x input_scales %xs, %w {inFeatures = 8, outFeatures = 3, layout = #qlm.layout<f32x16>} : (tensor<2x8xf8E4M3FN>, tensor<2xf32>, tensor<1x8x16xf32>) -> tensor<2x3xf32>
  return
}
