// RUN: quant-opt %s --split-input-file --qlm-quantize-weights="weights=int4 group-size=64" | FileCheck %s --check-prefixes=CHECK,INT4
// RUN: quant-opt %s --split-input-file --qlm-quantize-weights="weights=int4 group-size=64 zero-points" | FileCheck %s --check-prefix=ZERO
// RUN: quant-opt %s --split-input-file --qlm-quantize-weights="weights=int8 keep-lm-head table-type=f32" | FileCheck %s --check-prefixes=CHECK,INT8
// RUN: quant-opt %s --split-input-file --qlm-quantize-weights="weights=int8 zero-points" | FileCheck %s --check-prefix=INT8ZERO
// RUN: quant-opt %s --split-input-file --qlm-quantize-weights="weights=f16" | FileCheck %s --check-prefix=F16
// RUN: quant-opt %s --split-input-file --qlm-quantize-weights="weights=bf16 keep-lm-head" | FileCheck %s --check-prefix=BF16

qlm.parameter @table : tensor<512x128xbf16> from "m.safetensors" key "table"
qlm.parameter @norm : tensor<128xbf16> from "m.safetensors" key "norm"
qlm.parameter @o : tensor<128x128xf32> from "m.safetensors" key "o"
qlm.parameter @bias : tensor<128xf32> from "m.safetensors" key "bias"

// CHECK-LABEL: func @tied
// ZERO-LABEL: func @tied
// INT8ZERO-LABEL: func @tied
// F16-LABEL: func @tied
// BF16-LABEL: func @tied
func.func @tied(%tokens: tensor<?xi32>) -> tensor<?x512xf32> {
  // CHECK: %[[TABLE:.*]] = qlm.load @table
  // CHECK: %[[NORM:.*]] = qlm.load @norm
  // CHECK: %[[O:.*]] = qlm.load @o
  // CHECK: %[[BIAS:.*]] = qlm.load @bias
  %table = qlm.load @table : tensor<512x128xbf16>
  %norm = qlm.load @norm : tensor<128xbf16>
  %o = qlm.load @o : tensor<128x128xf32>
  %bias = qlm.load @bias : tensor<128xf32>
  // INT4: %[[X:.*]] = qlm.embedding %{{.*}}, %[[TABLE]]
  // INT8: %[[WIDE:.*]] = qlm.convert %[[TABLE]] : tensor<512x128xbf16> to tensor<512x128xf32>
  // INT8: %[[X:.*]] = qlm.embedding %{{.*}}, %[[WIDE]]
  %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<512x128xbf16> -> tensor<?x128xf32>
  // CHECK: %[[N:.*]] = qlm.rms_norm %[[X]], %[[NORM]]
  %n = qlm.rms_norm %x, %norm {epsilon = 1.0e-5 : f32} : tensor<?x128xf32>, tensor<128xbf16>
  // INT4: %[[CODES:.*]], %[[SCALES:.*]] = qlm.rtn %[[O]] {scheme = #{{.*}}<i4, group, 64, range [-8, 7], bound 7.500000e+00, scales f16>} : tensor<128x128xf32> to tensor<128x128xi4>, tensor<128x2xf16>
  // INT8: %[[CODES:.*]], %[[SCALES:.*]] = qlm.rtn %[[O]] {scheme = #{{.*}}<i8, channel, range [-127, 127], bound 1.270000e+02, scales f32>} : tensor<128x128xf32> to tensor<128x128xi8>, tensor<128xf32>
  // CHECK: %[[W:.*]] = qlm.dequantize %[[CODES]] scales %[[SCALES]]
  // CHECK: %[[A:.*]] = qlm.linear %[[N]], %[[W]] bias %[[BIAS]] : tensor<128xf32> residual %[[X]]
  // ZERO: %[[CODES:.*]], %[[SCALES:.*]], %[[ZEROS:.*]] = qlm.rtn {{.*}}<ui4, group, 64, zero_points, range [0, 15], scales f16>{{.*}} to tensor<128x128xui4>, tensor<128x2xf16>, tensor<128x2xui4>
  // ZERO: qlm.dequantize %[[CODES]] scales %[[SCALES]] zero_points %[[ZEROS]]
  // INT8ZERO: qlm.rtn {{.*}}<ui8, channel, zero_points, range [0, 255], scales f32>{{.*}} to tensor<128x128xui8>, tensor<128xf32>, tensor<128xui8>
  // F16: %[[W:.*]] = qlm.convert %{{.*}} : tensor<128x128xf32> to tensor<128x128xf16>
  // F16: qlm.linear %{{.*}}, %[[W]] bias
  // BF16: %[[W:.*]] = qlm.convert %{{.*}} : tensor<128x128xf32> to tensor<128x128xbf16>
  // BF16: qlm.linear %{{.*}}, %[[W]] bias
  %a = qlm.linear %n, %o bias %bias : tensor<128xf32> residual %x : tensor<?x128xf32> : tensor<?x128xf32>, tensor<128x128xf32> -> tensor<?x128xf32>
  // A weight is quantized once.
  // INT4-NOT: qlm.rtn %[[O]]
  // CHECK: %[[B:.*]] = qlm.linear %[[A]], %[[W]] :
  %b = qlm.linear %a, %o : tensor<?x128xf32>, tensor<128x128xf32> -> tensor<?x128xf32>
  // INT4: qlm.rtn %[[TABLE]]
  // INT8: qlm.linear %[[B]], %[[TABLE]]
  // F16: qlm.convert %{{.*}} : tensor<512x128xbf16> to tensor<512x128xf16>
  // BF16-NOT: qlm.convert
  // BF16: qlm.linear
  // BF16: qlm.linear
  %logits = qlm.linear %b, %table : tensor<?x128xf32>, tensor<512x128xbf16> -> tensor<?x512xf32>
  return %logits : tensor<?x512xf32>
}

// -----

qlm.parameter @q : tensor<64x128xbf16> from "m.safetensors" key "q"
qlm.parameter @k : tensor<32x128xbf16> from "m.safetensors" key "k"

// CHECK-LABEL: func @merged
func.func @merged(%x: tensor<?x128xf32>) -> tensor<?x96xf32> {
  %q = qlm.load @q : tensor<64x128xbf16>
  %k = qlm.load @k : tensor<32x128xbf16>
  // CHECK: %[[QK:.*]] = tensor.concat
  // INT4: qlm.rtn %[[QK]] {{.*}} tensor<96x128xbf16> to tensor<96x128xi4>, tensor<96x2xf16>
  %qk = tensor.concat dim(0) %q, %k : (tensor<64x128xbf16>, tensor<32x128xbf16>) -> tensor<96x128xbf16>
  %y = qlm.linear %x, %qk : tensor<?x128xf32>, tensor<96x128xbf16> -> tensor<?x96xf32>
  return %y : tensor<?x96xf32>
}

// -----

qlm.parameter @w : tensor<64x128xf16> from "m.safetensors" key "w"

// F16-LABEL: func @negative_same_type
func.func @negative_same_type(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  // F16: %[[W:.*]] = qlm.load
  // F16-NEXT: qlm.linear %{{.*}}, %[[W]]
  %w = qlm.load @w : tensor<64x128xf16>
  %y = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xf16> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
