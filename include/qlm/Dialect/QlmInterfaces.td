//===- QlmInterfaces.td - Interfaces of the qlm dialect ----*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMINTERFACES
#define QLM_DIALECT_QLMINTERFACES

include "mlir/IR/OpBase.td"

def Qlm_DefinedOp : OpInterface<"DefinedOp"> {
  let cppNamespace = "::mlir::qlm";
  let description = [{
    An operation that carries its own definition: a spelling in upstream
    dialects (linalg, arith, math, tensor, scf) with the same results. The
    definition is the referee that kernels and passes are compared with; it is
    written to be obviously right, not fast.
  }];
  let methods = [
    InterfaceMethod<
      [{Builds the definition before this operation and returns the values
        that replace its results; fails with a diagnostic on a form that has
        no definition.}],
      "::mlir::FailureOr<::llvm::SmallVector<::mlir::Value>>",
      "decompose", (ins "::mlir::OpBuilder &":$builder)>
  ];
}

#endif // QLM_DIALECT_QLMINTERFACES
