// RUN: quant-opt %s --split-input-file --verify-diagnostics --qlm-verify-contract=after=lower

// One module for each sentence of the contract.

// qlm.stage names the stage.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
// expected-error@+1 {{contract after lower: qlm.stage must name the stage, got quantize}}
module attributes {qlm.stage = "quantize", qlm.source = "/m", qlm.model = #model} {
}

// -----

// The module has qlm.plan.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
// expected-error@+1 {{contract after lower: the module must have qlm.plan and qlm.model}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model} {
}

// -----

// The plan is whole.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
// expected-error@+1 {{contract after lower: qlm.plan must have the integer scratch_bytes}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
}

// -----

// The plan has the cache.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
// expected-error@+1 {{contract after lower: kv of qlm.plan must have the integer pages}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
}

// -----

// The pool holds all pages.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 1000 : i64, bytes_per_token = 64 : i64}}
// expected-error@+1 {{contract after lower: pool_bytes must be layers * pages * page_bytes = 2048, got 1000}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
}

// -----

// There is a function @step.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
// expected-error@+1 {{contract after lower: there must be a function @step of one block}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
}

// -----

// @step has a cache for each layer.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  module @kernels attributes {qlm.target_cpu = "x86-64", qlm.target_features = "+avx2"} {
    llvm.func @f(%buffers: !llvm.ptr, %sizes: !llvm.ptr, %lo: i64, %hi: i64, %scratch: !llvm.ptr) {
      llvm.return
    }
  }
  // expected-error@+1 {{contract after lower: @step must have 7 arguments and a cache for each of 1 layers, got 7 in all}}
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// The step's arguments are in order.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  module @kernels attributes {qlm.target_cpu = "x86-64", qlm.target_features = "+avx2"} {
    llvm.func @f(%buffers: !llvm.ptr, %sizes: !llvm.ptr, %lo: i64, %hi: i64, %scratch: !llvm.ptr) {
      llvm.return
    }
  }
  // expected-error@+1 {{contract after lower: argument 1 of @step must be called positions, got tokens}}
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "tokens"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// There is a module @kernels.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
// expected-error@+1 {{contract after lower: there must be a module @kernels}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch @f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// @kernels has its target.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  // expected-error@+1 {{contract after lower: @kernels must have qlm.target_features}}
  module @kernels attributes {qlm.target_cpu = "x86-64"} {
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

// -----

// Kernels are in the LLVM dialect.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  module @kernels attributes {qlm.target_cpu = "x86-64", qlm.target_features = "+avx2"} {
    // expected-error@+2 {{contract after lower: kernels must be in the LLVM dialect, got func.func}}
    // expected-note@+1 {{qlm-lower-kernels-to-llvm should have made it so}}
    func.func private @g()
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

// -----

// Launches name kernels that exist.
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
    // expected-error@+1 {{contract after lower: kernels must exist, got @kernels::@g}}
    qlm.launch @kernels::@g "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Arena offsets lie inside the arena.
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
    // expected-error@+1 {{contract after lower: arena offsets must be multiples of 64 below 256, got 256}}
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<arena, 256>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Arena offsets are aligned.
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
    // expected-error@+1 {{contract after lower: arena offsets must be multiples of 64 below 256, got 8}}
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<arena, 8>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Step arguments exist.
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
    // expected-error@+1 {{contract after lower: step arguments must be below 7, got 7}}
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step, 7>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Caches exist.
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
    // expected-error@+1 {{contract after lower: cache arguments must be below 1, got 1}}
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<cache, 1>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Weights have keys.
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
    %w = qlm.load @e : tensor<4x8xf32>
    // expected-error@+2 {{contract after lower: weights must have a key in the package}}
    // expected-note@+1 {{qlm-emit-cpu-kernels should have made it so}}
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Keys are distinct.
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
    %w2 = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<arena>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    // expected-error@+1 {{contract after lower: keys must be distinct, got two of embedding.weight}}
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w2 : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// @step holds launches and parameter programs.
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
    // expected-error@+2 {{contract after lower: @step must hold launches and parameter programs only, got qlm.embedding}}
    // expected-note@+1 {{qlm-emit-cpu-kernels should have made it so}}
    %x = qlm.embedding %tokens, %w : tensor<?xi32>, tensor<4x8xf32> -> tensor<?x8xf32>
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// @step returns nothing.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  module @kernels attributes {qlm.target_cpu = "x86-64", qlm.target_features = "+avx2"} {
    llvm.func @f(%buffers: !llvm.ptr, %sizes: !llvm.ptr, %lo: i64, %hi: i64, %scratch: !llvm.ptr) {
      llvm.return
    }
  }
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) -> tensor<?xi32> {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    // expected-error@+2 {{contract after lower: @step must return nothing}}
    // expected-note@+1 {{qlm-emit-cpu-kernels should have made it so}}
    return %tokens : tensor<?xi32>
  }
}

// -----

// The logits are written.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 256 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  module @kernels attributes {qlm.target_cpu = "x86-64", qlm.target_features = "+avx2"} {
    llvm.func @f(%buffers: !llvm.ptr, %sizes: !llvm.ptr, %lo: i64, %hi: i64, %scratch: !llvm.ptr) {
      llvm.return
    }
  }
  // expected-error@+1 {{contract after lower: a launch must write the logits}}
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch @kernels::@f "embedding" tiles <1 * tokens, block 1> args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<arena>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}
