// RUN: qlm-referee %s | FileCheck %s

// Codes of a group of zeros are zero; ties round to even.
// CHECK: tensor<2x4xi4> 7 -4 2 0 0 0 0 0
// CHECK-NEXT: tensor<2x1xf16> 1 0
// CHECK-NEXT: tensor<2x4xf32> 7 -4 2 0 0 0 0 0
#scheme = #qlm.scheme<i4, group, 4, range [-8, 7], bound 7.5, scales f16>
func.func @main() -> (tensor<2x4xi4>, tensor<2x1xf16>, tensor<2x4xf32>) {
  %w = arith.constant dense<[[7.5, -4.5, 1.5, 0.5], [0.0, 0.0, 0.0, 0.0]]> : tensor<2x4xf32>
  %c, %s = qlm.rtn %w {scheme = #scheme} : tensor<2x4xf32> to tensor<2x4xi4>, tensor<2x1xf16>
  %d = qlm.dequantize %c scales %s {scheme = #scheme} : tensor<2x4xi4>, tensor<2x1xf16> -> tensor<2x4xf32>
  return %c, %s, %d : tensor<2x4xi4>, tensor<2x1xf16>, tensor<2x4xf32>
}
