// RUN: quant-opt %s | quant-opt | FileCheck %s

#int4 = #qlm.scheme<i4, group, 32, range [-8, 7], bound 7.5, scales f16>
#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>

// CHECK-LABEL: func @scales
func.func @scales(%w: tensor<8x64xbf16>, %m: tensor<64xf32>, %h: tensor<64x64xf32>) -> tensor<8x64xf32> {
  // CHECK: %[[S:.*]] = qlm.awq_scales %{{.*}} mean %{{.*}} moments %{{.*}} {scheme = #{{.*}}} : (tensor<8x64xbf16>, tensor<64xf32>, tensor<64x64xf32>) -> tensor<64xf32>
  %s = qlm.awq_scales %w mean %m moments %h {scheme = #int4} : (tensor<8x64xbf16>, tensor<64xf32>, tensor<64x64xf32>) -> tensor<64xf32>
  // CHECK: qlm.awq_scales %{{.*}}, %{{.*}} mean %{{.*}} moments %{{.*}} heads [2, 16]
  %t = qlm.awq_scales %w, %w mean %m moments %h heads [2, 16] {scheme = #int4, steps = 10 : i64} : (tensor<8x64xbf16>, tensor<8x64xbf16>, tensor<64xf32>, tensor<64x64xf32>) -> tensor<32xf32>
  // CHECK: qlm.smooth_scales %{{.*}} absmax %{{.*}} alpha 5.000000e-01 : (tensor<8x64xbf16>, tensor<64xf32>) -> tensor<64xf32>
  %u = qlm.smooth_scales %w absmax %m alpha 5.000000e-01 : (tensor<8x64xbf16>, tensor<64xf32>) -> tensor<64xf32>
  // CHECK: qlm.scale_columns %{{.*}} by %[[S]] : tensor<8x64xbf16>, tensor<64xf32> -> tensor<8x64xf32>
  %c = qlm.scale_columns %w by %s : tensor<8x64xbf16>, tensor<64xf32> -> tensor<8x64xf32>
  // CHECK: qlm.scale_columns %{{.*}} by %{{.*}} heads [2, 16] : tensor<8x64xf32>, tensor<32xf32> -> tensor<8x64xf32>
  %d = qlm.scale_columns %c by %t heads [2, 16] : tensor<8x64xf32>, tensor<32xf32> -> tensor<8x64xf32>
  // CHECK: qlm.scale_moments %{{.*}} by %[[S]] : tensor<64x64xf32>, tensor<64xf32>
  %g = qlm.scale_moments %h by %s : tensor<64x64xf32>, tensor<64xf32>
  // CHECK: qlm.clip %{{.*}} moments %{{.*}} {scheme = #{{.*}}} : (tensor<8x64xf32>, tensor<64x64xf32>) -> tensor<8x64xf32>
  %e = qlm.clip %d moments %g {scheme = #int4} : (tensor<8x64xf32>, tensor<64x64xf32>) -> tensor<8x64xf32>
  return %e : tensor<8x64xf32>
}

// CHECK-LABEL: func @transposed
func.func @transposed(%w: tensor<96x8xf16>) -> tensor<8x96xf16> {
  // CHECK: qlm.transpose %{{.*}} : tensor<96x8xf16> -> tensor<8x96xf16>
  %v = qlm.transpose %w : tensor<96x8xf16> -> tensor<8x96xf16>
  return %v : tensor<8x96xf16>
}

// CHECK-LABEL: func @rows
func.func @rows(%w: tensor<96x8xf16>, %b: tensor<64xf32>, %s: tensor<32xf32>) -> (tensor<96x8xf32>, tensor<64xf32>) {
  // CHECK: qlm.scale_rows %{{.*}} by %{{.*}} from 64 : tensor<96x8xf16>, tensor<32xf32> -> tensor<96x8xf32>
  %v = qlm.scale_rows %w by %s from 64 : tensor<96x8xf16>, tensor<32xf32> -> tensor<96x8xf32>
  // CHECK: qlm.scale_rows %{{.*}} by %{{.*}} from 32 : tensor<64xf32>, tensor<32xf32> -> tensor<64xf32>
  %c = qlm.scale_rows %b by %s from 32 : tensor<64xf32>, tensor<32xf32> -> tensor<64xf32>
  return %v, %c : tensor<96x8xf32>, tensor<64xf32>
}

// CHECK-LABEL: func @static
func.func @static(%x: tensor<?x64xf32>, %a: tensor<64xf32>, %s: tensor<64xf32>, %t: tensor<3xf32>) -> tensor<?x64xi8> {
  // CHECK: qlm.static_scale %{{.*}} : tensor<64xf32> -> tensor<1xf32>
  %p = qlm.static_scale %a : tensor<64xf32> -> tensor<1xf32>
  // CHECK: qlm.static_scale %{{.*}} over %{{.*}} : tensor<64xf32> : tensor<64xf32> -> tensor<1xf32>
  %q = qlm.static_scale %a over %s : tensor<64xf32> : tensor<64xf32> -> tensor<1xf32>
  // CHECK: qlm.static_scale %{{.*}} {element = 2 : i64} : tensor<3xf32> -> tensor<1xf32>
  %r = qlm.static_scale %t {element = 2 : i64} : tensor<3xf32> -> tensor<1xf32>
  // CHECK: qlm.static_quantize %{{.*}} scale %{{.*}} {scheme = #{{.*}}} : tensor<?x64xf32>, tensor<1xf32> -> tensor<?x64xi8>, tensor<?xf32>
  %c, %y = qlm.static_quantize %x scale %q {scheme = #row} : tensor<?x64xf32>, tensor<1xf32> -> tensor<?x64xi8>, tensor<?xf32>
  return %c : tensor<?x64xi8>
}
