// RUN: quant-opt --qlm-merge-linears --split-input-file %s | FileCheck %s

qlm.parameter @q : tensor<64x64xbf16> from "m.safetensors" key "q"
qlm.parameter @k : tensor<32x64xbf16> from "m.safetensors" key "k"
qlm.parameter @v : tensor<32x64xbf16> from "m.safetensors" key "v"
// CHECK-LABEL: func.func @query_key_value
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32>, %[[P:.*]]: tensor<?xi32>, %[[F:.*]]: tensor<8xf32>)
func.func @query_key_value(%x: tensor<?x64xf32>, %p: tensor<?xi32>, %f: tensor<8xf32>) -> tensor<?x64xf32> {
  // CHECK-DAG: %[[Q:.*]] = qlm.load @q
  // CHECK-DAG: %[[K:.*]] = qlm.load @k
  // CHECK-DAG: %[[V:.*]] = qlm.load @v
  // CHECK: %[[W:.*]] = tensor.concat dim(0) %[[Q]], %[[K]], %[[V]] : (tensor<64x64xbf16>, tensor<32x64xbf16>, tensor<32x64xbf16>) -> tensor<128x64xbf16>
  // CHECK: %[[Y:.*]] = qlm.linear %[[X]], %[[W]] : tensor<?x64xf32>, tensor<128x64xbf16> -> tensor<?x128xf32>
  // CHECK: %[[S:.*]]:3 = qlm.split %[[Y]] : tensor<?x128xf32> -> tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>
  // CHECK: %[[QR:.*]] = qlm.rope %[[S]]#0, %[[P]], %[[F]]
  // CHECK: %[[KR:.*]] = qlm.rope %[[S]]#1, %[[P]], %[[F]]
  // CHECK: qlm.attention %[[QR]], %[[KR]], %[[S]]#2
  // CHECK-NOT: qlm.linear
  %wq = qlm.load @q : tensor<64x64xbf16>
  %q = qlm.linear %x, %wq : tensor<?x64xf32>, tensor<64x64xbf16> -> tensor<?x64xf32>
  %qr = qlm.rope %q, %p, %f : tensor<?x64xf32>, tensor<?xi32>, tensor<8xf32>
  %wk = qlm.load @k : tensor<32x64xbf16>
  %k = qlm.linear %x, %wk : tensor<?x64xf32>, tensor<32x64xbf16> -> tensor<?x32xf32>
  %kr = qlm.rope %k, %p, %f : tensor<?x32xf32>, tensor<?xi32>, tensor<8xf32>
  %wv = qlm.load @v : tensor<32x64xbf16>
  %v = qlm.linear %x, %wv : tensor<?x64xf32>, tensor<32x64xbf16> -> tensor<?x32xf32>
  %a = qlm.attention %qr, %kr, %v heads 4 kv_heads 2 scale 2.500000e-01 causal : tensor<?x64xf32>, tensor<?x32xf32>
  return %a : tensor<?x64xf32>
}

// -----

// The value comes first in the block, and an element type is converted.
qlm.parameter @q : tensor<64x64xbf16> from "m.safetensors" key "q"
// CHECK-LABEL: func.func @order_of_operands
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32>, %[[K:.*]]: tensor<64x64xf32>, %[[V:.*]]: tensor<64x64xf32>)
func.func @order_of_operands(%x: tensor<?x64xf32>, %wk: tensor<64x64xf32>, %wv: tensor<64x64xf32>) -> tensor<?x64xf32> {
  // CHECK: %[[L:.*]] = qlm.load @q
  // CHECK: %[[Q:.*]] = qlm.convert %[[L]]
  // CHECK: tensor.concat dim(0) %[[Q]], %[[K]], %[[V]]
  // CHECK: %[[S:.*]]:3 = qlm.split
  // CHECK: qlm.attention %[[S]]#0, %[[S]]#1, %[[S]]#2
  %v = qlm.linear %x, %wv : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  %k = qlm.linear %x, %wk : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  %l = qlm.load @q : tensor<64x64xbf16>
  %wq = qlm.convert %l : tensor<64x64xbf16> to tensor<64x64xf32>
  %q = qlm.linear %x, %wq : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  %a = qlm.attention %q, %k, %v heads 4 kv_heads 4 scale 2.500000e-01 causal : tensor<?x64xf32>, tensor<?x64xf32>
  return %a : tensor<?x64xf32>
}

// -----

// CHECK-LABEL: func.func @gate_and_up_with_biases
// CHECK-SAME: (%[[X:.*]]: tensor<?x8xf32>, %[[WG:.*]]: tensor<6x8xf16>, %[[WU:.*]]: tensor<6x8xf16>, %[[BG:.*]]: tensor<6xf16>, %[[BU:.*]]: tensor<6xf16>)
func.func @gate_and_up_with_biases(%x: tensor<?x8xf32>, %wg: tensor<6x8xf16>, %wu: tensor<6x8xf16>, %bg: tensor<6xf16>, %bu: tensor<6xf16>) -> tensor<?x6xf32> {
  // CHECK: %[[W:.*]] = tensor.concat dim(0) %[[WG]], %[[WU]] : {{.*}} -> tensor<12x8xf16>
  // CHECK: %[[B:.*]] = tensor.concat dim(0) %[[BG]], %[[BU]] : {{.*}} -> tensor<12xf16>
  // CHECK: %[[Y:.*]] = qlm.linear %[[X]], %[[W]] bias %[[B]]
  // CHECK: %[[S:.*]]:2 = qlm.split %[[Y]] : tensor<?x12xf32> -> tensor<?x6xf32>, tensor<?x6xf32>
  // CHECK: %[[A:.*]] = qlm.silu %[[S]]#0
  // CHECK: qlm.mul %[[S]]#1, %[[A]]
  %u = qlm.linear %x, %wu bias %bu : tensor<6xf16> : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %g = qlm.linear %x, %wg bias %bg : tensor<6xf16> : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %u, %s : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_different_inputs
// CHECK-NOT: qlm.split
func.func @negative_different_inputs(%x: tensor<?x8xf32>, %y: tensor<?x8xf32>, %wg: tensor<6x8xf16>, %wu: tensor<6x8xf16>) -> tensor<?x6xf32> {
  %g = qlm.linear %x, %wg : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %u = qlm.linear %y, %wu : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_different_weight_types
// CHECK-NOT: qlm.split
func.func @negative_different_weight_types(%x: tensor<?x8xf32>, %wg: tensor<6x8xf16>, %wu: tensor<6x8xbf16>) -> tensor<?x6xf32> {
  %g = qlm.linear %x, %wg : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %u = qlm.linear %x, %wu : tensor<?x8xf32>, tensor<6x8xbf16> -> tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_one_bias
// CHECK-NOT: qlm.split
func.func @negative_one_bias(%x: tensor<?x8xf32>, %wg: tensor<6x8xf16>, %wu: tensor<6x8xf16>, %b: tensor<6xf16>) -> tensor<?x6xf32> {
  %g = qlm.linear %x, %wg bias %b : tensor<6xf16> : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %u = qlm.linear %x, %wu : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_residual
// CHECK-NOT: qlm.split
func.func @negative_residual(%x: tensor<?x8xf32>, %wg: tensor<6x8xf16>, %wu: tensor<6x8xf16>, %r: tensor<?x6xf32>) -> tensor<?x6xf32> {
  %g = qlm.linear %x, %wg residual %r : tensor<?x6xf32> : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %u = qlm.linear %x, %wu : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_gate_times_itself
// CHECK-NOT: qlm.split
func.func @negative_gate_times_itself(%x: tensor<?x8xf32>, %w: tensor<6x8xf16>) -> tensor<?x6xf32> {
  %g = qlm.linear %x, %w : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %g : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// Linears that share an input for another reason stay apart.
// CHECK-LABEL: func.func @negative_no_silu
// CHECK-NOT: qlm.split
func.func @negative_no_silu(%x: tensor<?x8xf32>, %wg: tensor<6x8xf16>, %wu: tensor<6x8xf16>) -> tensor<?x6xf32> {
  %g = qlm.linear %x, %wg : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %u = qlm.linear %x, %wu : tensor<?x8xf32>, tensor<6x8xf16> -> tensor<?x6xf32>
  %m = qlm.mul %g, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}

// -----

// CHECK-LABEL: func.func @negative_value_given
// CHECK-NOT: qlm.split
func.func @negative_value_given(%x: tensor<?x64xf32>, %wq: tensor<64x64xf32>, %wk: tensor<64x64xf32>, %v: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %q = qlm.linear %x, %wq : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  %k = qlm.linear %x, %wk : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  %a = qlm.attention %q, %k, %v heads 4 kv_heads 4 scale 2.500000e-01 causal : tensor<?x64xf32>, tensor<?x64xf32>
  return %a : tensor<?x64xf32>
}

// -----

// A weight that is neither a parameter nor known before the first projection.
// CHECK-LABEL: func.func @negative_weight_computed_later
// CHECK-NOT: qlm.split
func.func @negative_weight_computed_later(%x: tensor<?x8xf32>, %wg: tensor<6x8xf32>, %a: tensor<6x8xf32>) -> tensor<?x6xf32> {
  %g = qlm.linear %x, %wg : tensor<?x8xf32>, tensor<6x8xf32> -> tensor<?x6xf32>
  %wu = qlm.add %a, %a : tensor<6x8xf32>
  %u = qlm.linear %x, %wu : tensor<?x8xf32>, tensor<6x8xf32> -> tensor<?x6xf32>
  %s = qlm.silu %g : tensor<?x6xf32>
  %m = qlm.mul %s, %u : tensor<?x6xf32>
  return %m : tensor<?x6xf32>
}
