// RUN: quant-opt %s '--qlm-pipeline=quantize={weights=int4 group-size=32} lower={target-cpu=x86-64-v3 max-step-tokens=16}' | FileCheck %s
// RUN: quant-opt %s '--qlm-pipeline=lower={max-batch=2 max-step-tokens=16 target-cpu=x86-64-v4}' | FileCheck %s --check-prefix=FLOAT

// One layer, from import to launches; options reach their stages.

// CHECK: qlm.plan = {{.*}}max_step_tokens = 16
// CHECK-SAME: qlm.stage = "lower"
// CHECK: func.func @step(
// CHECK: qlm.rtn {{.*}}i4, group, 32
// CHECK: qlm.launch {{.*}} "layers.0.q
// CHECK: module @kernels attributes {qlm.target_cpu = "x86-64-v3"

// FLOAT: qlm.plan = {{.*}}max_batch = 2
// FLOAT-NOT: qlm.rtn
// FLOAT: module @kernels attributes {qlm.target_cpu = "x86-64-v4"

module attributes {qlm.stage = "import", qlm.source = "/m", qlm.model = {architecture = "llama", name = "x", vocabulary_size = 64 : i64, hidden_size = 32 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 1 : i64, head_dim = 16 : i64, intermediate_size = 64 : i64, context_length = 32 : i64, parameters = 10000 : i64, eos_token_ids = [1 : i64]}} {
  qlm.parameter @embed : tensor<64x32xbf16> from "m.safetensors" key "embed"
  qlm.parameter @norm : tensor<32xbf16> from "m.safetensors" key "norm"
  qlm.parameter @q : tensor<32x32xbf16> from "m.safetensors" key "q"
  qlm.parameter @k : tensor<16x32xbf16> from "m.safetensors" key "k"
  qlm.parameter @gate : tensor<64x32xbf16> from "m.safetensors" key "gate"
  qlm.parameter @down : tensor<32x64xbf16> from "m.safetensors" key "down"
  func.func @forward(%tokens: tensor<?xi32>, %positions: tensor<?xi32>) -> tensor<?x64xf32> {
    %f = arith.constant dense<1.0> : tensor<8xf32>
    %table = qlm.load @embed : tensor<64x32xbf16>
    %norm = qlm.load @norm : tensor<32xbf16>
    %wq = qlm.load @q : tensor<32x32xbf16>
    %wk = qlm.load @k : tensor<16x32xbf16>
    %wgate = qlm.load @gate : tensor<64x32xbf16>
    %wdown = qlm.load @down : tensor<32x64xbf16>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<64x32xbf16> -> tensor<?x32xf32> loc("embedding")
    %n = qlm.rms_norm %x, %norm {epsilon = 1.0e-5 : f32} : tensor<?x32xf32>, tensor<32xbf16> loc("layers.0.attention_norm")
    %q = qlm.linear %n, %wq : tensor<?x32xf32>, tensor<32x32xbf16> -> tensor<?x32xf32> loc("layers.0.q")
    %k = qlm.linear %n, %wk : tensor<?x32xf32>, tensor<16x32xbf16> -> tensor<?x16xf32> loc("layers.0.k")
    %v = qlm.linear %n, %wk : tensor<?x32xf32>, tensor<16x32xbf16> -> tensor<?x16xf32> loc("layers.0.v")
    %qr = qlm.rope %q, %positions, %f : tensor<?x32xf32>, tensor<?xi32>, tensor<8xf32> loc("layers.0.rope")
    %kr = qlm.rope %k, %positions, %f : tensor<?x16xf32>, tensor<?xi32>, tensor<8xf32> loc("layers.0.rope")
    %a = qlm.attention %qr, %kr, %v heads 2 kv_heads 1 scale 0.25 causal : tensor<?x32xf32>, tensor<?x16xf32> loc("layers.0.attention")
    %o = qlm.linear %a, %wq : tensor<?x32xf32>, tensor<32x32xbf16> -> tensor<?x32xf32> loc("layers.0.o")
    %x1 = qlm.add %x, %o : tensor<?x32xf32>
    %n1 = qlm.rms_norm %x1, %norm {epsilon = 1.0e-5 : f32} : tensor<?x32xf32>, tensor<32xbf16> loc("layers.0.mlp_norm")
    %g = qlm.linear %n1, %wgate : tensor<?x32xf32>, tensor<64x32xbf16> -> tensor<?x64xf32> loc("layers.0.gate")
    %u = qlm.linear %n1, %wgate : tensor<?x32xf32>, tensor<64x32xbf16> -> tensor<?x64xf32> loc("layers.0.up")
    %s = qlm.silu %g : tensor<?x64xf32> loc("layers.0.swiglu")
    %m = qlm.mul %s, %u : tensor<?x64xf32> loc("layers.0.swiglu")
    %d = qlm.linear %m, %wdown : tensor<?x64xf32>, tensor<32x64xbf16> -> tensor<?x32xf32> loc("layers.0.down")
    %x2 = qlm.add %x1, %d : tensor<?x32xf32>
    %n2 = qlm.rms_norm %x2, %norm {epsilon = 1.0e-5 : f32} : tensor<?x32xf32>, tensor<32xbf16> loc("norm")
    %logits = qlm.linear %n2, %table : tensor<?x32xf32>, tensor<64x32xbf16> -> tensor<?x64xf32> loc("lm_head")
    return %logits : tensor<?x64xf32>
  }
}
