// RUN: quant-opt %s --qlm-emit-cuda-kernels=ptx=false | FileCheck %s
// RUN: quant-opt %s --qlm-emit-cuda-kernels="batch-invariant=true ptx=false" | FileCheck %s --check-prefix=INVARIANT
// RUN: %if ptxas %{ rm -rf %t && quant-opt %s --qlm-emit-cuda-kernels="ptx=false" --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t | FileCheck %s --check-prefix=ASSEMBLED %}

// Four blocks share a token and head where there are few tokens. With many, a
// context's length decides whether one block has it, or two or four share it:
// 16 chunks of 64 keys are one block's. Blocks that most contexts leave
// without work are the grid's last.
module attributes {qlm.plan = {max_step_tokens = 64 : i64, max_logit_rows = 8 : i64, max_batch = 8 : i64, max_context = 4096 : i64}} {
  qlm.parameter @embed : tensor<4x4096xf16> from "m.safetensors" key "embed"

  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache: tensor<9x2x32x8192xf16>) -> tensor<?x4096xf32> {
    %embed = qlm.load @embed : tensor<4x4096xf16>
    %x = qlm.embedding %tokens, %embed {qlm.offsets = [0]} : tensor<?xi32>, tensor<4x4096xf16> -> tensor<?x4096xf32> loc("embedding")
    // CHECK: qlm.launch "attention"
    // CHECK-SAME: paged_attention_decode, maxRows = 4, grid = <132 * tokens, block 1>
    // CHECK-SAME: paged_attention_decode_1, maxRows = 64, grid = <132 * tokens, block 1>
    // Whatever the step, a batch-invariant package shares alike.
    // INVARIANT: qlm.launch "attention"
    // INVARIANT-SAME: paged_attention_decode, maxRows = 64
    // INVARIANT-NOT: paged_attention_decode_1
    %a = qlm.paged_attention %x, %cache at %positions, %sequences, %tables heads 32 kv_heads 32 page_tokens 64 keys_by_token scale 0.25 {qlm.offsets = [1048576]}
        : (tensor<?x4096xf32>, tensor<9x2x32x8192xf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x4096xf32> loc("attention")
    %r = qlm.select_rows %a, %rows {qlm.offsets = [0]} : tensor<?x4096xf32>, tensor<?xi32> -> tensor<?x4096xf32>
    return %r : tensor<?x4096xf32>
  }
}

// CHECK-LABEL: llvm.func @paged_attention_decode(
// CHECK-NOT: nctaid
// CHECK-LABEL: llvm.func @paged_attention_decode_1(
// CHECK: nctaid.x
// ASSEMBLED: qlm.stage
