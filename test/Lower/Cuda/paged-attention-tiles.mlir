// RUN: rm -rf %t
// RUN: quant-opt %s --qlm-emit-cuda-kernels=ptx=false | FileCheck %s
// RUN: quant-opt %s --qlm-emit-cuda-kernels="chips=sm_90a ptx=false" --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t | FileCheck %s --check-prefix=ASSEMBLED

// Heads of 64: few rows take tiles of 64, two blocks a multiprocessor, more
// take tiles of 128. Blocks stay and take tile after tile.
module attributes {qlm.plan = {max_step_tokens = 4096 : i64, max_logit_rows = 16 : i64, max_batch = 8 : i64, max_context = 4096 : i64}} {
  qlm.parameter @embed : tensor<4x512xf32> from "m.safetensors" key "embed"

  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>, %cache: tensor<9x2x2x4096xf16>) -> tensor<?x512xf32> {
    %embed = qlm.load @embed : tensor<4x512xf32>
    %e = qlm.embedding %tokens, %embed {qlm.offsets = [0]} : tensor<?xi32>, tensor<4x512xf32> -> tensor<?x512xf32> loc("embedding")
    %x = qlm.convert %e {qlm.offsets = [8388608]} : tensor<?x512xf32> to tensor<?x512xf16> loc("halves")
    // CHECK: qlm.launch "attention"
    // CHECK-SAME: @[[FEW:paged_attention_wgmma]], maxRows = 2112, grid = <264 * one, block 1>
    // CHECK-SAME: blockThreads = 256
    // CHECK-SAME: @[[MORE:paged_attention_wgmma_1]], maxRows = 4096, grid = <132 * one, block 1>
    // CHECK-SAME: blockThreads = 384
    // CHECK-SAME: #qlm.arg<workspace>
    %a = qlm.paged_attention %x, %cache at %positions, %sequences, %tables heads 8 kv_heads 2 page_tokens 64 keys_by_token scale 0.125 {qlm.offsets = [12582912]}
        : (tensor<?x512xf16>, tensor<9x2x2x4096xf16>, tensor<?xi32>, tensor<?xi32>, tensor<?x?xi32>) -> tensor<?x512xf16> loc("attention")
    %f = qlm.convert %a {qlm.offsets = [16777216]} : tensor<?x512xf16> to tensor<?x512xf32> loc("floats")
    %r = qlm.select_rows %f, %rows {qlm.offsets = [0]} : tensor<?x512xf32>, tensor<?xi32> -> tensor<?x512xf32>
    return %r : tensor<?x512xf32>
  }
}

// One consumer: all its threads say that a stage is empty, and with the
// one that copies pages that a slot is; all loaders that rows are there.
// CHECK: llvm.func @[[FEW]](
// CHECK-SAME: nvvm.minctasm = 2
// CHECK: mbarrier.init.shared::cta.b64 [$0], 1;
// CHECK: mbarrier.init.shared::cta.b64 [$0], 128;
// CHECK: mbarrier.init.shared::cta.b64 [$0], 96;
// CHECK: mbarrier.init.shared::cta.b64 [$0], 129;
// CHECK: setmaxnreg.dec.sync.aligned.u32 40;
// CHECK: cp.async.bulk.shared::cluster.global
// The next turn is counted while the queries of this tile are copied.
// CHECK: cp.async.cg.shared.global [$0], [$1], 16;
// CHECK: atom.relaxed.gpu.global.inc.u32
// CHECK: cp.async.wait_group 0;
// CHECK: fence.proxy.async.shared::cta;
// CHECK: setmaxnreg.inc.sync.aligned.u32 216;
// CHECK: llvm.func @[[MORE]](
// CHECK-SAME: nvvm.minctasm = 1
// CHECK: mbarrier.init.shared::cta.b64 [$0], 257;
// CHECK: setmaxnreg.inc.sync.aligned.u32 232;
// The block's first step; the first of another sequence or tile, which has two
// products under way like all others.
// CHECK: wgmma.mma_async.sync.aligned.m64n128k16
// CHECK: wgmma.wait_group.sync.aligned 0;
// CHECK: wgmma.mma_async.sync.aligned.m64n128k16
// CHECK: wgmma.mma_async.sync.aligned.m64n64k16
// CHECK: wgmma.wait_group.sync.aligned 1;
// CHECK: ex2.approx
// CHECK: wgmma.wait_group.sync.aligned 0;
// Results leave in registers, exchanged in quads.
// CHECK-COUNT-4: shfl.sync.bfly.b32
// CHECK: llvm.store {{.*}} {alignment = 16 : i64} : vector<4xi32>, !llvm.ptr<1>

// ASSEMBLED: qlm.stage
// ASSEMBLED-NOT: qlm.spill_bytes = {{[1-9]}}
