// RUN: quant-opt %s --qlm-emit-graph-kernels=target-cpu=x86-64-v3 --split-input-file | FileCheck %s

// One launch gathers the windows, multiplies, adds the residual and rounds; the
// sums themselves nobody wants.
// CHECK-LABEL: func.func @graph
// CHECK-SAME: %[[X:.*]]: tensor<?x8xf32>, %[[W:.*]]: tensor<1x72x16xf32>, %[[A:.*]]: tensor<?x16xf32>
// CHECK-NOT: graph.windows
// CHECK: graph.launch @packed_linear_rows {{.*}} ins(%[[X]], %[[W]], %[[A]] : {{.*}}) outs(%{{.*}}, %{{.*}} : tensor<?x16xf32>, tensor<?x16xi8>)
// CHECK-NOT: linalg.generic
// CHECK: return
#id = affine_map<(d0, d1) -> (d0, d1)>
func.func @graph(%x: tensor<?x8xf32>, %w: tensor<1x72x16xf32>, %a: tensor<?x16xf32>) -> (tensor<?x16xf32>, tensor<?x16xi8>) {
  %c0 = arith.constant 0 : index
  %p = graph.windows %x {size = array<i64: 4, 4>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : tensor<?x8xf32> -> tensor<?x72xf32>
  %y = qlm.packed_linear %p, %w {inFeatures = 72 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>} : (tensor<?x72xf32>, tensor<1x72x16xf32>) -> tensor<?x16xf32>
  %n = tensor.dim %a, %c0 : tensor<?x16xf32>
  %e = tensor.empty(%n) : tensor<?x16xf32>
  %s = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]} ins(%y, %a : tensor<?x16xf32>, tensor<?x16xf32>) outs(%e : tensor<?x16xf32>) {
  ^bb0(%i: f32, %j: f32, %o: f32):
    %k = arith.addf %i, %j : f32
    linalg.yield %k : f32
  } -> tensor<?x16xf32>
  %f = tensor.empty(%n) : tensor<?x16xi8>
  %q = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%s : tensor<?x16xf32>) outs(%f : tensor<?x16xi8>) {
  ^bb0(%i: f32, %o: i8):
    %k = arith.fptosi %i : f32 to i8
    linalg.yield %k : i8
  } -> tensor<?x16xi8>
  return %s, %q : tensor<?x16xf32>, tensor<?x16xi8>
}

// -----

// What needs a library stays a loop of its own, and windows and pools without a
// linear are launches.
// CHECK-LABEL: func.func @graph
// CHECK: graph.launch @packed_linear_rows
// CHECK: linalg.generic
// CHECK: math.exp
// CHECK: graph.launch @windows
// CHECK: graph.launch @pool_rows
#id = affine_map<(d0, d1) -> (d0, d1)>
func.func @graph(%x: tensor<16x8xf32>, %w: tensor<1x8x16xf32>) -> (tensor<16x16xf32>, tensor<16x72xf32>, tensor<4x8xf32>) {
  %y = qlm.packed_linear %x, %w {inFeatures = 8 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>} : (tensor<16x8xf32>, tensor<1x8x16xf32>) -> tensor<16x16xf32>
  %e = tensor.empty() : tensor<16x16xf32>
  %s = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%y : tensor<16x16xf32>) outs(%e : tensor<16x16xf32>) {
  ^bb0(%i: f32, %o: f32):
    %k = math.exp %i : f32
    linalg.yield %k : f32
  } -> tensor<16x16xf32>
  %p = graph.windows %x {size = array<i64: 4, 4>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : tensor<16x8xf32> -> tensor<16x72xf32>
  %m = graph.pool_rows %x {size = array<i64: 4, 4>, kernel = array<i64: 2, 2>, places = array<i64: 2, 2>, pads = array<i64: 0, 0, 0, 0>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<16x8xf32> -> tensor<4x8xf32>
  return %s, %p, %m : tensor<16x16xf32>, tensor<16x72xf32>, tensor<4x8xf32>
}

// -----

// A convolution of 3 x 3 is computed four results at once, where channels and
// maps fill vectors and an image has quads enough; not with strides.
// CHECK-LABEL: func.func @graph
// CHECK-NOT: graph.windows
// CHECK: graph.launch @winograd rows
// CHECK: graph.launch @packed_linear_1_rows
// CHECK: return
func.func @graph(%x: tensor<64x16xf32>, %w: tensor<2x144x16xf32>) -> (tensor<64x32xf32>, tensor<16x32xf32>) {
  %p = graph.windows %x {size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 8, 8>, pads = array<i64: 1, 1>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : tensor<64x16xf32> -> tensor<64x144xf32>
  %y = qlm.packed_linear %p, %w {inFeatures = 144 : i64, outFeatures = 32 : i64, layout = #qlm.layout<f32x16>} : (tensor<64x144xf32>, tensor<2x144x16xf32>) -> tensor<64x32xf32>
  %q = graph.windows %x {size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<64x16xf32> -> tensor<16x144xf32>
  %z = qlm.packed_linear %q, %w {inFeatures = 144 : i64, outFeatures = 32 : i64, layout = #qlm.layout<f32x16>} : (tensor<16x144xf32>, tensor<2x144x16xf32>) -> tensor<16x32xf32>
  return %y, %z : tensor<64x32xf32>, tensor<16x32xf32>
}

// -----

// Constants leave a map's body when a graph is canonicalized. A number that is
// known only when the graph runs stays outside of kernels.
// CHECK-LABEL: func.func @graph
// CHECK-NOT: linalg.generic
// CHECK: graph.launch @packed_linear_rows
// CHECK: linalg.generic
// CHECK: arith.mulf
// CHECK-NOT: arith.maximumf
// CHECK: return
#id = affine_map<(d0, d1) -> (d0, d1)>
func.func @graph(%x: tensor<16x8xf32>, %w: tensor<1x8x16xf32>, %factor: f32) -> tensor<16x16xf32> {
  %zero = arith.constant 0.0 : f32
  %y = qlm.packed_linear %x, %w {inFeatures = 8 : i64, outFeatures = 16 : i64, layout = #qlm.layout<f32x16>} : (tensor<16x8xf32>, tensor<1x8x16xf32>) -> tensor<16x16xf32>
  %e = tensor.empty() : tensor<16x16xf32>
  %r = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%y : tensor<16x16xf32>) outs(%e : tensor<16x16xf32>) {
  ^bb0(%i: f32, %o: f32):
    %k = arith.maximumf %i, %zero : f32
    linalg.yield %k : f32
  } -> tensor<16x16xf32>
  %s = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%r : tensor<16x16xf32>) outs(%e : tensor<16x16xf32>) {
  ^bb0(%i: f32, %o: f32):
    %k = arith.mulf %i, %factor : f32
    linalg.yield %k : f32
  } -> tensor<16x16xf32>
  return %s : tensor<16x16xf32>
}

// -----

// Attentions of one kind share a kernel. It reads its sizes from a tensor: of
// queries, keys, the first query's place, the mask's strides and keys; there are
// as many tiles as blocks of 64 rows, two of a query.
// CHECK-LABEL: func.func @graph
// CHECK-SAME: %[[Q:.*]]: tensor<2x4x33x16xf32>, %[[K:.*]]: tensor<2x2x?x16xf32>, %[[V:.*]]: tensor<2x2x?x24xf32>, %[[M:.*]]: tensor<33x?xi1>
// CHECK-DAG: %[[T:.*]] = arith.constant 33 : index
// CHECK-DAG: %[[B:.*]] = arith.constant 8 : index
// CHECK: %[[S:.*]] = tensor.from_elements {{.*}} : tensor<7xi64>
// CHECK: graph.launch @attention rows %[[T]] tiles %[[B]] ins(%[[Q]], %[[K]], %[[V]], %[[M]], %[[S]] : {{.*}}) outs(%{{.*}} : tensor<2x4x33x24xf32>) {qlm.tiles_apart, scratchBytes = {{.*}}}
// CHECK: graph.launch @attention rows %[[T]]
// CHECK: graph.launch @attention_1
func.func @graph(%q: tensor<2x4x33x16xf32>, %k: tensor<2x2x?x16xf32>, %v: tensor<2x2x?x24xf32>, %m: tensor<33x?xi1>) -> (tensor<2x4x33x24xf32>, tensor<2x4x33x24xf32>, tensor<2x4x33x24xf32>) {
  %y = graph.attention %q, %k, %v mask %m {scale = 0.25 : f64, tokensFirst = array<i1: false, false, false>} : (tensor<2x4x33x16xf32>, tensor<2x2x?x16xf32>, tensor<2x2x?x24xf32>, tensor<33x?xi1>) -> tensor<2x4x33x24xf32>
  %z = graph.attention %q, %k, %v mask %m {scale = 0.25 : f64, tokensFirst = array<i1: false, false, false>} : (tensor<2x4x33x16xf32>, tensor<2x2x?x16xf32>, tensor<2x2x?x24xf32>, tensor<33x?xi1>) -> tensor<2x4x33x24xf32>
  %c = graph.attention %q, %k, %v {causal, scale = 0.25 : f64, tokensFirst = array<i1: false, false, false>} : (tensor<2x4x33x16xf32>, tensor<2x2x?x16xf32>, tensor<2x2x?x24xf32>) -> tensor<2x4x33x24xf32>
  return %y, %z, %c : tensor<2x4x33x24xf32>, tensor<2x4x33x24xf32>, tensor<2x4x33x24xf32>
}
