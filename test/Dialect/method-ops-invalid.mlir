// RUN: quant-opt %s -split-input-file -verify-diagnostics

func.func @columns_c2(%w: tensor<8x64xf32>, %s: tensor<32xf32>) {
  // expected-error @below {{scales must be tensor<64xf32>, got tensor<32xf32>}}
  %v = qlm.scale_columns %w by %s : tensor<8x64xf32>, tensor<32xf32> -> tensor<8x64xf32>
  return
}

// -----

func.func @columns_heads(%w: tensor<8x64xf32>, %s: tensor<32xf32>) {
  // expected-error @below {{heads must be two positive numbers whose product divides the columns, got [2, 24] and 64}}
  %v = qlm.scale_columns %w by %s heads [2, 24] : tensor<8x64xf32>, tensor<32xf32> -> tensor<8x64xf32>
  return
}

// -----

func.func @rows_c2(%w: tensor<40x8xf32>, %s: tensor<32xf32>) {
  // expected-error @below {{scaled rows must lie in the weight, got tensor<32xf32> from 9 of 40}}
  %v = qlm.scale_rows %w by %s from 9 : tensor<40x8xf32>, tensor<32xf32> -> tensor<40x8xf32>
  return
}

// -----

func.func @rows_c1(%w: tensor<40x?xf32>, %s: tensor<32xf32>) {
  // expected-error @below {{weight must be static and of rank 1 or 2, got tensor<40x?xf32>}}
  %v = qlm.scale_rows %w by %s from 0 : tensor<40x?xf32>, tensor<32xf32> -> tensor<40x?xf32>
  return
}

// -----

func.func @moments_c1(%h: tensor<64x32xf32>, %s: tensor<32xf32>) {
  // expected-error @below {{columns must be the rows, got 32 and 64}}
  %v = qlm.scale_moments %h by %s : tensor<64x32xf32>, tensor<32xf32>
  return
}

// -----

#int4 = #qlm.scheme<i4, group, 48, range [-8, 7], bound 7.5, scales f16>
func.func @clip_c2(%w: tensor<8x64xf32>, %h: tensor<64x64xf32>) {
  // expected-error @below {{group size must divide the columns, got 48 and 64}}
  %v = qlm.clip %w moments %h {scheme = #int4} : (tensor<8x64xf32>, tensor<64x64xf32>) -> tensor<8x64xf32>
  return
}

// -----

#tensor = #qlm.scheme<i8, tensor, range [-127, 127], bound 127.0, scales f32>
func.func @awq_c3(%w: tensor<8x64xf32>, %m: tensor<64xf32>, %h: tensor<64x64xf32>) {
  // expected-error @below {{scheme must be by channel or by group}}
  %v = qlm.awq_scales %w mean %m moments %h {scheme = #tensor} : (tensor<8x64xf32>, tensor<64xf32>, tensor<64x64xf32>) -> tensor<64xf32>
  return
}

// -----

#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
func.func @awq_c2(%w: tensor<8x64xf32>, %m: tensor<32xf32>, %h: tensor<64x64xf32>) {
  // expected-error @below {{mean magnitudes must be tensor<64xf32>, got tensor<32xf32>}}
  %v = qlm.awq_scales %w mean %m moments %h {scheme = #int8} : (tensor<8x64xf32>, tensor<32xf32>, tensor<64x64xf32>) -> tensor<64xf32>
  return
}

// -----

func.func @smooth_c1(%w: tensor<8x64xf32>, %v: tensor<8x32xf32>, %a: tensor<64xf32>) {
  // expected-error @below {{weights must have the same columns, got 64 and 32}}
  %s = qlm.smooth_scales %w, %v absmax %a alpha 5.000000e-01 : (tensor<8x64xf32>, tensor<8x32xf32>, tensor<64xf32>) -> tensor<64xf32>
  return
}

// -----

func.func @smooth_c2(%w: tensor<8x64xf32>, %a: tensor<64xf32>) {
  // expected-error @below {{alpha must be from 0 to 1, got 1.5}}
  %s = qlm.smooth_scales %w absmax %a alpha 1.500000e+00 : (tensor<8x64xf32>, tensor<64xf32>) -> tensor<64xf32>
  return
}

// -----

func.func @static_scale_c3(%a: tensor<3xf32>) {
  // expected-error @below {{element must be below 3 and go without scales, got 3}}
  %s = qlm.static_scale %a {element = 3 : i64} : tensor<3xf32> -> tensor<1xf32>
  return
}

// -----

#row = #qlm.scheme<i8, row, range [-128, 127], bound 127.0, scales f32>
func.func @static_quantize_c3(%x: tensor<?x64xf32>, %s: tensor<1xf32>) {
  // expected-error @below {{scheme must be <i8, row, range [-127, 127], bound 127.0, scales f32>}}
  %c, %y = qlm.static_quantize %x scale %s {scheme = #row} : tensor<?x64xf32>, tensor<1xf32> -> tensor<?x64xi8>, tensor<?xf32>
  return
}

// -----

#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>
func.func @static_quantize_c2(%x: tensor<?x64xf32>, %s: tensor<2xf32>) {
  // expected-error @below {{scale must be tensor<1xf32>, got tensor<2xf32>}}
  %c, %y = qlm.static_quantize %x scale %s {scheme = #row} : tensor<?x64xf32>, tensor<2xf32> -> tensor<?x64xi8>, tensor<?xf32>
  return
}

// -----

func.func @transposed(%w: tensor<40x8xf32>) {
  // expected-error@+1 {{result must be 'tensor<8x40xf32>', got 'tensor<40x8xf32>'}}
  %v = qlm.transpose %w : tensor<40x8xf32> -> tensor<40x8xf32>
  return
}
