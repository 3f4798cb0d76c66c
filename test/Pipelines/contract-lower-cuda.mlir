// RUN: quant-opt %s --split-input-file --qlm-verify-contract=after=lower | FileCheck %s

// One launch on a GPU, with a workspace and a variant for decoding.
// CHECK-LABEL: func.func @step
// CHECK: qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32, sharedBytes = 1024, cluster = 2, dependent = true>]
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 512 : i64, workspace_bytes = 256 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  gpu.module @kernels_sm_90a attributes {qlm.chip = "sm_90a", qlm.cubin} {
    llvm.func @f(%x: !llvm.ptr<1>, %w: !llvm.ptr<1>, %y: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
      llvm.return
    }
  }
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32, sharedBytes = 1024, cluster = 2, dependent = true>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>, #qlm.arg<workspace>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }

  // Tokens are chosen by launches of their own.
  // CHECK: func.func @sample
  // CHECK-NEXT: qlm.launch "sample" rows logit_rows
  func.func @sample() {
    qlm.launch "sample" rows logit_rows variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * logit_rows, block 1>, blockThreads = 32>] args [#qlm.arg<logits>, #qlm.arg<sampling>, #qlm.arg<sampled>] {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}
