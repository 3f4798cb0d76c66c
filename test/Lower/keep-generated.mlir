// RUN: quant-opt %s --qlm-keep-generated --canonicalize --split-input-file | FileCheck %s

// The sum stays in memory for the second tensor, which would else make it anew
// for each of its elements.
// CHECK-LABEL: func.func @graph
// CHECK: %[[S:.*]] = linalg.map outs(%{{.*}} : tensor<?xf32>)
// CHECK: linalg.index 0
// CHECK: scf.for
// CHECK: linalg.yield
// CHECK: linalg.map
// CHECK: scf.for
// CHECK: tensor.extract %[[S]]
func.func @graph(%x: tensor<?x?xf32>, %n: index) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %s = tensor.generate %n {
  ^bb0(%i: index):
    %a = scf.for %j = %c0 to %n step %c1 iter_args(%t = %zero) -> f32 {
      %e = tensor.extract %x[%i, %j] : tensor<?x?xf32>
      %u = arith.addf %t, %e : f32
      scf.yield %u : f32
    }
    tensor.yield %a : f32
  } : tensor<?xf32>
  %y = tensor.generate %n {
  ^bb0(%i: index):
    %a = scf.for %j = %c0 to %n step %c1 iter_args(%t = %zero) -> f32 {
      %e = tensor.extract %s[%j] : tensor<?xf32>
      %u = arith.addf %t, %e : f32
      scf.yield %u : f32
    }
    tensor.yield %a : f32
  } : tensor<?xf32>
  return %y : tensor<?xf32>
}

// -----

// So do functions; a transposition is read through.
// CHECK-LABEL: func.func @graph
// CHECK-SAME: %[[X:.*]]: tensor<4x8xf32>
// CHECK: %[[E:.*]] = linalg.map
// CHECK: tensor.extract %[[X]]
// CHECK: math.exp
// CHECK-NOT: tensor.generate
// CHECK: linalg.map
// CHECK: tensor.extract %[[E]]
// CHECK: math.sqrt
func.func @graph(%x: tensor<4x8xf32>) -> tensor<8x4xf32> {
  %t = tensor.generate {
  ^bb0(%i: index, %j: index):
    %e = tensor.extract %x[%j, %i] : tensor<4x8xf32>
    tensor.yield %e : f32
  } : tensor<8x4xf32>
  %p = tensor.generate {
  ^bb0(%i: index, %j: index):
    %e = tensor.extract %t[%i, %j] : tensor<8x4xf32>
    %p = math.exp %e : f32
    tensor.yield %p : f32
  } : tensor<8x4xf32>
  %y = tensor.generate {
  ^bb0(%i: index, %j: index):
    %e = tensor.extract %p[%i, %j] : tensor<8x4xf32>
    %r = math.sqrt %e : f32
    tensor.yield %r : f32
  } : tensor<8x4xf32>
  return %y : tensor<8x4xf32>
}
