//===- QlmDialect.td - The qlm dialect ---------------------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMDIALECT
#define QLM_DIALECT_QLMDIALECT

include "mlir/IR/OpBase.td"

def Qlm_Dialect : Dialect {
  let name = "qlm";
  let cppNamespace = "::mlir::qlm";
  let summary = "Language models, their quantization, and planned steps";
  let description = [{
    The dialect into which models are imported and in which they are
    optimized, quantized and planned. Four groups of operations:

    - **parameters**: weights stay outside the IR; `qlm.parameter` names a
      tensor of an archive, `qlm.load` is its value. Operations whose operands
      are all parameters form a *parameter program*, evaluated once when the
      package is written.
    - **model**: what a decoder is made of, on `[tokens, features]` tensors of
      one sequence.
    - **quantization**: every rounding, range, scale and zero point is an
      operation, operand or attribute; nothing is hidden in a flag.
    - **planned**: the ragged step over a paged cache that the runtime
      executes, and the launches it is lowered to.

    Module attributes: `qlm.model` (a dictionary that describes the model),
    `qlm.stage` (the last stage completed), and after Lower `qlm.plan`.
  }];
  let useDefaultAttributePrinterParser = 1;
  let extraClassDeclaration = [{
    void registerAttributes();
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::tensor::TensorDialect"];
}

#endif // QLM_DIALECT_QLMDIALECT
