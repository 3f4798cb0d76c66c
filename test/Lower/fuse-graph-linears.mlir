// RUN: quant-opt %s --qlm-fuse-graph-linears | FileCheck %s

#id = affine_map<(d0, d1) -> (d0, d1)>
#last = affine_map<(d0, d1) -> (d1)>

// CHECK-LABEL: func @bias
// CHECK: %[[B:.*]] = arith.constant
// CHECK: qlm.linear %{{.*}}, %{{.*}} bias %[[B]]
// CHECK-NOT: linalg.generic
func.func @bias(%x: tensor<3x8xf32>, %w: tensor<4x8xf32>, %e: tensor<3x4xf32>) -> tensor<3x4xf32> {
  %b = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
  %h = qlm.linear %x, %w : tensor<3x8xf32>, tensor<4x8xf32> -> tensor<3x4xf32>
  %y = linalg.generic {indexing_maps = [#last, #id, #id], iterator_types = ["parallel", "parallel"]} ins(%b, %h : tensor<4xf32>, tensor<3x4xf32>) outs(%e : tensor<3x4xf32>) {
  ^bb0(%i: f32, %j: f32, %o: f32):
    %s = arith.addf %i, %j : f32
    linalg.yield %s : f32
  } -> tensor<3x4xf32>
  return %y : tensor<3x4xf32>
}

// The product is used twice; the vector is no constant.
// CHECK-LABEL: func @negative_shared
// CHECK-NOT: bias
func.func @negative_shared(%x: tensor<3x8xf32>, %w: tensor<4x8xf32>, %e: tensor<3x4xf32>, %v: tensor<4xf32>) -> (tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>) {
  %b = arith.constant dense<1.0> : tensor<4xf32>
  %h = qlm.linear %x, %w : tensor<3x8xf32>, tensor<4x8xf32> -> tensor<3x4xf32>
  %y = linalg.generic {indexing_maps = [#id, #last, #id], iterator_types = ["parallel", "parallel"]} ins(%h, %b : tensor<3x4xf32>, tensor<4xf32>) outs(%e : tensor<3x4xf32>) {
  ^bb0(%i: f32, %j: f32, %o: f32):
    %s = arith.addf %i, %j : f32
    linalg.yield %s : f32
  } -> tensor<3x4xf32>
  %g = qlm.linear %x, %w : tensor<3x8xf32>, tensor<4x8xf32> -> tensor<3x4xf32>
  %z = linalg.generic {indexing_maps = [#id, #last, #id], iterator_types = ["parallel", "parallel"]} ins(%g, %v : tensor<3x4xf32>, tensor<4xf32>) outs(%e : tensor<3x4xf32>) {
  ^bb0(%i: f32, %j: f32, %o: f32):
    %s = arith.addf %i, %j : f32
    linalg.yield %s : f32
  } -> tensor<3x4xf32>
  return %h, %y, %z : tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>
}
