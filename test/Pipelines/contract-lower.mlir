// RUN: quant-opt %s --split-input-file --qlm-verify-contract=after=lower | FileCheck %s

// CHECK-LABEL: func.func @step

// One launch.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  module @kernels attributes {qlm.target_cpu = "x86-64", qlm.target_features = "+avx2"} {
    llvm.func @f(%buffers: !llvm.ptr, %sizes: !llvm.ptr, %lo: i64, %hi: i64, %scratch: !llvm.ptr) {
      llvm.return
    }
  }
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}
