// RUN: quant-opt %s --qlm-emit-cpu-kernels="target-cpu=x86-64-v3" | FileCheck %s
// RUN: quant-opt %s --qlm-emit-cpu-kernels="target-cpu=sapphirerapids" | FileCheck %s --check-prefix=SPR
// RUN: quant-opt %s --qlm-emit-cpu-kernels="target-cpu=x86-64-v4" --qlm-lower-kernels-to-llvm | FileCheck %s --check-prefix=LLVM
// RUN: not quant-opt %s --qlm-emit-cpu-kernels="target-cpu=pentium" 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// UNKNOWN: error: unknown target cpu 'pentium', expected native, x86-64-v3, alderlake, x86-64-v4, icelake-server or sapphirerapids

// CHECK: qlm.plan = {{.*}}scratch_bytes = 11072 : i64
// LLVM: qlm.stage = "lower"
module attributes {qlm.plan = {max_step_tokens = 4 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  qlm.parameter @norm : tensor<16xbf16> from "m.safetensors" key "norm"
  qlm.parameter @embed : tensor<4x16xf32> from "m.safetensors" key "embed"

  // CHECK: func.func @step(
  // CHECK-NOT: ->
  // CHECK-SAME: {
  // SPR: func.func @step
  // LLVM: func.func @step
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache0: tensor<2x2x1x64xf32>, %cache1: tensor<2x2x1x64xf32>) -> tensor<?x16xf32> {
    // CHECK-DAG: %[[EMBED:.*]] = qlm.load @embed {qlm.key = "embedding.weight"}
    // CHECK-DAG: %[[W0:.*]] = qlm.convert {{.*}} {qlm.key = "layers.0.attention_norm.weight"}
    // CHECK-DAG: %[[W1:.*]] = qlm.convert {{.*}} {qlm.key = "norm.weight"}
    // CHECK-DAG: %[[ANGLES:.*]] = qlm.rope_table {{.*}} {qlm.key = "rope_table"}
    %norm = qlm.load @norm : tensor<16xbf16>
    %w = qlm.convert %norm : tensor<16xbf16> to tensor<16xf32>
    %w1 = qlm.convert %norm : tensor<16xbf16> to tensor<16xf32>
    %embed = qlm.load @embed : tensor<4x16xf32>
    %f = arith.constant dense<0.5> : tensor<2xf32>
    %angles = qlm.rope_table %f : tensor<2xf32> to tensor<32x2x2xf32>
    // CHECK: qlm.launch @kernels::@embedding "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<arena>] weights(%[[EMBED]] : tensor<4x16xf32>) {bytes = 64 : i64
    %x = qlm.embedding %tokens, %embed {qlm.offsets = [0]} : tensor<?xi32>, tensor<4x16xf32> -> tensor<?x16xf32> loc("embedding")
    // CHECK: qlm.launch @kernels::@rms_norm "layers.0.attention_norm" tiles <1 * tokens, block 1> args [#qlm.arg<arena>, #qlm.arg<weight>, #qlm.arg<arena, 320>] weights(%[[W0]] : tensor<16xf32>)
    %n = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32, qlm.offsets = [320]} : tensor<?x16xf32>, tensor<16xf32> loc("layers.0.attention_norm")
    // CHECK: qlm.launch @kernels::@rope_append "layers.1.rope" tiles <1 * tokens, block 1> args [#qlm.arg<arena, 320>, #qlm.arg<weight>, #qlm.arg<cache, 1>, #qlm.arg<step, 1>, #qlm.arg<step, 2>, #qlm.arg<step, 5>, #qlm.arg<arena, 640>] weights(%[[ANGLES]] : tensor<32x2x2xf32>)
    %q, %u = qlm.rope_append %n, %angles, %cache1 at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 16 {qlm.offsets = [640, -1]}
        : (tensor<?x16xf32>, tensor<32x2x2xf32>, tensor<2x2x1x64xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> (tensor<?x8xf32>, tensor<2x2x1x64xf32>) loc("layers.1.rope")
    // The cache is the argument that rope_append has updated.
    // CHECK: qlm.launch @kernels::@paged_attention "layers.1.attention" tiles <1 * tokens, block 1> args [#qlm.arg<arena, 640>, #qlm.arg<cache, 1>, #qlm.arg<step, 1>, #qlm.arg<step, 2>, #qlm.arg<step, 5>, #qlm.arg<arena, 1024>]
    %a = qlm.paged_attention %q, %u at %positions, %sequences, %tables heads 2 kv_heads 1 page_tokens 16 scale 0.5 {qlm.offsets = [1024]}
        : (tensor<?x8xf32>, tensor<2x2x1x64xf32>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x8xf32> loc("layers.1.attention")
    // CHECK: qlm.launch @kernels::@select_rows
    // CHECK-SAME: #qlm.arg<step, 6>
    %r = qlm.select_rows %x, %rows {qlm.offsets = [320]} : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x16xf32>
    // Another count of rows makes another kernel, the same count shares one.
    // CHECK: qlm.launch @kernels::@rms_norm_1 "norm" tiles <1 * logit_rows, block 1> args [#qlm.arg<arena, 320>, #qlm.arg<weight>, #qlm.arg<arena>] weights(%[[W1]] : tensor<16xf32>)
    %m = qlm.rms_norm %r, %w1 {epsilon = 1.0e-5 : f32, qlm.offsets = [0]} : tensor<?x16xf32>, tensor<16xf32> loc("norm")
    // CHECK: qlm.launch @kernels::@rms_norm_1 "norm" {{.*}} args [#qlm.arg<arena>, #qlm.arg<weight>, #qlm.arg<logits>]
    %l = qlm.rms_norm %m, %w1 {epsilon = 1.0e-5 : f32} : tensor<?x16xf32>, tensor<16xf32> loc("norm")
    // CHECK-NEXT: return{{$}}
    return %l : tensor<?x16xf32>
  }
}

// CHECK: module @kernels attributes {qlm.target_cpu = "x86-64-v3", qlm.target_features = "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse3,+sse4.1,+sse4.2,+ssse3"}
// CHECK: func.func @embedding(%{{.*}}: !llvm.ptr, %{{.*}}: !llvm.ptr, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: !llvm.ptr)
// CHECK-NOT: vector<16x
// CHECK: func.func @rms_norm(
// CHECK: func.func @rope_append(
// CHECK: func.func @paged_attention(
// CHECK: func.func @select_rows(
// CHECK: func.func @rms_norm_1(
// CHECK-NOT: func.func

// SPR: module @kernels attributes
// SPR-SAME: qlm.target_features = "+amx-bf16,+amx-int8,+amx-tile,+avx,+avx2,+avx512bf16,+avx512bw,+avx512cd,+avx512dq,+avx512f,+avx512vbmi,+avx512vl,+avx512vnni,+bmi,

// LLVM: module @kernels
// LLVM-NOT: {{(func\.func|scf\.|arith\.|vector\.|math\.|cf\.|builtin\.unrealized)}}
// LLVM: llvm.func @embedding(%{{.*}}: !llvm.ptr, %{{.*}}: !llvm.ptr, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: !llvm.ptr)
