// RUN: quant-opt %s --split-input-file --verify-diagnostics --qlm-verify-contract=after=lower

// The plan has a workspace.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 512 : i64, scratch_bytes = 0 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
// expected-error@+1 {{contract after lower: qlm.plan must have the integer workspace_bytes}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  gpu.module @kernels_sm_90a attributes {qlm.chip = "sm_90a", qlm.cubin} {
    llvm.func @f(%x: !llvm.ptr<1>, %w: !llvm.ptr<1>, %y: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
      llvm.return
    }
  }
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Modules say their chip.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 512 : i64, workspace_bytes = 256 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  // expected-error@+1 {{contract after lower: GPU kernels must have qlm.chip}}
gpu.module @kernels_sm_90a attributes {qlm.cubin} {
    llvm.func @f(%x: !llvm.ptr<1>, %w: !llvm.ptr<1>, %y: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
      llvm.return
    }
  }
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// They say what they are for.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 512 : i64, workspace_bytes = 256 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  // expected-error@+1 {{contract after lower: GPU kernels must have qlm.cubin or qlm.ptx}}
gpu.module @kernels_sm_90a attributes {qlm.chip = "sm_90a"} {
    llvm.func @f(%x: !llvm.ptr<1>, %w: !llvm.ptr<1>, %y: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
      llvm.return
    }
  }
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Kernels are lowered.
#model = {architecture = "llama", name = "x", vocabulary_size = 4 : i64, hidden_size = 8 : i64, layers = 1 : i64, heads = 2 : i64, kv_heads = 2 : i64, head_dim = 4 : i64, intermediate_size = 8 : i64, context_length = 32 : i64, parameters = 100 : i64, eos_token_ids = []}
#plan = {max_batch = 1 : i64, max_context = 32 : i64, max_step_tokens = 8 : i64, max_logit_rows = 8 : i64, arena_bytes = 512 : i64, workspace_bytes = 256 : i64, kv = {type = "f32", page_tokens = 16 : i64, layers = 1 : i64, pages = 2 : i64, page_bytes = 1024 : i64, pool_bytes = 2048 : i64, bytes_per_token = 64 : i64}}
module attributes {qlm.stage = "lower", qlm.source = "/m", qlm.model = #model, qlm.plan = #plan} {
  qlm.parameter @e : tensor<4x8xf32> from "m.safetensors" key "e"
  gpu.module @kernels_sm_90a attributes {qlm.chip = "sm_90a", qlm.cubin} {
    llvm.func @f(%x: !llvm.ptr<1>, %w: !llvm.ptr<1>, %y: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
      // expected-error@+2 {{contract after lower: GPU kernels must be in the LLVM and NVVM dialects, got arith.constant}}
      // expected-note@+1 {{qlm-lower-kernels-to-nvvm}}
      %c = arith.constant 0 : i32
      llvm.return
    }
  }
  func.func @step(%tokens: tensor<?xi32> {qlm.step = "tokens"}, %positions: tensor<?xi32> {qlm.step = "positions"}, %token_sequences: tensor<?xi32> {qlm.step = "token_sequences"}, %sequence_offsets: tensor<?xi32> {qlm.step = "sequence_offsets"}, %context_lengths: tensor<?xi32> {qlm.step = "context_lengths"}, %block_tables: tensor<?x?xi32> {qlm.step = "block_tables"}, %logit_rows: tensor<?xi32> {qlm.step = "logit_rows"}, %cache: tensor<2x2x2x64xf32> {qlm.step = "cache"}) {
    %w = qlm.load @e {qlm.key = "embedding.weight"} : tensor<4x8xf32>
    qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Kernels exist.
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
    // expected-error@+1 {{contract after lower: kernels must exist, got @kernels_sm_90a::@g}}
qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@g, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// The largest step has a kernel.
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
    // expected-error@+1 {{contract after lower: each chip must have a kernel for the largest step, got none for 8 rows in @kernels_sm_90a}}
qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 7, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// One for decoding alone doesn't do.
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
    // expected-error@+1 {{contract after lower: each chip must have a kernel for the largest step, got none for 8 rows in @kernels_sm_90a}}
qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32, decodeOnly = true>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Activations are aligned as GPUs want it.
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
    // expected-error@+1 {{contract after lower: arena offsets must be multiples of 256 below 512, got 64}}
qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<arena, 64>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// The workspace is as planned.
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
    // expected-error@+1 {{contract after lower: workspace offsets must be multiples of 256 below 256, got 256}}
qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>, #qlm.arg<workspace, 256>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Sampling has launches of its own.
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
    // expected-error@+1 {{contract after lower: sampled arguments belong to launches of @sample}}
qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>, #qlm.arg<sampled>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// What chooses tokens says which.
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
    qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
  // expected-error@+1 {{contract after lower: a launch of @sample must write the sampled tokens}}
  func.func @sample() {
    qlm.launch "sample" rows logit_rows variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * logit_rows, block 1>, blockThreads = 32>] args [#qlm.arg<logits>, #qlm.arg<sampling>, #qlm.arg<arena>] {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
}

// -----

// Nothing is computed beside launches.
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
    qlm.launch "embedding" rows tokens variants [#qlm.variant<kernel = @kernels_sm_90a::@f, maxRows = 8, grid = <1 * tokens, block 1>, blockThreads = 32>] args [#qlm.arg<step>, #qlm.arg<weight>, #qlm.arg<logits>] weights(%w : tensor<4x8xf32>) {bytes = 0 : i64, flopsPerRow = 0 : i64}
    return
  }
  func.func @sample() {
    // expected-error@+2 {{contract after lower: @sample must hold launches only, got arith.constant}}
    // expected-note@+1 {{qlm-emit-cuda-kernels should have made it so}}
    %0 = arith.constant 0 : i32
    return
  }
}
