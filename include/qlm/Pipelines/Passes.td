//===- Passes.td - Passes over whole stages ----------------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PIPELINES_PASSES
#define QLM_PIPELINES_PASSES

include "mlir/Pass/PassBase.td"

def VerifyContract : Pass<"qlm-verify-contract", "::mlir::ModuleOp"> {
  let summary = "Checks what must hold between two stages";
  let description = [{
    Checks each sentence that `docs/design/2026-11-23-ir-contracts.md` says of
    the IR after a stage, and names the pass that should have made it true.
    Changes nothing.

    After `quantize`, for example,
    ```mlir
    %y = qlm.linear %x, %w : tensor<?x256xf32>, tensor<64x256xbf16> -> tensor<?x64xf32>
    ```
    is an error: "contract after quantize: every linear must be packed, got
    qlm.linear", with a note that names `qlm-pack-weights`.
  }];
  let options = [
    Option<"after", "after", "std::string", /*default=*/"\"\"",
           "The stage that has just ended: import, optimize, quantize or "
           "lower">,
  ];
}

#endif // QLM_PIPELINES_PASSES
