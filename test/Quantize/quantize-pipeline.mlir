// RUN: quant-opt %s --qlm-quantize-pipeline="weights=int4 group-size=64 activations=int8-dynamic keep-lm-head" | FileCheck %s
// RUN: quant-opt %s --qlm-quantize-pipeline | FileCheck %s --check-prefix=F32
// RUN: quant-opt %s --qlm-quantize-pipeline="weights=int8" --mlir-print-debuginfo --mlir-print-local-scope | FileCheck %s --check-prefix=LOC

// A norm, two merged projections and the head: the whole stage.
// CHECK: qlm.stage = "quantize"
module attributes {qlm.stage = "optimize"} {
  qlm.parameter @norm : tensor<128xbf16> from "m.safetensors" key "norm"
  qlm.parameter @gate : tensor<64x128xbf16> from "m.safetensors" key "gate"
  qlm.parameter @up : tensor<64x128xbf16> from "m.safetensors" key "up"
  qlm.parameter @head : tensor<96x64xbf16> from "m.safetensors" key "head"

  // CHECK-LABEL: func @forward
  // F32-LABEL: func @forward
  func.func @forward(%x: tensor<?x128xf32>) -> tensor<?x96xf32> {
    %norm = qlm.load @norm : tensor<128xbf16>
    %gate = qlm.load @gate : tensor<64x128xbf16>
    %up = qlm.load @up : tensor<64x128xbf16>
    %head = qlm.load @head : tensor<96x64xbf16>
    // CHECK: %[[HEAD:.*]] = qlm.load @head
    // CHECK: %[[W:.*]] = tensor.concat
    %w = tensor.concat dim(0) %gate, %up : (tensor<64x128xbf16>, tensor<64x128xbf16>) -> tensor<128x128xbf16>
    // CHECK: %[[N:.*]] = qlm.rms_norm
    // CHECK: %[[NC:.*]], %[[NS:.*]] = qlm.dynamic_quantize %[[N]]
    // CHECK: %[[C:.*]], %[[S:.*]] = qlm.rtn %[[W]]
    // CHECK: %[[PC:.*]] = qlm.pack %[[C]]{{.*}}"layers.0.gate_up.weight"
    // CHECK: %[[PS:.*]] = qlm.pack %[[S]]{{.*}}"layers.0.gate_up.scales"
    // CHECK: qlm.packed_linear %[[NC]] input_scales %[[NS]], %[[PC]] scales %[[PS]] {inFeatures = 128 : i64,
    // LOC: qlm.packed_linear {{.*}} loc("layers.0.gate_up")
    // CHECK-NOT: qlm.dequantize
    // CHECK: %[[H:.*]] = qlm.swiglu
    // CHECK: %[[PH:.*]] = qlm.pack %[[HEAD]] {layout = #qlm.layout<bf16x16x2>, name = "lm_head.weight"}
    // CHECK: qlm.packed_linear %[[H]], %[[PH]]
    // F32-NOT: qlm.rtn
    // F32: qlm.pack %{{.*}} {layout = #qlm.layout<f32x16>, name = "layers.0.gate_up.weight"}
    // F32: qlm.pack %{{.*}} {layout = #qlm.layout<f32x16>, name = "lm_head.weight"}
    %n = qlm.rms_norm %x, %norm {epsilon = 1.0e-5 : f32} : tensor<?x128xf32>, tensor<128xbf16> loc("layers.0.mlp_norm")
    %g = qlm.linear %n, %w : tensor<?x128xf32>, tensor<128x128xbf16> -> tensor<?x128xf32> loc("layers.0.gate_up")
    %h = qlm.swiglu %g : tensor<?x128xf32> -> tensor<?x64xf32> loc("layers.0.swiglu")
    %y = qlm.linear %h, %head : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32> loc("lm_head")
    return %y : tensor<?x96xf32>
  }
}
