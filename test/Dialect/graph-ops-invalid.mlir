// RUN: quant-opt %s --split-input-file --verify-diagnostics

func.func @codes_shape(%x: tensor<4xf32>, %s: tensor<f32>) -> tensor<5xi8> {
  // expected-error @below {{(C1) result must have the input's shape}}
  %q = graph.quantize %x, %s : (tensor<4xf32>, tensor<f32>) -> tensor<5xi8>
  return %q : tensor<5xi8>
}

// -----

func.func @codes_scales(%x: tensor<4x3xf32>, %s: tensor<3xf32>) -> tensor<4x3xi8> {
  // expected-error @below {{(C2) scales must be one, or one for each index of dimension 0}}
  %q = graph.quantize %x, %s {axis = 0 : i64} : (tensor<4x3xf32>, tensor<3xf32>) -> tensor<4x3xi8>
  return %q : tensor<4x3xi8>
}

// -----

func.func @codes_zero_points(%q: tensor<4xi8>, %s: tensor<f32>, %z: tensor<i32>) -> tensor<4xf32> {
  // expected-error @below {{(C2) zero points must have the shape of the scales and the type of codes, got 'tensor<i32>'}}
  %x = graph.dequantize %q, %s, %z : (tensor<4xi8>, tensor<f32>, tensor<i32>) -> tensor<4xf32>
  return %x : tensor<4xf32>
}

// -----

func.func @shifted_bias(%w: tensor<4x3xf32>) -> tensor<3xf32> {
  // expected-error @below {{(C1) takes a static matrix, bias and result must have an element for each of its rows}}
  %b = graph.shifted_bias %w {shift = 0.5 : f32} : (tensor<4x3xf32>) -> tensor<3xf32>
  return %b : tensor<3xf32>
}

// -----

func.func @conv_image(%x: tensor<1x3x?x8xf32>, %w: tensor<4x3x1x1xf32>) -> tensor<1x4x8x8xf32> {
  // expected-error @below {{(C1) takes [n, c, h, w] of which n may be open, and a static kernel of rank 4, got 'tensor<1x3x?x8xf32>' and 'tensor<4x3x1x1xf32>'}}
  %y = graph.conv %x, %w {pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : (tensor<1x3x?x8xf32>, tensor<4x3x1x1xf32>) -> tensor<1x4x8x8xf32>
  return %y : tensor<1x4x8x8xf32>
}

// -----

func.func @conv_bias(%x: tensor<1x3x8x8xf32>, %w: tensor<4x3x1x1xf32>, %b: tensor<3xf32>) -> tensor<1x4x8x8xf32> {
  // expected-error @below {{(C1) bias must have 4 elements, got 'tensor<3xf32>'}}
  %y = graph.conv %x, %w, %b {pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : (tensor<1x3x8x8xf32>, tensor<4x3x1x1xf32>, tensor<3xf32>) -> tensor<1x4x8x8xf32>
  return %y : tensor<1x4x8x8xf32>
}

// -----

func.func @conv_strides(%x: tensor<1x3x8x8xf32>, %w: tensor<4x3x1x1xf32>) -> tensor<1x4x8x8xf32> {
  // expected-error @below {{(C2) takes four pads from 0 on, two strides and two dilations from 1 on}}
  %y = graph.conv %x, %w {pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 0, 1>, dilations = array<i64: 1, 1>} : (tensor<1x3x8x8xf32>, tensor<4x3x1x1xf32>) -> tensor<1x4x8x8xf32>
  return %y : tensor<1x4x8x8xf32>
}

// -----

func.func @conv_groups(%x: tensor<1x3x8x8xf32>, %w: tensor<4x3x1x1xf32>) -> tensor<1x4x8x8xf32> {
  // expected-error @below {{(C2) 2 groups of 3 channels must be the input's 3 and divide 4 maps}}
  %y = graph.conv %x, %w {groups = 2 : i64, pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : (tensor<1x3x8x8xf32>, tensor<4x3x1x1xf32>) -> tensor<1x4x8x8xf32>
  return %y : tensor<1x4x8x8xf32>
}

// -----

func.func @conv_result(%x: tensor<1x3x8x8xf32>, %w: tensor<4x3x3x3xf32>) -> tensor<1x4x8x8xf32> {
  // expected-error @below {{(C3) result must be 'tensor<1x4x6x3xf32>' and not empty, got 'tensor<1x4x8x8xf32>'}}
  %y = graph.conv %x, %w {pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 1, 2>, dilations = array<i64: 1, 1>} : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x8x8xf32>
  return %y : tensor<1x4x8x8xf32>
}

// -----

func.func @normalize(%x: tensor<1x3x8x8xf32>, %s: tensor<3xf32>, %v: tensor<4xf32>) -> tensor<1x3x8x8xf32> {
  // expected-error @below {{(C1) takes 'tensor<3xf32>' of each channel, got 'tensor<4xf32>'}}
  %y = graph.normalize %x, %s, %s, %s, %v {epsilon = 1.0e-05 : f32} : (tensor<1x3x8x8xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<4xf32>) -> tensor<1x3x8x8xf32>
  return %y : tensor<1x3x8x8xf32>
}

// -----

func.func @normalized_weight(%w: tensor<4x3x1x1xf32>, %s: tensor<3xf32>) -> tensor<4x3x1x1xf32> {
  // expected-error @below {{(C1) takes 4 scales and variances, got 'tensor<3xf32>'}}
  %y = graph.normalized_weight %w, %s, %s {epsilon = 1.0e-05 : f32} : (tensor<4x3x1x1xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<4x3x1x1xf32>
  return %y : tensor<4x3x1x1xf32>
}

// -----

func.func @normalized_bias(%s: tensor<4xf32>, %m: tensor<3xf32>) -> tensor<4xf32> {
  // expected-error @below {{(C1) takes and gives one static type of rank 1}}
  %y = graph.normalized_bias %s, %s, %m, %s {epsilon = 1.0e-05 : f32} : (tensor<4xf32>, tensor<4xf32>, tensor<3xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %y : tensor<4xf32>
}

// -----

func.func @pool_channels(%x: tensor<1x3x8x8xf32>) -> tensor<1x4x8x8xf32> {
  // expected-error @below {{(C1) takes [n, c, h, w] of which n may be open and gives [n, c, y, x]}}
  %y = graph.pool %x {kernel = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : tensor<1x3x8x8xf32> -> tensor<1x4x8x8xf32>
  return %y : tensor<1x4x8x8xf32>
}

// -----

func.func @pool_pads(%x: tensor<1x3x8x8xf32>) -> tensor<1x3x8x8xf32> {
  // expected-error @below {{(C2) takes two sizes of a kernel, strides and dilations from 1 on and four pads from 0 on}}
  %y = graph.pool %x {kernel = array<i64: 1, 1>, pads = array<i64: 0, 0>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : tensor<1x3x8x8xf32> -> tensor<1x3x8x8xf32>
  return %y : tensor<1x3x8x8xf32>
}

// -----

func.func @windows_numbers(%x: tensor<64x8xf32>) -> tensor<16x72xf32> {
  // expected-error @below {{(C1) takes two sizes, places, strides, dilations and sizes of a kernel from 1 on and 2 pads from 0 on}}
  %y = graph.windows %x {size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, -1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<64x8xf32> -> tensor<16x72xf32>
  return %y : tensor<16x72xf32>
}

// -----

func.func @windows_columns(%x: tensor<64x8xf32>) -> tensor<16x64xf32> {
  // expected-error @below {{(C1) takes rows of channels and gives rows of 9 times as many, got 'tensor<64x8xf32>' and 'tensor<16x64xf32>'}}
  %y = graph.windows %x {size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<64x8xf32> -> tensor<16x64xf32>
  return %y : tensor<16x64xf32>
}

// -----

func.func @windows_rows(%x: tensor<65x8xf32>) -> tensor<16x72xf32> {
  // expected-error @below {{(C2) takes images of 64 rows and gives 16 windows of each, got 'tensor<65x8xf32>' and 'tensor<16x72xf32>'}}
  %y = graph.windows %x {size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<65x8xf32> -> tensor<16x72xf32>
  return %y : tensor<16x72xf32>
}

// -----

func.func @windows_outside(%x: tensor<64x8xf32>) -> tensor<16x72xf32> {
  // expected-error @below {{(C3) outside must be a code, or 0 of f32, got 1}}
  %y = graph.windows %x {outside = 1 : i64, size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<64x8xf32> -> tensor<16x72xf32>
  return %y : tensor<16x72xf32>
}

// -----

func.func @pool_rows_average(%x: tensor<64x8xi8>) -> tensor<16x8xi8> {
  // expected-error @below {{(C3) averages f32, got 'i8'}}
  %y = graph.pool_rows %x {average, size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1, 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<64x8xi8> -> tensor<16x8xi8>
  return %y : tensor<16x8xi8>
}

// -----

func.func @attention_orders(%x: tensor<1x2x4x8xf32>) -> tensor<1x2x4x8xf32> {
  // expected-error @below {{(C4) takes windows from -1 on and three orders, got -2, -1 and 3}}
  %y = graph.attention %x, %x, %x {scale = 1.0 : f64, left = -2 : i64, tokensFirst = array<i1: false, false, false>} : (tensor<1x2x4x8xf32>, tensor<1x2x4x8xf32>, tensor<1x2x4x8xf32>) -> tensor<1x2x4x8xf32>
  return %y : tensor<1x2x4x8xf32>
}

// -----

func.func @attention_types(%x: tensor<1x2x4x8xf32>, %k: tensor<1x2x4x8xf16>) -> tensor<1x2x4x8xf32> {
  // expected-error @below {{(C1) takes tensors of rank 4 and of one type}}
  %y = graph.attention %x, %k, %x {scale = 1.0 : f64, tokensFirst = array<i1: false, false, false>} : (tensor<1x2x4x8xf32>, tensor<1x2x4x8xf16>, tensor<1x2x4x8xf32>) -> tensor<1x2x4x8xf32>
  return %y : tensor<1x2x4x8xf32>
}

// -----

func.func @attention_open_heads(%x: tensor<1x?x4x8xf32>) -> tensor<1x?x4x8xf32> {
  // expected-error @below {{(C1) heads and sizes must be known and not 0, got 'tensor<1x?x4x8xf32>'}}
  %y = graph.attention %x, %x, %x {scale = 1.0 : f64, tokensFirst = array<i1: false, false, false>} : (tensor<1x?x4x8xf32>, tensor<1x?x4x8xf32>, tensor<1x?x4x8xf32>) -> tensor<1x?x4x8xf32>
  return %y : tensor<1x?x4x8xf32>
}

// -----

func.func @attention_heads(%x: tensor<1x3x4x8xf32>, %k: tensor<1x2x4x8xf32>) -> tensor<1x3x4x8xf32> {
  // expected-error @below {{(C1) heads and sizes must fit, got 'tensor<1x3x4x8xf32>', 'tensor<1x2x4x8xf32>', 'tensor<1x2x4x8xf32>' and 'tensor<1x3x4x8xf32>'}}
  %y = graph.attention %x, %k, %k {scale = 1.0 : f64, tokensFirst = array<i1: false, false, false>} : (tensor<1x3x4x8xf32>, tensor<1x2x4x8xf32>, tensor<1x2x4x8xf32>) -> tensor<1x3x4x8xf32>
  return %y : tensor<1x3x4x8xf32>
}

// -----

func.func @attention_mask(%x: tensor<1x2x4x8xf32>, %m: tensor<i1>) -> tensor<1x2x4x8xf32> {
  // expected-error @below {{(C2) a mask has one to four dimensions, got 'tensor<i1>'}}
  %y = graph.attention %x, %x, %x mask %m {scale = 1.0 : f64, tokensFirst = array<i1: false, false, false>} : (tensor<1x2x4x8xf32>, tensor<1x2x4x8xf32>, tensor<1x2x4x8xf32>, tensor<i1>) -> tensor<1x2x4x8xf32>
  return %y : tensor<1x2x4x8xf32>
}

// -----

func.func @attention_lengths(%x: tensor<1x2x4x8xf32>, %n: tensor<1x1xi64>) -> tensor<1x2x4x8xf32> {
  // expected-error @below {{(C3) takes a vector of lengths, got 'tensor<1x1xi64>'}}
  %y = graph.attention %x, %x, %x lengths %n {scale = 1.0 : f64, tokensFirst = array<i1: false, false, false>} : (tensor<1x2x4x8xf32>, tensor<1x2x4x8xf32>, tensor<1x2x4x8xf32>, tensor<1x1xi64>) -> tensor<1x2x4x8xf32>
  return %y : tensor<1x2x4x8xf32>
}
