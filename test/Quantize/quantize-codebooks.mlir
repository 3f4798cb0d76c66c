// RUN: quant-opt %s --qlm-quantize-pipeline="weights=nf4" | FileCheck %s --check-prefixes=CHECK,NF4
// RUN: quant-opt %s --qlm-quantize-pipeline="weights=nf4 double-quant group-size=32" | FileCheck %s --check-prefixes=CHECK,DOUBLE
// RUN: quant-opt %s --qlm-quantize-pipeline="weights=fp8" | FileCheck %s --check-prefixes=CHECK,FP8
// RUN: quant-opt %s --qlm-quantize-pipeline="weights=int8 granularity=tensor zero-points" | FileCheck %s --check-prefixes=CHECK,TENSOR
// RUN: quant-opt %s --qlm-quantize-pipeline="weights=int8 granularity=group group-size=16" | FileCheck %s --check-prefixes=CHECK,GROUP
// RUN: quant-opt %s --qlm-quantize-pipeline="weights=int4 granularity=channel" | FileCheck %s --check-prefixes=CHECK,CHANNEL

qlm.parameter @w : tensor<50x128xbf16> from "m.safetensors" key "w"

// CHECK-LABEL: func @forward
func.func @forward(%x: tensor<?x128xf32>) -> tensor<?x50xf32> {
  // CHECK: %[[W:.*]] = qlm.load @w
  // NF4: %[[C:.*]], %[[S:.*]] = qlm.rtn %[[W]] {{.*}}<ui4, group, 64, nf4, scales f32>{{.*}} to tensor<50x128xui4>, tensor<50x2xf32>
  // NF4: qlm.pack %[[S]] {layout = #qlm.layout<scale16>, name = "lm_head.scales"} : tensor<50x2xf32> to tensor<4x2x16xf32>
  // DOUBLE: %[[C:.*]], %[[S:.*]] = qlm.rtn %[[W]] {{.*}}<ui4, group, 32, nf4, scales f32>
  // DOUBLE: %[[D:.*]], %[[T:.*]] = qlm.quantize_scales %[[S]] : tensor<50x4xf32> to tensor<50x4xui8>, tensor<2xf32>
  // DOUBLE-NOT: qlm.dequantize_scales
  // DOUBLE: qlm.pack %[[D]] {layout = #qlm.layout<scale8>, name = "lm_head.scales"}
  // DOUBLE: qlm.pack %[[T]] {layout = #qlm.layout<plain>, name = "lm_head.super_scales"}
  // DOUBLE: qlm.packed_linear {{.*}} super_scales
  // FP8: qlm.rtn %[[W]] {{.*}}<f8E4M3FN, channel, bound 4.480000e+02, scales f32>{{.*}} to tensor<50x128xf8E4M3FN>, tensor<50xf32>
  // FP8: qlm.packed_linear {{.*}}layout = #qlm.layout<f8x16x4>
  // TENSOR: qlm.rtn %[[W]] {{.*}}<ui8, tensor, zero_points, range [0, 255], scales f32>{{.*}} to tensor<50x128xui8>, tensor<1xf32>, tensor<1xui8>
  // TENSOR: qlm.pack {{.*}}"lm_head.scales"} : tensor<1xf32> to tensor<4x1x16xf32>
  // TENSOR: qlm.pack {{.*}}"lm_head.zero_points"} : tensor<1xui8> to tensor<4x1x16xi8>
  // GROUP: qlm.rtn %[[W]] {{.*}}<i8, group, 16, range [-127, 127], bound 1.270000e+02, scales f32>
  // CHANNEL: qlm.rtn %[[W]] {{.*}}<i4, channel, range [-8, 7], bound 7.500000e+00, scales f16>
  %w = qlm.load @w : tensor<50x128xbf16>
  %y = qlm.linear %x, %w : tensor<?x128xf32>, tensor<50x128xbf16> -> tensor<?x50xf32> loc("lm_head")
  return %y : tensor<?x50xf32>
}
