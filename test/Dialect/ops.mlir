// RUN: quant-opt %s | quant-opt | FileCheck %s
// RUN: quant-opt %s --mlir-print-op-generic | quant-opt | FileCheck %s

// Each operation parses and prints; the generic form parses to the same.

#int4 = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>
#int4zp = #qlm.scheme<ui4, group, 64, zero_points, range [0, 15], scales f16>
#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
#nf4 = #qlm.scheme<ui4, group, 64, nf4, scales f32>
#fp8 = #qlm.scheme<f8E4M3FN, channel, bound 448.0, scales f32>
#tensor = #qlm.scheme<ui8, tensor, zero_points, range [0, 255], scales f32>
#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>

// CHECK: qlm.parameter @w : tensor<64x256xbf16> from "model.safetensors" key "a.w"
qlm.parameter @w : tensor<64x256xbf16> from "model.safetensors" key "a.w"

// CHECK-LABEL: @parameters
func.func @parameters(%f: tensor<32xf32>) {
  // CHECK: qlm.load @w : tensor<64x256xbf16>
  %w = qlm.load @w : tensor<64x256xbf16>
  // CHECK: qlm.convert %{{.*}} : tensor<64x256xbf16> to tensor<64x256xf32>
  %0 = qlm.convert %w : tensor<64x256xbf16> to tensor<64x256xf32>
  // CHECK: qlm.rope_table %{{.*}} : tensor<32xf32> to tensor<2048x32x2xf32>
  %1 = qlm.rope_table %f : tensor<32xf32> to tensor<2048x32x2xf32>
  // CHECK: qlm.rtn %{{.*}} {scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.500000e+00, scales f16>} : tensor<64x256xbf16> to tensor<64x256xi4>, tensor<64x2xf16>
  %c, %s = qlm.rtn %w {scheme = #int4} : tensor<64x256xbf16> to tensor<64x256xi4>, tensor<64x2xf16>
  // CHECK: qlm.rtn %{{.*}} {scheme = #qlm.scheme<ui4, group, 64, zero_points, range [0, 15], scales f16>} : tensor<64x256xbf16> to tensor<64x256xui4>, tensor<64x4xf16>, tensor<64x4xui4>
  %c2, %s2, %z2 = qlm.rtn %w {scheme = #int4zp} : tensor<64x256xbf16> to tensor<64x256xui4>, tensor<64x4xf16>, tensor<64x4xui4>
  // CHECK: qlm.pack %{{.*}} {layout = #qlm.layout<i4x16x8>, name = "w.weight"} : tensor<64x256xi4> to tensor<4x32x64xi8>
  %p = qlm.pack %c {layout = #qlm.layout<i4x16x8>, name = "w.weight"} : tensor<64x256xi4> to tensor<4x32x64xi8>
  return
}

// CHECK-LABEL: @model
func.func @model(%t: tensor<?xi32>, %table: tensor<100x64xbf16>, %w: tensor<96x64xbf16>, %b: tensor<96xf16>, %n: tensor<64xf32>, %f: tensor<8xf32>, %r: tensor<?x96xf32>) {
  // CHECK: qlm.embedding %{{.*}}, %{{.*}} : tensor<?xi32>, tensor<100x64xbf16> -> tensor<?x64xf32>
  %x = qlm.embedding %t, %table : tensor<?xi32>, tensor<100x64xbf16> -> tensor<?x64xf32>
  // CHECK: qlm.linear %{{.*}}, %{{.*}} : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32>
  %y = qlm.linear %x, %w : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32>
  // CHECK: qlm.linear %{{.*}}, %{{.*}} bias %{{.*}} : tensor<96xf16> residual %{{.*}} : tensor<?x96xf32> : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32>
  %y2 = qlm.linear %x, %w bias %b : tensor<96xf16> residual %r : tensor<?x96xf32> : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32>
  // CHECK: qlm.linear %{{.*}}, %{{.*}} residual %{{.*}} : tensor<?x96xf32> : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32>
  %y3 = qlm.linear %x, %w residual %r : tensor<?x96xf32> : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32>
  // CHECK: qlm.rms_norm %{{.*}}, %{{.*}} {epsilon = 9.99999974E-6 : f32} : tensor<?x64xf32>, tensor<64xf32>
  %0 = qlm.rms_norm %x, %n {epsilon = 1.0e-5 : f32} : tensor<?x64xf32>, tensor<64xf32>
  // CHECK: qlm.split %{{.*}} : tensor<?x96xf32> -> tensor<?x64xf32>, tensor<?x16xf32>, tensor<?x16xf32>
  %q, %k, %v = qlm.split %y : tensor<?x96xf32> -> tensor<?x64xf32>, tensor<?x16xf32>, tensor<?x16xf32>
  // CHECK: qlm.rope %{{.*}}, %{{.*}}, %{{.*}} : tensor<?x64xf32>, tensor<?xi32>, tensor<8xf32>
  %qr = qlm.rope %q, %t, %f : tensor<?x64xf32>, tensor<?xi32>, tensor<8xf32>
  // CHECK: qlm.attention %{{.*}}, %{{.*}}, %{{.*}} heads 4 kv_heads 1 scale 2.500000e-01 causal : tensor<?x64xf32>, tensor<?x16xf32>
  %a = qlm.attention %qr, %k, %v heads 4 kv_heads 1 scale 2.5e-01 causal : tensor<?x64xf32>, tensor<?x16xf32>
  // CHECK: qlm.attention %{{.*}}, %{{.*}}, %{{.*}} heads 4 kv_heads 1 scale 2.500000e-01 : tensor<?x64xf32>, tensor<?x16xf32>
  %a2 = qlm.attention %qr, %k, %v heads 4 kv_heads 1 scale 2.5e-01 : tensor<?x64xf32>, tensor<?x16xf32>
  // CHECK: qlm.attention {{.*}} scale 2.500000e-01 causal window 5 : tensor<?x64xf32>, tensor<?x16xf32>
  %a3 = qlm.attention %qr, %k, %v heads 4 kv_heads 1 scale 2.5e-01 causal window 5 : tensor<?x64xf32>, tensor<?x16xf32>
  // CHECK: qlm.swiglu %{{.*}} : tensor<?x96xf32> -> tensor<?x48xf32>
  %g = qlm.swiglu %y : tensor<?x96xf32> -> tensor<?x48xf32>
  // CHECK: qlm.silu %{{.*}} : tensor<?x96xf32>
  %s = qlm.silu %y : tensor<?x96xf32>
  // CHECK: qlm.mul %{{.*}}, %{{.*}} : tensor<?x96xf32>
  %m = qlm.mul %s, %y : tensor<?x96xf32>
  // CHECK: qlm.add %{{.*}}, %{{.*}} : tensor<?x96xf32>
  %d = qlm.add %m, %y : tensor<?x96xf32>
  return
}

// CHECK-LABEL: @unfused_attention
func.func @unfused_attention(%q: tensor<?x64xf32>, %k: tensor<?x16xf32>) -> tensor<?x64xf32> {
  // CHECK: qlm.split_heads %{{.*}} repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  %qh = qlm.split_heads %q repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  // CHECK: qlm.split_heads %{{.*}} repeat 4 : tensor<?x16xf32> -> tensor<4x?x16xf32>
  %kh = qlm.split_heads %k repeat 4 : tensor<?x16xf32> -> tensor<4x?x16xf32>
  // CHECK: qlm.matmul %{{.*}}, %{{.*}} transpose_rhs : tensor<4x?x16xf32>, tensor<4x?x16xf32> -> tensor<4x?x?xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<4x?x16xf32>, tensor<4x?x16xf32> -> tensor<4x?x?xf32>
  // CHECK: qlm.scale %{{.*}} by 2.500000e-01 : tensor<4x?x?xf32>
  %t = qlm.scale %s by 2.5e-01 : tensor<4x?x?xf32>
  // CHECK: qlm.causal_mask %{{.*}} : tensor<4x?x?xf32>
  %m = qlm.causal_mask %t : tensor<4x?x?xf32>
  // CHECK: qlm.causal_mask %{{.*}} window 3 : tensor<4x?x?xf32>
  %mw = qlm.causal_mask %t window 3 : tensor<4x?x?xf32>
  // CHECK: qlm.softmax %{{.*}} : tensor<4x?x?xf32>
  %p = qlm.softmax %m : tensor<4x?x?xf32>
  // CHECK: qlm.matmul %{{.*}}, %{{.*}} : tensor<4x?x?xf32>, tensor<4x?x16xf32> -> tensor<4x?x16xf32>
  %o = qlm.matmul %p, %kh : tensor<4x?x?xf32>, tensor<4x?x16xf32> -> tensor<4x?x16xf32>
  // CHECK: qlm.merge_heads %{{.*}} : tensor<4x?x16xf32> -> tensor<?x64xf32>
  %y = qlm.merge_heads %o : tensor<4x?x16xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: @quantization
func.func @quantization(%x: tensor<?x256xf32>, %w: tensor<64x256xf32>, %s: tensor<64xf32>) {
  // CHECK: qlm.quantize %{{.*}} scales %{{.*}} {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 1.270000e+02, scales f32>} : tensor<64x256xf32>, tensor<64xf32> -> tensor<64x256xi8>
  %c = qlm.quantize %w scales %s {scheme = #int8} : tensor<64x256xf32>, tensor<64xf32> -> tensor<64x256xi8>
  // CHECK: qlm.dequantize %{{.*}} scales %{{.*}} {{.*}} : tensor<64x256xi8>, tensor<64xf32> -> tensor<64x256xf32>
  %d = qlm.dequantize %c scales %s {scheme = #int8} : tensor<64x256xi8>, tensor<64xf32> -> tensor<64x256xf32>
  // CHECK: qlm.dynamic_quantize %{{.*}} {scheme = #qlm.scheme<i8, row, {{.*}}>} : tensor<?x256xf32> -> tensor<?x256xi8>, tensor<?xf32>
  %xq, %xs = qlm.dynamic_quantize %x {scheme = #row} : tensor<?x256xf32> -> tensor<?x256xi8>, tensor<?xf32>
  // CHECK: qlm.quantized_linear %{{.*}} input_scales %{{.*}}, %{{.*}} scales %{{.*}} {{.*}} : (tensor<?x256xi8>, tensor<?xf32>, tensor<64x256xi8>, tensor<64xf32>) -> tensor<?x64xf32>
  %y = qlm.quantized_linear %xq input_scales %xs, %c scales %s {scheme = #int8} : (tensor<?x256xi8>, tensor<?xf32>, tensor<64x256xi8>, tensor<64xf32>) -> tensor<?x64xf32>
  // CHECK: qlm.dynamic_quantize %{{.*}} {scheme = #qlm.scheme<f8E4M3FN, row, bound 4.480000e+02, scales f32>} : tensor<?x256xf32> -> tensor<?x256xf8E4M3FN>, tensor<?xf32>
  %x8, %x8s = qlm.dynamic_quantize %x {scheme = #qlm.scheme<f8E4M3FN, row, bound 448.0, scales f32>} : tensor<?x256xf32> -> tensor<?x256xf8E4M3FN>, tensor<?xf32>
  // CHECK: %[[OC:.*]], %[[OS:.*]], %[[O:.*]] = qlm.dynamic_quantize %{{.*}} {scheme = {{.*}}, threshold = 6.000000e+00 : f32} : tensor<?x256xf32> -> tensor<?x256xi8>, tensor<?xf32>, tensor<?x513xf32>
  %oc, %os, %o = qlm.dynamic_quantize %x {scheme = #row, threshold = 6.0 : f32} : tensor<?x256xf32> -> tensor<?x256xi8>, tensor<?xf32>, tensor<?x513xf32>
  // CHECK: qlm.dequantize %[[OC]] scales %[[OS]] outliers %[[O]] : tensor<?x513xf32> {scheme = {{.*}}} : tensor<?x256xi8>, tensor<?xf32> -> tensor<?x256xf32>
  %od = qlm.dequantize %oc scales %os outliers %o : tensor<?x513xf32> {scheme = #row} : tensor<?x256xi8>, tensor<?xf32> -> tensor<?x256xf32>
  // CHECK: qlm.quantized_linear %[[OC]] input_scales %[[OS]] outliers %[[O]], %{{.*}} scales %{{.*}} {{.*}} : (tensor<?x256xi8>, tensor<?xf32>, tensor<?x513xf32>, tensor<64x256xi8>, tensor<64xf32>) -> tensor<?x64xf32>
  %z = qlm.quantized_linear %oc input_scales %os outliers %o, %c scales %s {scheme = #int8} : (tensor<?x256xi8>, tensor<?xf32>, tensor<?x513xf32>, tensor<64x256xi8>, tensor<64xf32>) -> tensor<?x64xf32>
  return
}

// CHECK-LABEL: @codebooks
func.func @codebooks(%w: tensor<64x256xf32>, %x: tensor<?x256xf32>) {
  // CHECK: %[[C:.*]], %[[S:.*]] = qlm.rtn %{{.*}} {scheme = #qlm.scheme<ui4, group, 64, nf4, scales f32>} : tensor<64x256xf32> to tensor<64x256xui4>, tensor<64x4xf32>
  %c, %s = qlm.rtn %w {scheme = #nf4} : tensor<64x256xf32> to tensor<64x256xui4>, tensor<64x4xf32>
  // CHECK: %[[D:.*]], %[[T:.*]] = qlm.quantize_scales %[[S]] : tensor<64x4xf32> to tensor<64x4xui8>, tensor<2xf32>
  %d, %t = qlm.quantize_scales %s : tensor<64x4xf32> to tensor<64x4xui8>, tensor<2xf32>
  // CHECK: qlm.dequantize_scales %[[D]], %[[T]] : tensor<64x4xui8>, tensor<2xf32> to tensor<64x4xf32>
  %s2 = qlm.dequantize_scales %d, %t : tensor<64x4xui8>, tensor<2xf32> to tensor<64x4xf32>
  %pc = qlm.pack %c {layout = #qlm.layout<i4x16x8>, name = "c"} : tensor<64x256xui4> to tensor<4x32x64xi8>
  // CHECK: qlm.pack %[[D]] {layout = #qlm.layout<scale8>, name = "s"} : tensor<64x4xui8> to tensor<4x4x16xi8>
  %ps = qlm.pack %d {layout = #qlm.layout<scale8>, name = "s"} : tensor<64x4xui8> to tensor<4x4x16xi8>
  // CHECK: qlm.pack %[[T]] {layout = #qlm.layout<plain>, name = "t"} : tensor<2xf32> to tensor<2xf32>
  %pt = qlm.pack %t {layout = #qlm.layout<plain>, name = "t"} : tensor<2xf32> to tensor<2xf32>
  // CHECK: qlm.packed_linear %{{.*}}, %{{.*}} scales %{{.*}} super_scales %{{.*}} {
  %y = qlm.packed_linear %x, %pc scales %ps super_scales %pt {inFeatures = 256 : i64, outFeatures = 64 : i64, layout = #qlm.layout<i4x16x8>, scheme = #nf4} : (tensor<?x256xf32>, tensor<4x32x64xi8>, tensor<4x4x16xi8>, tensor<2xf32>) -> tensor<?x64xf32>
  // CHECK: qlm.rtn %{{.*}} {scheme = #qlm.scheme<f8E4M3FN, channel, bound 4.480000e+02, scales f32>} : tensor<64x256xf32> to tensor<64x256xf8E4M3FN>, tensor<64xf32>
  %f, %fs = qlm.rtn %w {scheme = #fp8} : tensor<64x256xf32> to tensor<64x256xf8E4M3FN>, tensor<64xf32>
  // CHECK: qlm.pack %{{.*}} {layout = #qlm.layout<f8x16x4>, name = "f"} : tensor<64x256xf8E4M3FN> to tensor<4x64x64xi8>
  %pf = qlm.pack %f {layout = #qlm.layout<f8x16x4>, name = "f"} : tensor<64x256xf8E4M3FN> to tensor<4x64x64xi8>
  // CHECK: qlm.rtn %{{.*}} {scheme = #qlm.scheme<ui8, tensor, zero_points, range [0, 255], scales f32>} : tensor<64x256xf32> to tensor<64x256xui8>, tensor<1xf32>, tensor<1xui8>
  %u, %us, %uz = qlm.rtn %w {scheme = #tensor} : tensor<64x256xf32> to tensor<64x256xui8>, tensor<1xf32>, tensor<1xui8>
  // CHECK: qlm.pack %{{.*}} {layout = #qlm.layout<scale16>, name = "u"} : tensor<1xf32> to tensor<4x1x16xf32>
  %pu = qlm.pack %us {layout = #qlm.layout<scale16>, name = "u"} : tensor<1xf32> to tensor<4x1x16xf32>
  return
}

// CHECK-LABEL: @planned
func.func @planned(%x: tensor<?x96xf32>, %t: tensor<32x8x2xf32>, %c: tensor<5x2x1x256xf32>, %i: tensor<5x2x1x320xi8>, %p: tensor<?xi32>, %b: tensor<?x?xi32>, %x2: tensor<?x128xf32>, %ws: tensor<4x1x16xf32>, %k: tensor<4x32x64xi8>, %n: tensor<64xf32>) {
  // CHECK: qlm.rope_append %{{.*}}, %{{.*}}, %{{.*}} at %{{.*}}, %{{.*}}, %{{.*}} heads 4 kv_heads 1 page_tokens 16 :
  %q, %c2 = qlm.rope_append %x, %t, %c at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 : (tensor<?x96xf32>, tensor<32x8x2xf32>, tensor<5x2x1x256xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x64xf32>, tensor<5x2x1x256xf32>)
  // CHECK: qlm.paged_attention %{{.*}}, %{{.*}} at %{{.*}}, %{{.*}}, %{{.*}} heads 4 kv_heads 1 page_tokens 16 scale 2.500000e-01 :
  %a = qlm.paged_attention %q, %c2 at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 scale 2.5e-01 : (tensor<?x64xf32>, tensor<5x2x1x256xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
  // CHECK: qlm.rope_append {{.*}} page_tokens 16 codes i8 : {{.*}} -> (tensor<?x64xf32>, tensor<5x2x1x320xi8>)
  %q8, %c8 = qlm.rope_append %x, %t, %i at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 codes i8 : (tensor<?x96xf32>, tensor<32x8x2xf32>, tensor<5x2x1x320xi8>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x64xf32>, tensor<5x2x1x320xi8>)
  // CHECK: qlm.paged_attention {{.*}} page_tokens 16 codes f8E4M3FN scale 2.500000e-01 :
  %a8 = qlm.paged_attention %q8, %c8 at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 codes f8E4M3FN scale 2.5e-01 : (tensor<?x64xf32>, tensor<5x2x1x320xi8>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
  // CHECK: qlm.paged_attention {{.*}} codes f8E4M3FN scale 2.500000e-01 window 7 :
  %a9 = qlm.paged_attention %q8, %c8 at %p, %p, %b heads 4 kv_heads 1 page_tokens 16 codes f8E4M3FN scale 2.5e-01 window 7 : (tensor<?x64xf32>, tensor<5x2x1x320xi8>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x64xf32>
  // CHECK: qlm.select_rows %{{.*}}, %{{.*}} : tensor<?x64xf32>, tensor<?xi32> -> tensor<?x64xf32>
  %r = qlm.select_rows %a, %p : tensor<?x64xf32>, tensor<?xi32> -> tensor<?x64xf32>
  // CHECK: qlm.rms_norm_quantize %{{.*}}, %{{.*}} {epsilon = 1.000000e+00 : f32, scheme = #qlm.scheme<i8, row, {{.*}}>} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xi8>, tensor<?xf32>
  %nc, %ns = qlm.rms_norm_quantize %a, %n {epsilon = 1.0 : f32, scheme = #row} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xi8>, tensor<?xf32>
  // CHECK: qlm.rms_norm_quantize %{{.*}}, %{{.*}} rows %{{.*}} : tensor<?xi32> {epsilon = 1.000000e+00 : f32, scheme = #qlm.scheme<i8, row, {{.*}}>} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xi8>, tensor<?xf32>
  %rc, %rs = qlm.rms_norm_quantize %a, %n rows %p : tensor<?xi32> {epsilon = 1.0 : f32, scheme = #row} : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xi8>, tensor<?xf32>
  // CHECK: qlm.swiglu_quantize %{{.*}} {scheme = #qlm.scheme<i8, row, {{.*}}>} : tensor<?x64xf32> -> tensor<?x32xi8>, tensor<?xf32>
  %gc, %gs = qlm.swiglu_quantize %a {scheme = #row} : tensor<?x64xf32> -> tensor<?x32xi8>, tensor<?xf32>
  // CHECK: qlm.packed_linear %{{.*}}, %{{.*}} scales %{{.*}} {{.*}}layout = #qlm.layout<i8x16x4>
  %y = qlm.packed_linear %x2, %k scales %ws {inFeatures = 128 : i64, outFeatures = 64 : i64, layout = #qlm.layout<i8x16x4>, scheme = #int8} : (tensor<?x128xf32>, tensor<4x32x64xi8>, tensor<4x1x16xf32>) -> tensor<?x64xf32>
  // CHECK: qlm.launch @kernels::@gemv "layers.0.qkv" tiles <4 * tokens, block 1> args [#qlm.arg<weight>, #qlm.arg<arena, 64>, #qlm.arg<step, 2>, #qlm.arg<cache, 1>, #qlm.arg<logits>] weights(%{{.*}} : tensor<4x32x64xi8>) {bytes = 3 : i64, flopsPerRow = 2 : i64}
  qlm.launch @kernels::@gemv "layers.0.qkv" tiles <4 * tokens, block 1> args [#qlm.arg<weight>, #qlm.arg<arena, 64>, #qlm.arg<step, 2>, #qlm.arg<cache, 1>, #qlm.arg<logits>] weights(%k : tensor<4x32x64xi8>) {bytes = 3 : i64, flopsPerRow = 2 : i64}
  return
}
