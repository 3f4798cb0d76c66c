// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" -o %t.mlir
// RUN: FileCheck %s < %t.mlir
// RUN: FileCheck --check-prefix=LIST %s < %t.mlir
// RUN: FileCheck --check-prefix=GEMM %s < %t.mlir
// RUN: quant-opt %s --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="chips=sm_80 ptx=false" | FileCheck --check-prefix=OLD %s
// RUN: rm -rf %t
// RUN: quant-opt %t.mlir --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t | FileCheck --check-prefix=ASSEMBLED %s

// LLM.int8: the kernel that rounds a row lists its outliers, and the linear's
// kernels add the list's products with bytes of the packed weights.

// CHECK: qlm.launch "linear"
// CHECK-SAME: @packed_linear_gemv1, maxRows = 1,
// CHECK-SAME: @packed_linear_gemm16, maxRows = 16,
// CHECK-NOT: packed_linear_plain
// OLD: qlm.launch "linear"
// OLD-SAME: @packed_linear_plain

// The list's number of entries before the products, then column, value and code
// of eight of them; a part a thread, which are added.
// CHECK-LABEL: llvm.func @packed_linear_gemv1(
// CHECK: arith.fptosi
// CHECK: mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32
// CHECK-COUNT-8: -> i8
// CHECK: math.fma

// The GEMM adds them too (it once left them out): to the four features that a
// thread stores, from the row's list in the kernel's third buffer.
// GEMM-LABEL: llvm.func @packed_linear_gemm16(
// GEMM: wgmma.mma_async
// GEMM: llvm.getelementptr inbounds %arg2[
// GEMM: llvm.getelementptr inbounds %arg2[
// GEMM-NEXT: %[[COUNT:.*]] = llvm.load
// GEMM-NEXT: arith.fptosi %[[COUNT]]
// GEMM: scf.for
// GEMM-COUNT-4: -> i8
// GEMM: math.fma
// GEMM: llvm.store {{.*}} : vector<4xf32>, !llvm.ptr<1>

// LIST-LABEL: llvm.func @dynamic_quantize(
// LIST: arith.constant 6.000000e+00 : f32
// LIST: arith.cmpf oge
// LIST: llvm.nvvm.barrier.cta.red.or.aligned.all
// LIST: llvm.nvvm.vote.ballot.sync

// ASSEMBLED-COUNT-5: qlm.spill_bytes = 0
module attributes {qlm.plan = {max_step_tokens = 32 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x256xf32> {
    %table = arith.constant dense<0.5> : tensor<4x512xf32>
    %w = arith.constant dense<3> : tensor<16x16x512xi8>
    %s = arith.constant dense<0.5> : tensor<16x1x16xf32>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x512xf32> -> tensor<?x512xf32>
    %c, %d, %o = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>, threshold = 6.0 : f32}
        : tensor<?x512xf32> -> tensor<?x512xi8>, tensor<?xf32>, tensor<?x1025xf32>
    %y = qlm.packed_linear %c input_scales %d outliers %o, %w scales %s {inFeatures = 512 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag8x8>, scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>}
        : (tensor<?x512xi8>, tensor<?xf32>, tensor<?x1025xf32>, tensor<16x16x512xi8>, tensor<16x1x16xf32>) -> tensor<?x256xf32> loc("linear")
    return %y : tensor<?x256xf32>
  }
}
