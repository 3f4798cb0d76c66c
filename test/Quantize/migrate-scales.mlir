// RUN: quant-opt %s --qlm-migrate-scales="migration=awq weights=int4 group-size=32 statistics=s.safetensors" | FileCheck %s --check-prefixes=CHECK,AWQ
// RUN: quant-opt %s --qlm-migrate-scales="migration=smooth smoothing=0.8 statistics=s.safetensors" | FileCheck %s --check-prefixes=CHECK,SMOOTH
// RUN: quant-opt %s --qlm-migrate-scales | FileCheck %s --check-prefix=NONE
// RUN: not quant-opt %s --qlm-migrate-scales="migration=best" 2>&1 | FileCheck %s --check-prefix=NAME
// RUN: not quant-opt %s --qlm-migrate-scales="migration=smooth" 2>&1 | FileCheck %s --check-prefix=MISSING
// RUN: not quant-opt %s --qlm-migrate-scales="migration=smooth smoothing=2 statistics=s" 2>&1 | FileCheck %s --check-prefix=ALPHA
// RUN: not quant-opt %s --qlm-migrate-scales="migration=awq statistics=s" 2>&1 | FileCheck %s --check-prefix=FLOATS
// RUN: not quant-opt %s --qlm-migrate-scales="migration=awq weights=int8 granularity=tensor statistics=s" 2>&1 | FileCheck %s --check-prefix=TENSOR
// RUN: not quant-opt %s --qlm-migrate-scales="migration=awq weights=int4 group-size=48 statistics=s" 2>&1 | FileCheck %s --check-prefix=GROUP

// NAME: error: migration must be none, awq or smooth, got 'best'
// MISSING: error: migration=smooth needs statistics of a calibration
// ALPHA: error: smoothing must be from 0 to 1, got 2
// FLOATS: error: migration=awq needs quantized weights, got 'f32'
// TENSOR: error: migration=awq needs granularity channel or group, got 'tensor'
// GROUP: error: {{.*}}group size must divide the columns, got 48 and 64 in norm_linear

// NONE-NOT: qlm.scale_
// CHECK: module attributes {qlm.statistics = "s.safetensors"}
qlm.parameter @g : tensor<64xbf16> from "m.safetensors" key "g"
qlm.parameter @w : tensor<96x64xbf16> from "m.safetensors" key "w"
qlm.parameter @d : tensor<64x128xbf16> from "m.safetensors" key "d"
qlm.parameter @u : tensor<256x64xbf16> from "m.safetensors" key "u"
qlm.parameter @o : tensor<64x64xbf16> from "m.safetensors" key "o"

// Two linears share the norm, and so their scales.
// CHECK-LABEL: func @norm
func.func @norm(%x: tensor<?x64xf32>) -> (tensor<?x96xf32>, tensor<?x96xf32>) {
  %g = qlm.load @g : tensor<64xbf16>
  %w = qlm.load @w : tensor<96x64xbf16>
  // AWQ: %[[S:.*]] = qlm.awq_scales %{{.*}}, %{{.*}} mean %{{.*}} moments %{{.*}} {scheme = #{{.*}}} : (tensor<96x64xbf16>, tensor<96x64xbf16>, tensor<64xf32>, tensor<64x64xf32>) -> tensor<64xf32>
  // SMOOTH: %[[S:.*]] = qlm.smooth_scales %{{.*}}, %{{.*}} absmax %{{.*}} alpha 8.000000e-01 : (tensor<96x64xbf16>, tensor<96x64xbf16>, tensor<64xf32>) -> tensor<64xf32>
  // CHECK: %[[G:.*]] = qlm.scale_rows %{{.*}} by %[[S]] from 0 : tensor<64xbf16>, tensor<64xf32> -> tensor<64xf32>
  // CHECK: qlm.rms_norm %{{.*}}, %[[G]]
  %n = qlm.rms_norm %x, %g {epsilon = 1.0e-5 : f32} : tensor<?x64xf32>, tensor<64xbf16>
  // CHECK: %[[W:.*]] = qlm.scale_columns %{{.*}} by %[[S]] : tensor<96x64xbf16>
  // CHECK: qlm.linear %{{.*}}, %[[W]]
  %y = qlm.linear %n, %w : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32> loc("norm_linear")
  // CHECK: qlm.scale_columns %{{.*}} by %[[S]] : tensor<96x64xbf16>
  %z = qlm.linear %n, %w : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32> loc("other")
  return %y, %z : tensor<?x96xf32>, tensor<?x96xf32>
}

// The gate's half of the rows stays as it is.
// CHECK-LABEL: func @swiglu
func.func @swiglu(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %u = qlm.load @u : tensor<256x64xbf16>
  %d = qlm.load @d : tensor<64x128xbf16>
  // CHECK: qlm.scale_rows %{{.*}} by %{{.*}} from 128 : tensor<256x64xbf16>, tensor<128xf32> -> tensor<256x64xf32>
  %y = qlm.linear %x, %u : tensor<?x64xf32>, tensor<256x64xbf16> -> tensor<?x256xf32> loc("gate_up")
  %a = qlm.swiglu %y : tensor<?x256xf32> -> tensor<?x128xf32>
  // CHECK: qlm.scale_columns %{{.*}} by %{{.*}} : tensor<64x128xbf16>, tensor<128xf32>
  %z = qlm.linear %a, %d : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32> loc("down")
  return %z : tensor<?x64xf32>
}

// Two query heads share a value head, and so scales.
// CHECK-LABEL: func @attention
func.func @attention(%x: tensor<?x64xf32>, %q: tensor<?x64xf32>, %k: tensor<?x32xf32>) -> tensor<?x64xf32> {
  %w = qlm.load @w : tensor<96x64xbf16>
  %o = qlm.load @o : tensor<64x64xbf16>
  // CHECK: qlm.scale_rows %{{.*}} by %{{.*}} from 64 : tensor<96x64xbf16>, tensor<32xf32> -> tensor<96x64xf32>
  %y = qlm.linear %x, %w : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32> loc("kv")
  %p, %v = qlm.split %y : tensor<?x96xf32> -> tensor<?x64xf32>, tensor<?x32xf32>
  %a = qlm.attention %p, %k, %v heads 4 kv_heads 2 scale 1.250000e-01 causal : tensor<?x64xf32>, tensor<?x32xf32>
  // CHECK: qlm.scale_columns %{{.*}} by %{{.*}} heads [2, 16] : tensor<64x64xbf16>, tensor<32xf32>
  %z = qlm.linear %a, %o : tensor<?x64xf32>, tensor<64x64xbf16> -> tensor<?x64xf32> loc("o")
  return %z : tensor<?x64xf32>
}

// A norm that something else reads can't change.
// CHECK-LABEL: func @negative_other_user
// CHECK-NOT: qlm.scale_
func.func @negative_other_user(%x: tensor<?x64xf32>) -> (tensor<?x96xf32>, tensor<?x64xf32>) {
  %g = qlm.load @g : tensor<64xbf16>
  %w = qlm.load @w : tensor<96x64xbf16>
  %n = qlm.rms_norm %x, %g {epsilon = 1.0e-5 : f32} : tensor<?x64xf32>, tensor<64xbf16>
  %y = qlm.linear %n, %w : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32>
  return %y, %n : tensor<?x96xf32>, tensor<?x64xf32>
}
