// RUN: quant-opt %s --qlm-emit-cuda-kernels=ptx=false | FileCheck %s
// RUN: quant-opt %s --qlm-emit-cuda-kernels="batch-invariant=true ptx=false" | FileCheck %s --check-prefix=INVARIANT
// RUN: quant-opt %s --qlm-emit-cuda-kernels="chips=sm_80 ptx=false" | FileCheck %s --check-prefix=OLD

// Pages are copied before the kernel waits for the one before it, which may
// write the row's own key and value: a warp loads those after the wait, and puts
// them into its copy. Of few rows the last block of a head's context watches the
// others' parts; of many a counter says which block is the last.

// CHECK-LABEL: llvm.func @paged_attention_decode(
// CHECK: cp.async.bulk.shared::cluster.global
// CHECK: griddepcontrol.wait
// CHECK: llvm.load {{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
// CHECK: mbarrier.try_wait
// CHECK: llvm.store {{.*}} {alignment = 16 : i64} : vector<4xi32>, !llvm.ptr<3>
// CHECK: bar.warp.sync
// CHECK: mma.sync
// CHECK-NOT: atom.
// CHECK: ld.relaxed.gpu.global.v4.b32
// CHECK: st.relaxed.gpu.global.v4.b32
// CHECK-LABEL: llvm.func @paged_attention_decode_1(
// CHECK: cp.async.bulk.shared::cluster.global
// CHECK: griddepcontrol.wait
// CHECK-NOT: ld.relaxed
// CHECK: atom.acq_rel.gpu.global.add.u32

// A step may have several rows of a sequence: what the kernel before writes is
// in any page.
// INVARIANT-LABEL: llvm.func @paged_attention_decode(
// INVARIANT-NOT: cp.async.bulk.shared::cluster.global
// INVARIANT: griddepcontrol.wait
// INVARIANT: cp.async.bulk.shared::cluster.global
// OLD-LABEL: llvm.func @paged_attention_decode(
// OLD-NOT: ld.relaxed
// OLD: atom.acq_rel.gpu.global.add.u32
module attributes {qlm.plan = {max_step_tokens = 64 : i64, max_logit_rows = 8 : i64, max_batch = 8 : i64, max_context = 4096 : i64}} {
  qlm.parameter @embed : tensor<4x4096xf16> from "m.safetensors" key "embed"

  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache: tensor<9x2x32x8192xf16>) -> tensor<?x4096xf32> {
    %embed = qlm.load @embed : tensor<4x4096xf16>
    %x = qlm.embedding %tokens, %embed {qlm.offsets = [0]} : tensor<?xi32>, tensor<4x4096xf16> -> tensor<?x4096xf32> loc("embedding")
    %a = qlm.paged_attention %x, %cache at %positions, %sequences, %tables heads 32 kv_heads 32 page_tokens 64 keys_by_token scale 0.25 {qlm.offsets = [1048576]}
        : (tensor<?x4096xf32>, tensor<9x2x32x8192xf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x4096xf32> loc("attention")
    %r = qlm.select_rows %a, %rows {qlm.offsets = [0]} : tensor<?x4096xf32>, tensor<?xi32> -> tensor<?x4096xf32>
    return %r : tensor<?x4096xf32>
  }
}

