// AMX multiplies where a scale's columns are whole steps of 64 or 32; other
// columns, few rows, and targets without AMX stay with vectors.

// RUN: quant-opt %s --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=sapphirerapids" | FileCheck %s
// RUN: quant-opt %s --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=x86-64-v4" | FileCheck %s --check-prefix=V4
// RUN: quant-opt %s --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=alderlake" | FileCheck %s --check-prefix=VNNI
// RUN: quant-opt %s --qlm-plan-memory --qlm-emit-cpu-kernels="target-cpu=sapphirerapids" --qlm-lower-kernels-to-llvm | FileCheck %s --check-prefix=LLVM

// Of the linear of 512 columns: sums of 48 rows' codes, 64 arranged rows, and
// totals of twice 32 rows by 2 blocks.
// CHECK: scratch_bytes = 41216 : i64
// With vectors: sums and 33 rows extended to int16.
// V4: scratch_bytes = 34048 : i64
// V4-NOT: llvm.x86.t
// AVX-VNNI has vectors of 256 bits, and takes codes of 4 and 8 bits as they are.
// VNNI-NOT: pmadd
// VNNI: func.func @packed_linear(
// VNNI: "llvm.x86.avx512.vpdpbusd.256"{{.*}} vector<32xi8>
// VNNI: func.func @packed_linear_1(
// VNNI: "llvm.x86.avx512.vpdpbusd.256"
// VNNI-NOT: pmadd
#row = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>
#int4 = #qlm.scheme<i4, group, 64, range [-8, 7], bound 7.5, scales f16>
#int8 = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
module attributes {qlm.plan = {max_step_tokens = 33 : i64, max_logit_rows = 33 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x16xf32> {
    %table = arith.constant dense<0.5> : tensor<4x128xf32>
    %w4 = arith.constant dense<3> : tensor<32x16x64xi8>
    %s4 = arith.constant dense<0.5> : tensor<32x2x16xf16>
    %w8 = arith.constant dense<3> : tensor<1x128x64xi8>
    %s8 = arith.constant dense<0.5> : tensor<1x1x16xf32>
    %w = arith.constant dense<3> : tensor<1x4x64xi8>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x128xf32> -> tensor<?x128xf32>
    %xc, %xs = qlm.dynamic_quantize %x {scheme = #row} : tensor<?x128xf32> -> tensor<?x128xi8>, tensor<?xf32>
    %y = qlm.packed_linear %xc input_scales %xs, %w4 scales %s4 {inFeatures = 128 : i64, outFeatures = 512 : i64, layout = #qlm.layout<i4x16x8>, scheme = #int4}
        : (tensor<?x128xi8>, tensor<?xf32>, tensor<32x16x64xi8>, tensor<32x2x16xf16>) -> tensor<?x512xf32>
    %yc, %ys = qlm.dynamic_quantize %y {scheme = #row} : tensor<?x512xf32> -> tensor<?x512xi8>, tensor<?xf32>
    %z = qlm.packed_linear %yc input_scales %ys, %w8 scales %s8 {inFeatures = 512 : i64, outFeatures = 16 : i64, layout = #qlm.layout<i8x16x4>, scheme = #int8}
        : (tensor<?x512xi8>, tensor<?xf32>, tensor<1x128x64xi8>, tensor<1x1x16xf32>) -> tensor<?x16xf32>
    %zc, %zs = qlm.dynamic_quantize %z {scheme = #row} : tensor<?x16xf32> -> tensor<?x16xi8>, tensor<?xf32>
    %l = qlm.packed_linear %zc input_scales %zs, %w scales %s8 {inFeatures = 16 : i64, outFeatures = 16 : i64, layout = #qlm.layout<i8x16x4>, scheme = #int8}
        : (tensor<?x16xi8>, tensor<?xf32>, tensor<1x4x64xi8>, tensor<1x1x16xf32>) -> tensor<?x16xf32>
    return %l : tensor<?x16xf32>
  }
}

// One row tile by two blocks, then two: a step of 64 columns takes two products
// or four.
// CHECK: func.func @packed_linear(
// CHECK-COUNT-2: call_intrinsic "llvm.x86.tilezero.internal"
// CHECK-COUNT-3: call_intrinsic "llvm.x86.tileloadd64.internal"
// CHECK-COUNT-2: call_intrinsic "llvm.x86.tdpbssd.internal"
// CHECK-COUNT-2: call_intrinsic "llvm.x86.tilestored64.internal"
// CHECK-COUNT-4: call_intrinsic "llvm.x86.tileloadd64.internal"
// CHECK-COUNT-4: call_intrinsic "llvm.x86.tdpbssd.internal"
// Results of many rows are stored past the caches.
// CHECK: llvm.store {{.*}} {alignment = 64 : i64, nontemporal}
// CHECK: llvm.fence seq_cst
// Few rows.
// CHECK: vpdpbusd

// Sums of all columns are carried in registers, those of two row tiles by the
// one block that there is.
// CHECK: func.func @packed_linear_1(
// CHECK: scf.for {{.*}} -> (!llvm.x86_amx, !llvm.x86_amx)
// CHECK-COUNT-3: call_intrinsic "llvm.x86.tileloadd64.internal"
// CHECK-COUNT-2: call_intrinsic "llvm.x86.tdpbsud.internal"
// CHECK-NOT: llvm.x86.t
// CHECK: scf.yield {{.*}} : !llvm.x86_amx, !llvm.x86_amx

// 16 columns are no step.
// CHECK: func.func @packed_linear_2(
// CHECK-NOT: llvm.x86.t

// LLVM: llvm.func @packed_linear_1(
// LLVM: llvm.call_intrinsic "llvm.x86.tdpbsud.internal"({{.*}}) : (i16, i16, i16, !llvm.x86_amx, !llvm.x86_amx, !llvm.x86_amx) -> !llvm.x86_amx
// LLVM-NOT: unrealized
