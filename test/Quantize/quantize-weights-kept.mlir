// RUN: quant-opt %s --qlm-quantize-weights="weights=int8" | FileCheck %s

// The sizes are tested in test/Archive/PackedCodesTest.cpp: scales of 8 rows and
// 4 groups follow 8 * 64 / 2 bytes of codes, 128 bytes later zero points.

// CHECK-DAG: qlm.parameter @q.scales : tensor<8x4xf32> from "packed" key "F32[8, 4] at 1256"
// CHECK-DAG: qlm.parameter @q.zero_points : tensor<8x4xf32> from "packed" key "F32[8, 4] at 1384"
qlm.parameter @q : tensor<8x64xf32> from "packed" key "codes[8, 64] of 4 bits by 16 at 1000" {qlm.kept_scheme = #qlm.scheme<i4, group, 16, range [-8, 7], bound 7.5, scales f16>}
qlm.parameter @k : tensor<8x64xf32> from "packed" key "codes[8, 64] of 4 bits by 16 at 2000" {qlm.kept_scheme = #qlm.scheme<ui4, group, 16, zero_points, range [0, 15], scales f32>}
qlm.parameter @w : tensor<8x64xf32> from "packed" key "codes[8, 64] of 8 bits by 16 at 3000" {qlm.kept_scheme = #qlm.scheme<i8, group, 16, range [-128, 127], bound 127.5, scales f32>}

// CHECK-LABEL: func @alone
func.func @alone(%x: tensor<?x64xf32>) -> tensor<?x8xf32> {
  // CHECK: %[[W:.*]] = qlm.load @q :
  // CHECK: %[[S:.*]] = qlm.load @q.scales
  // CHECK: %[[C:.*]], %[[SCALES:.*]] = qlm.keep_codes %[[W]] scales %[[S]]{{.*}}i4, group, 16
  // CHECK: %[[V:.*]] = qlm.dequantize %[[C]] scales %[[SCALES]]
  // CHECK: qlm.linear %{{.*}}, %[[V]]
  %w = qlm.load @q : tensor<8x64xf32>
  %y = qlm.linear %x, %w : tensor<?x64xf32>, tensor<8x64xf32> -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// One has zero points and scales of f32: both get them.
// CHECK-LABEL: func @joined
func.func @joined(%x: tensor<?x64xf32>) -> tensor<?x16xf32> {
  // CHECK: %[[W:.*]] = tensor.concat
  // CHECK: %[[S:.*]] = tensor.concat
  // CHECK: %[[Z:.*]] = tensor.concat
  // CHECK: qlm.keep_codes %[[W]] scales %[[S]] zero_points %[[Z]]{{.*}}ui4, group, 16, zero_points, range [0, 15], scales f32
  %q = qlm.load @q : tensor<8x64xf32>
  %k = qlm.load @k : tensor<8x64xf32>
  %w = tensor.concat dim(0) %q, %k : (tensor<8x64xf32>, tensor<8x64xf32>) -> tensor<16x64xf32>
  %y = qlm.linear %x, %w : tensor<?x64xf32>, tensor<16x64xf32> -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// CHECK-LABEL: func @negative_other_bits
func.func @negative_other_bits(%x: tensor<?x64xf32>) -> tensor<?x16xf32> {
  // CHECK-NOT: qlm.keep_codes
  // CHECK: qlm.rtn
  %q = qlm.load @q : tensor<8x64xf32>
  %v = qlm.load @w : tensor<8x64xf32>
  %w = tensor.concat dim(0) %q, %v : (tensor<8x64xf32>, tensor<8x64xf32>) -> tensor<16x64xf32>
  %y = qlm.linear %x, %w : tensor<?x64xf32>, tensor<16x64xf32> -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}
