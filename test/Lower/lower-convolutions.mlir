// RUN: quant-opt %s --qlm-lower-convolutions --split-input-file | FileCheck %s

// From one convolution to the next, and to the pool, pixels stay rows.
// CHECK-LABEL: func @graph
// CHECK-SAME: %[[X:.*]]: tensor<2x3x8x8xf32>
// CHECK: linalg.transpose ins(%[[X]] {{.*}} permutation = [0, 2, 3, 1]
// CHECK: %[[R:.*]] = tensor.collapse_shape {{.*}} into tensor<128x3xf32>
// CHECK: %[[W:.*]] = graph.windows %[[R]] {{.*}} : tensor<128x3xf32> -> tensor<32x27xf32>
// CHECK: %[[V:.*]] = tensor.collapse_shape {{.*}} into tensor<16x27xf32>
// CHECK: %[[L:.*]] = qlm.linear %[[W]], %[[V]] bias
// CHECK: %[[A:.*]] = linalg.generic {{.*}} ins(%[[L]] : tensor<32x16xf32>)
// CHECK-NOT: graph.windows
// CHECK: %[[K:.*]] = qlm.linear %[[A]], %{{.*}} : tensor<32x16xf32>, tensor<8x16xf32>
// CHECK: %[[P:.*]] = graph.pool_rows %[[K]] {{.*}} : tensor<32x8xf32> -> tensor<2x8xf32>
// CHECK: tensor.expand_shape %[[P]] {{.*}} into tensor<2x8x1x1xf32>
// CHECK-NOT: linalg.transpose
#id = affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>
func.func @graph(%x: tensor<2x3x8x8xf32>, %w: tensor<16x3x3x3xf32>, %b: tensor<16xf32>, %v: tensor<8x16x1x1xf32>) -> tensor<2x8x1x1xf32> {
  %c = graph.conv %x, %w, %b {pads = array<i64: 1, 1, 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : (tensor<2x3x8x8xf32>, tensor<16x3x3x3xf32>, tensor<16xf32>) -> tensor<2x16x4x4xf32>
  %e = tensor.empty() : tensor<2x16x4x4xf32>
  %r = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%c : tensor<2x16x4x4xf32>) outs(%e : tensor<2x16x4x4xf32>) {
  ^bb0(%i: f32, %o: f32):
    %a = math.absf %i : f32
    linalg.yield %a : f32
  } -> tensor<2x16x4x4xf32>
  %d = graph.conv %r, %v {pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : (tensor<2x16x4x4xf32>, tensor<8x16x1x1xf32>) -> tensor<2x8x4x4xf32>
  %p = graph.pool %d {average, kernel = array<i64: 4, 4>, pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : tensor<2x8x4x4xf32> -> tensor<2x8x1x1xf32>
  return %p : tensor<2x8x1x1xf32>
}

// -----

// Windows are taken of codes, which are signed from there on.
// CHECK-LABEL: func @graph
// CHECK: %[[Q:.*]] = graph.quantize {{.*}} : (tensor<?x4xf32>, tensor<f32>, tensor<i8>) -> tensor<?x4xi8>
// CHECK: %[[W:.*]] = graph.windows %[[Q]] {{.*}}outside = 2 : i64{{.*}} : tensor<?x4xi8> -> tensor<?x36xi8>
// CHECK: %[[D:.*]] = graph.dequantize %[[W]]
// CHECK: %[[V:.*]] = graph.dequantize {{.*}} -> tensor<8x36xf32>
// CHECK: qlm.linear %[[D]], %[[V]]
func.func @graph(%x: tensor<?x4x6x6xf32>, %q: tensor<8x4x3x3xi8>) -> tensor<?x8x6x6xf32> {
  %s = arith.constant dense<0.5> : tensor<f32>
  %z = arith.constant dense<-126> : tensor<i8>
  %c = graph.quantize %x, %s, %z {axis = 0 : i64, unsignedCodes} : (tensor<?x4x6x6xf32>, tensor<f32>, tensor<i8>) -> tensor<?x4x6x6xi8>
  %d = graph.dequantize %c, %s, %z {axis = 0 : i64, unsignedCodes} : (tensor<?x4x6x6xi8>, tensor<f32>, tensor<i8>) -> tensor<?x4x6x6xf32>
  %w = graph.dequantize %q, %s {axis = 0 : i64} : (tensor<8x4x3x3xi8>, tensor<f32>) -> tensor<8x4x3x3xf32>
  %y = graph.conv %d, %w {pads = array<i64: 1, 1, 1, 1>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : (tensor<?x4x6x6xf32>, tensor<8x4x3x3xf32>) -> tensor<?x8x6x6xf32>
  return %y : tensor<?x8x6x6xf32>
}

// -----

// CHECK-LABEL: func @graph
// CHECK: %[[W:.*]] = graph.normalized_weight %arg1, %arg2, %arg2
// CHECK: %[[B:.*]] = graph.normalized_bias %arg2, %arg2, %arg2, %arg2
// CHECK: linalg.transpose ins(%[[W]]
// CHECK: qlm.linear {{.*}} bias %[[B]]
// CHECK-NOT: graph.normalize
func.func @graph(%x: tensor<1x4x6x6xf32>, %w: tensor<8x4x1x1xf32>, %s: tensor<8xf32>) -> tensor<1x8x6x6xf32> {
  %c = graph.conv %x, %w {pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : (tensor<1x4x6x6xf32>, tensor<8x4x1x1xf32>) -> tensor<1x8x6x6xf32>
  %y = graph.normalize %c, %s, %s, %s, %s {epsilon = 1.0e-05 : f32} : (tensor<1x8x6x6xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<1x8x6x6xf32>
  return %y : tensor<1x8x6x6xf32>
}

// -----

// A convolution in groups sums in loops; what is normalized alone is spelled out.
// CHECK-LABEL: func @graph
// CHECK: tensor.pad
// CHECK: linalg.generic {{.*}}"reduction", "reduction", "reduction", "parallel", "parallel"]
// CHECK: math.sqrt
// CHECK-NOT: qlm.linear
func.func @graph(%x: tensor<?x4x6x6xf32>, %w: tensor<4x1x3x3xf32>, %s: tensor<4xf32>) -> tensor<?x4x6x6xf32> {
  %c = graph.conv %x, %w, %s {groups = 4 : i64, pads = array<i64: 1, 1, 1, 1>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : (tensor<?x4x6x6xf32>, tensor<4x1x3x3xf32>, tensor<4xf32>) -> tensor<?x4x6x6xf32>
  %y = graph.normalize %c, %s, %s, %s, %s {epsilon = 1.0e-05 : f32} : (tensor<?x4x6x6xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4x6x6xf32>
  return %y : tensor<?x4x6x6xf32>
}
