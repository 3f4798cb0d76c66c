// RUN: rm -rf %t
// RUN: quant-opt --qlm-lower-kernels-to-nvvm --qlm-assemble-kernels=output=%t %s | FileCheck %s
// RUN: FileCheck --check-prefix=PTX %s < %t/kernels.ptx
// RUN: test -s %t/kernels.cubin
// REQUIRES: ptxas

gpu.module @kernels {
  llvm.mlir.global internal @buffer() {addr_space = 3 : i32, alignment = 16 : i64} : !llvm.array<512 x i8>
  // What ptxas says is on the kernel.
  // CHECK: llvm.func @sum(
  // CHECK-SAME: qlm.registers = {{[1-9][0-9]*}} : i64
  // CHECK-SAME: qlm.shared_bytes = 512 : i64
  // CHECK-SAME: qlm.spill_bytes = 0 : i64
  // CHECK-SAME: qlm.stack_bytes = 0 : i64
  // PTX: .target sm_90a
  // PTX: .entry sum(
  // PTX: .reqntid 128
  llvm.func @sum(%x: !llvm.ptr<1>, %y: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 128>} {
    %t = nvvm.read.ptx.sreg.tid.x range <i32, 0, 128> : i32
    // PTX: griddepcontrol.wait
    nvvm.griddepcontrol wait
    %from = llvm.getelementptr inbounds %x[%t] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, vector<4xf32>
    // One load of 16 bytes.
    // PTX: ld.global{{(\.nc)?}}.v4.
    %v = llvm.load %from {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xf32>
    %a = vector.extract %v[0] : f32 from vector<4xf32>
    %b = vector.extract %v[1] : f32 from vector<4xf32>
    %c = vector.extract %v[2] : f32 from vector<4xf32>
    // A product and a sum stay two roundings, and an fma one.
    // PTX: mul.rn.f32
    // PTX: add.rn.f32
    // PTX: fma.rn.f32
    %p = arith.mulf %a, %b : f32
    %q = arith.addf %p, %c : f32
    %s = math.fma %q, %a, %b : f32
    %shared = llvm.mlir.addressof @buffer : !llvm.ptr<3>
    %slot = llvm.getelementptr inbounds %shared[%t] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, f32
    // PTX: st.shared.b32
    llvm.store %s, %slot : f32, !llvm.ptr<3>
    // PTX: bar{{(rier)?}}.sync
    nvvm.barrier
    %one = arith.constant 1 : i32
    %neighbour = arith.xori %t, %one : i32
    %other = llvm.getelementptr inbounds %shared[%neighbour] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, f32
    %r = llvm.load %other : !llvm.ptr<3> -> f32
    %to = llvm.getelementptr inbounds %y[%t] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
    llvm.store %r, %to : f32, !llvm.ptr<1>
    llvm.return
  }
}
