// RUN: quant-opt --split-input-file --verify-diagnostics --qlm-lower-kernels-to-nvvm=chip=sm_89 %s | FileCheck %s

// A module without a chip gets the option's; nothing but llvm and nvvm stays.
// CHECK: module attributes {qlm.stage = "lower"}
module {
  // CHECK: gpu.module @kernels attributes {qlm.chip = "sm_89"}
  gpu.module @kernels {
    llvm.mlir.global internal @buffer() {addr_space = 3 : i32, alignment = 16 : i64} : !llvm.array<128 x i8>
    // CHECK-LABEL: llvm.func @scale(
    // CHECK-SAME: attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>}
    llvm.func @scale(%x: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
      // CHECK: %[[T:.*]] = nvvm.read.ptx.sreg.tid.x range
      %t = nvvm.read.ptx.sreg.tid.x range <i32, 0, 32> : i32
      %rows = llvm.load %sizes : !llvm.ptr<1> -> i32
      // CHECK: llvm.icmp "slt" %[[T]]
      // CHECK: llvm.cond_br
      %inside = arith.cmpi slt, %t, %rows : i32
      scf.if %inside {
        %p = llvm.getelementptr inbounds %x[%t] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, vector<4xf32>
        // CHECK: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xf32>
        %v = llvm.load %p {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xf32>
        // CHECK: llvm.intr.fma
        %w = math.fma %v, %v, %v : vector<4xf32>
        %e = vector.extract %w[0] : f32 from vector<4xf32>
        // CHECK: llvm.intr.sqrt
        %s = math.sqrt %e : f32
        %i = vector.insert %s, %w[0] : f32 into vector<4xf32>
        llvm.store %i, %p {alignment = 16 : i64} : vector<4xf32>, !llvm.ptr<1>
      }
      // CHECK-NOT: arith.
      // CHECK-NOT: scf.
      // CHECK-NOT: vector.
      // CHECK: nvvm.barrier
      nvvm.barrier
      llvm.return
    }
  }
}

// -----

module {
  // CHECK: gpu.module @named attributes {qlm.chip = "sm_80"}
  gpu.module @named attributes {qlm.chip = "sm_80"} {
  }
}

// -----

// expected-error @below {{module has no gpu.module; run qlm-emit-cuda-kernels first}}
module {
}

// -----

module {
  // expected-error @below {{unknown chip 'sm_70', expected sm_80, sm_89 or sm_90a}}
  gpu.module @old attributes {qlm.chip = "sm_70"} {
  }
}
