//===- Passes.td - Passes of the Package stage -------------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_PASSES
#define QLM_PACKAGE_PASSES

include "mlir/Pass/PassBase.td"

def AssembleKernels : Pass<"qlm-assemble-kernels", "::mlir::ModuleOp"> {
  let summary = "Compiles the GPU kernels to PTX and assembles them";
  let description = [{
    What Package does with each `gpu.module` after `qlm-lower-kernels-to-nvvm`,
    for looking at one kernel: PTX by LLVM, machine code by ptxas. Sets on each
    kernel what ptxas reports, and writes `MODULE.ptx` and `MODULE.cubin` into
    the folder `output`, where it is given.

    ```mlir
    llvm.func @k(%x: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>} {
    ```
    becomes
    ```mlir
    llvm.func @k(%x: !llvm.ptr<1>, %sizes: !llvm.ptr<1>) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 32>, qlm.registers = 8 : i64, qlm.shared_bytes = 0 : i64, qlm.spill_bytes = 0 : i64, qlm.stack_bytes = 0 : i64} {
    ```
  }];
  let options = [
    Option<"output", "output", "std::string", /*default=*/"\"\"",
           "Folder for PTX and machine code; empty for none">,
  ];
}

#endif // QLM_PACKAGE_PASSES
