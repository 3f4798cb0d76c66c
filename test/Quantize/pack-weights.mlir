// RUN: quant-opt %s --split-input-file --qlm-pack-weights | FileCheck %s

#int4 = #qlm.scheme<ui4, group, 64, zero_points, range [0, 15], scales f16>
// CHECK: module attributes {qlm.stage = "quantize"}
module attributes {qlm.stage = "optimize"} {
  qlm.parameter @w : tensor<65x128xbf16> from "m.safetensors" key "w"
  qlm.parameter @b : tensor<65xbf16> from "m.safetensors" key "b"

  // CHECK-LABEL: func @quantized
  // CHECK-SAME: (%[[X:.*]]: tensor<?x128xf32>, %[[R:.*]]: tensor<?x65xf32>)
  func.func @quantized(%x: tensor<?x128xf32>, %r: tensor<?x65xf32>) -> tensor<?x65xf32> {
    %w = qlm.load @w : tensor<65x128xbf16>
    %b = qlm.load @b : tensor<65xbf16>
    // CHECK: %[[C:.*]], %[[S:.*]], %[[Z:.*]] = qlm.rtn
    %c, %s, %z = qlm.rtn %w {scheme = #int4} : tensor<65x128xbf16> to tensor<65x128xui4>, tensor<65x2xf16>, tensor<65x2xui4>
    // CHECK: %[[B:.*]] = qlm.convert %{{.*}} : tensor<65xbf16> to tensor<65xf32>
    // CHECK: %[[PC:.*]] = qlm.pack %[[C]] {layout = #qlm.layout<i4x16x8>, name = "layers.0.q.weight"} : tensor<65x128xui4> to tensor<5x16x64xi8>
    // CHECK: %[[PS:.*]] = qlm.pack %[[S]] {layout = #qlm.layout<scale16>, name = "layers.0.q.scales"} : tensor<65x2xf16> to tensor<5x2x16xf16>
    // CHECK: %[[PZ:.*]] = qlm.pack %[[Z]] {layout = #qlm.layout<zero16>, name = "layers.0.q.zero_points"} : tensor<65x2xui4> to tensor<5x2x16xi8>
    // CHECK: %[[PB:.*]] = qlm.pack %[[B]] {layout = #qlm.layout<bias>, name = "layers.0.q.bias"} : tensor<65xf32> to tensor<80xf32>
    // CHECK: qlm.packed_linear %[[X]], %[[PC]] scales %[[PS]] zero_points %[[PZ]] bias %[[PB]] residual %[[R]] {inFeatures = 128 : i64, layout = #qlm.layout<i4x16x8>, outFeatures = 65 : i64, scheme =
    %y = qlm.quantized_linear %x, %c scales %s zero_points %z bias %b residual %r {scheme = #int4} : (tensor<?x128xf32>, tensor<65x128xui4>, tensor<65x2xf16>, tensor<65x2xui4>, tensor<65xbf16>, tensor<?x65xf32>) -> tensor<?x65xf32> loc("layers.0.q")
    return %y : tensor<?x65xf32>
  }
}

// -----

#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>
qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"

// CHECK-LABEL: func @int8_activations
func.func @int8_activations(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  // CHECK: %[[XC:.*]], %[[XS:.*]] = qlm.dynamic_quantize
  %xc, %xs = qlm.dynamic_quantize %x {scheme = #row} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>
  %w = qlm.load @w : tensor<64x128xbf16>
  %c, %s = qlm.rtn %w {scheme = #int8} : tensor<64x128xbf16> to tensor<64x128xi8>, tensor<64xf32>
  // CHECK: qlm.packed_linear %[[XC]] input_scales %[[XS]], %{{.*}} scales %{{.*}} {inFeatures = 128 : i64, layout = #qlm.layout<i8x16x4>, outFeatures = 64
  %y = qlm.quantized_linear %xc input_scales %xs, %c scales %s {scheme = #int8} : (tensor<?x128xi8>, tensor<?xf32>, tensor<64x128xi8>, tensor<64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

qlm.parameter @norm : tensor<128xbf16> from "m.safetensors" key "norm"
qlm.parameter @bf16 : tensor<64x128xbf16> from "m.safetensors" key "bf16"
qlm.parameter @f16 : tensor<64x128xf16> from "m.safetensors" key "f16"
qlm.parameter @f32 : tensor<64x128xf32> from "m.safetensors" key "f32"

// CHECK-LABEL: func @floats
func.func @floats(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>) {
  // CHECK: %[[NORM:.*]] = qlm.load @norm
  // CHECK: %[[W:.*]] = qlm.load @bf16
  // CHECK-NOT: qlm.load @unused
  %unused = qlm.load @f32 : tensor<64x128xf32>
  %converted = qlm.convert %unused : tensor<64x128xf32> to tensor<64x128xf16>
  %norm = qlm.load @norm : tensor<128xbf16>
  %a = qlm.load @bf16 : tensor<64x128xbf16>
  %b = qlm.load @f16 : tensor<64x128xf16>
  %c = qlm.load @f32 : tensor<64x128xf32>
  // CHECK: %[[WIDE:.*]] = qlm.convert %[[NORM]] : tensor<128xbf16> to tensor<128xf32>
  // CHECK: qlm.rms_norm %{{.*}}, %[[WIDE]]
  %n = qlm.rms_norm %x, %norm {epsilon = 1.0e-5 : f32} : tensor<?x128xf32>, tensor<128xbf16>
  // CHECK: %[[P:.*]] = qlm.pack %[[W]] {layout = #qlm.layout<bf16x16x2>, name = "layers.0.q.weight"}
  // CHECK: qlm.packed_linear %{{.*}}, %[[P]] {inFeatures = 128 : i64, layout = #qlm.layout<bf16x16x2>, outFeatures = 64 : i64}
  %y0 = qlm.linear %n, %a : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32> loc("layers.0.q")
  // Two of one name, and none.
  // CHECK: qlm.pack %{{.*}} {layout = #qlm.layout<f16x16>, name = "layers.0.q_1.weight"}
  %y1 = qlm.linear %n, %b : tensor<?x128xf32>, tensor<64x128xf16> -> tensor<?x64xf32> loc("layers.0.q")
  // CHECK: qlm.pack %{{.*}} {layout = #qlm.layout<f32x16>, name = "linear.weight"}
  %y2 = qlm.linear %n, %c : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  // A weight is packed once.
  // CHECK-NOT: qlm.pack %
  // CHECK: qlm.packed_linear %{{.*}}, %[[P]]
  %y3 = qlm.linear %n, %a : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32> loc("layers.1.q")
  return %y0, %y1, %y2, %y3 : tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>
}

// -----

// CHECK-LABEL: func @negative_no_linear
// CHECK-NEXT: qlm.silu
func.func @negative_no_linear(%x: tensor<?x128xf32>) -> tensor<?x128xf32> {
  %y = qlm.silu %x : tensor<?x128xf32>
  return %y : tensor<?x128xf32>
}

// -----

qlm.parameter @bf16 : tensor<64x128xbf16> from "m.safetensors" key "bf16"
qlm.parameter @f32 : tensor<64x128xf32> from "m.safetensors" key "f32"

// Rounded activations go to bf16 weights as they are, to others extended.
// CHECK-LABEL: func @bf16_activations
func.func @bf16_activations(%x: tensor<?x128xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  // CHECK: %[[SHORT:.*]] = qlm.convert %{{.*}} to tensor<?x128xbf16>
  // CHECK: %[[ROUNDED:.*]] = qlm.convert %[[SHORT]]
  %short = qlm.convert %x : tensor<?x128xf32> to tensor<?x128xbf16>
  %rounded = qlm.convert %short : tensor<?x128xbf16> to tensor<?x128xf32>
  %a = qlm.load @bf16 : tensor<64x128xbf16>
  %b = qlm.load @f32 : tensor<64x128xf32>
  // CHECK: qlm.packed_linear %[[SHORT]], {{.*}} : (tensor<?x128xbf16>, tensor<4x64x32xbf16>) -> tensor<?x64xf32>
  // CHECK: qlm.packed_linear %[[ROUNDED]], {{.*}} : (tensor<?x128xf32>, tensor<4x128x16xf32>) -> tensor<?x64xf32>
  %y = qlm.linear %rounded, %a : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32>
  %z = qlm.linear %rounded, %b : tensor<?x128xf32>, tensor<64x128xf32> -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}
