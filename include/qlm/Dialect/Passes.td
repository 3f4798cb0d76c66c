//===- Passes.td - Passes of the dialect itself ------------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_PASSES
#define QLM_DIALECT_PASSES

include "mlir/Pass/PassBase.td"

def Decompose : Pass<"qlm-decompose"> {
  let summary = "Replaces operations by their definitions";
  let description = [{
    Every operation with the `DefinedOp` interface becomes the tensor, scf,
    arith and math operations that define it. The result is the referee that
    kernels and passes are compared with; it is right, not fast.

    Parameters (`qlm.load`) stay: a function that is to be run takes them as
    arguments.

    ```mlir
    %y = qlm.scale %x by 2.000000e+00 : tensor<4xf32>
    ```

    becomes

    ```mlir
    %y = tensor.generate {
    ^bb0(%i: index):
      %a = tensor.extract %x[%i] : tensor<4xf32>
      %b = arith.mulf %a, %factor : f32
      tensor.yield %b : f32
    } : tensor<4xf32>
    ```
  }];
  let dependentDialects = ["::mlir::math::MathDialect",
                           "::mlir::scf::SCFDialect"];
}

#endif // QLM_DIALECT_PASSES
