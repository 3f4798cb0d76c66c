// RUN: quant-opt --qlm-optimize-pipeline %s -mlir-print-debuginfo | FileCheck %s
// RUN: quant-opt --qlm-optimize-pipeline=merge-linears=false %s | FileCheck %s --check-prefix=APART

// A layer in the importer's plain spelling: every pass has something to do,
// and the labels say which layer an operation belongs to.

// CHECK: module attributes {qlm.stage = "optimize"}
module attributes {qlm.stage = "import"} {
  qlm.parameter @q : tensor<64x64xbf16> from "m.safetensors" key "q"
  qlm.parameter @k : tensor<32x64xbf16> from "m.safetensors" key "k"
  qlm.parameter @v : tensor<32x64xbf16> from "m.safetensors" key "v"
  qlm.parameter @o : tensor<64x64xbf16> from "m.safetensors" key "o"
  qlm.parameter @gate : tensor<96x64xbf16> from "m.safetensors" key "gate"
  qlm.parameter @up : tensor<96x64xbf16> from "m.safetensors" key "up"
  qlm.parameter @down : tensor<64x96xbf16> from "m.safetensors" key "down"

  // CHECK-LABEL: func.func @layer
  // CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32> loc({{.*}}), %[[P:.*]]: tensor<?xi32> loc({{.*}}), %[[F:.*]]: tensor<8xf32>
  // CHECK: qlm.linear %[[X]], %{{.*}} -> tensor<?x128xf32> loc(#[[QKV:.*]])
  // CHECK: qlm.split
  // CHECK: qlm.rope
  // CHECK: qlm.rope
  // CHECK: qlm.attention {{.*}} heads 4 kv_heads 2 scale 2.500000e-01 causal {{.*}} loc(#[[ATTENTION:.*]])
  // CHECK: %[[Y:.*]] = qlm.linear {{.*}} residual %[[X]] {{.*}} loc(#[[O:.*]])
  // CHECK: qlm.linear %[[Y]], {{.*}} -> tensor<?x192xf32> loc(#[[GATE_UP:.*]])
  // CHECK: qlm.swiglu {{.*}} loc(#[[SWIGLU:.*]])
  // CHECK: qlm.linear {{.*}} residual %[[Y]] {{.*}} loc(#[[DOWN:.*]])
  // CHECK-NEXT: return
  // CHECK-DAG: #[[QKV]] = loc("layers.7.qkv")
  // CHECK-DAG: #[[ATTENTION]] = loc("layers.7.attention")
  // CHECK-DAG: #[[O]] = loc("layers.7.o")
  // CHECK-DAG: #[[GATE_UP]] = loc("layers.7.gate_up")
  // CHECK-DAG: #[[SWIGLU]] = loc("layers.7.swiglu")
  // CHECK-DAG: #[[DOWN]] = loc("layers.7.down")

  // APART-LABEL: func.func @layer
  // APART-NOT: qlm.split
  // APART: qlm.attention
  // APART: qlm.silu
  func.func @layer(%x: tensor<?x64xf32>, %p: tensor<?xi32>, %f: tensor<8xf32>) -> tensor<?x64xf32> {
    %wq = qlm.load @q : tensor<64x64xbf16>
    %q = qlm.linear %x, %wq : tensor<?x64xf32>, tensor<64x64xbf16> -> tensor<?x64xf32> loc("layers.7.q")
    %wk = qlm.load @k : tensor<32x64xbf16>
    %k = qlm.linear %x, %wk : tensor<?x64xf32>, tensor<32x64xbf16> -> tensor<?x32xf32> loc("layers.7.k")
    %wv = qlm.load @v : tensor<32x64xbf16>
    %v = qlm.linear %x, %wv : tensor<?x64xf32>, tensor<32x64xbf16> -> tensor<?x32xf32> loc("layers.7.v")
    %qr = qlm.rope %q, %p, %f : tensor<?x64xf32>, tensor<?xi32>, tensor<8xf32>
    %kr = qlm.rope %k, %p, %f : tensor<?x32xf32>, tensor<?xi32>, tensor<8xf32>
    %qh = qlm.split_heads %qr repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
    %kh = qlm.split_heads %kr repeat 2 : tensor<?x32xf32> -> tensor<4x?x16xf32>
    %vh = qlm.split_heads %v repeat 2 : tensor<?x32xf32> -> tensor<4x?x16xf32>
    %s = qlm.matmul %qh, %kh transpose_rhs : tensor<4x?x16xf32>, tensor<4x?x16xf32> -> tensor<4x?x?xf32>
    %t = qlm.scale %s by 2.500000e-01 : tensor<4x?x?xf32>
    %m = qlm.causal_mask %t : tensor<4x?x?xf32>
    %pr = qlm.softmax %m : tensor<4x?x?xf32>
    %mh = qlm.matmul %pr, %vh : tensor<4x?x?xf32>, tensor<4x?x16xf32> -> tensor<4x?x16xf32>
    %a = qlm.merge_heads %mh : tensor<4x?x16xf32> -> tensor<?x64xf32> loc("layers.7.attention")
    %wo = qlm.load @o : tensor<64x64xbf16>
    %o = qlm.linear %a, %wo : tensor<?x64xf32>, tensor<64x64xbf16> -> tensor<?x64xf32> loc("layers.7.o")
    %y = qlm.add %x, %o : tensor<?x64xf32>
    %wg = qlm.load @gate : tensor<96x64xbf16>
    %g = qlm.linear %y, %wg : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32> loc("layers.7.gate")
    %wu = qlm.load @up : tensor<96x64xbf16>
    %u = qlm.linear %y, %wu : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32> loc("layers.7.up")
    %sg = qlm.silu %g : tensor<?x96xf32>
    %gu = qlm.mul %sg, %u : tensor<?x96xf32> loc("layers.7.swiglu")
    %wd = qlm.load @down : tensor<64x96xbf16>
    %d = qlm.linear %gu, %wd : tensor<?x96xf32>, tensor<64x96xbf16> -> tensor<?x64xf32> loc("layers.7.down")
    %z = qlm.add %y, %d : tensor<?x64xf32>
    return %z : tensor<?x64xf32>
  }
}
