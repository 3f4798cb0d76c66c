// RUN: quant-opt %s --qlm-narrow-activations=type=bf16 --qlm-plan-memory=alignment=256 --qlm-emit-cuda-kernels="ptx=false" | FileCheck %s

// A launch of no blocks, whose first buffer holds the rows as they were before
// they are rounded for the linear; its label tells runtimes to show them. Its
// kernel finds their statistics for observers that leave them on the GPU: a
// block for 32 columns, columns before counts.

// CHECK-LABEL: func.func @step
// CHECK: qlm.launch "normed" {{.*}}args [#qlm.arg<arena>, #qlm.arg<weight>, #qlm.arg<arena, [[N:[0-9]+]]>]
// CHECK: qlm.launch "observe:normed:96"
// CHECK-SAME: @observe
// CHECK-SAME: grid = <0 * tokens, block 1>, gridY = <3 * one, block 1>
// CHECK-SAME: args [#qlm.arg<arena, [[N]]>]
// CHECK: qlm.launch "linear"
// CHECK: llvm.func @observe(%{{[^:]*}}: !llvm.ptr<1>, %{{[^:]*}}: !llvm.ptr<1>, %{{[^:]*}}: !llvm.ptr<1>, %{{[^:]*}}: !llvm.ptr<1>, %{{[^:]*}}: !llvm.ptr<1>, %{{[^:]*}}: !llvm.ptr<1>, %{{[^:]*}}: !llvm.ptr<1>)
// CHECK-SAME: reqntid = array<i32: 1024>
// CHECK-COUNT-2: llvm.atomicrmw max %{{.*}}, %{{.*}} monotonic : !llvm.ptr<1>, i32
// CHECK: llvm.atomicrmw add %{{.*}}, %{{.*}} monotonic : !llvm.ptr<3>, i32
// CHECK: llvm.atomicrmw add %{{.*}}, %{{.*}} monotonic : !llvm.ptr<1>, i64
module attributes {qlm.plan = {max_step_tokens = 512 : i64, max_logit_rows = 2 : i64, max_batch = 2 : i64}} {
  func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %offsets: tensor<?xi32>,
      %contexts: tensor<?xi32>, %tables: tensor<?x?xi32>, %rows: tensor<?xi32>) -> tensor<?x256xf32> {
    %table = arith.constant dense<0.5> : tensor<4x96xf32>
    %gain = arith.constant dense<0.5> : tensor<96xf32>
    %w = arith.constant dense<0.5> : tensor<16x8x256xbf16>
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<4x96xf32> -> tensor<?x96xf32> loc("embedded")
    %n = qlm.rms_norm %x, %gain {epsilon = 0.5 : f32} : tensor<?x96xf32>, tensor<96xf32> loc("normed")
    qlm.observe %n : tensor<?x96xf32> loc("normed")
    %c = qlm.convert %n : tensor<?x96xf32> to tensor<?x96xbf16> loc("rounded")
    %y = qlm.packed_linear %c, %w {inFeatures = 96 : i64, outFeatures = 256 : i64, layout = #qlm.layout<frag16>}
        : (tensor<?x96xbf16>, tensor<16x8x256xbf16>) -> tensor<?x256xf32> loc("linear")
    return %y : tensor<?x256xf32>
  }
}
