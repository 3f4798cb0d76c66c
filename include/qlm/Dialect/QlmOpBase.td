//===- QlmOpBase.td - What operations are declared with ----*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMOPBASE
#define QLM_DIALECT_QLMOPBASE

include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "qlm/Dialect/QlmAttrs.td"
include "qlm/Dialect/QlmDialect.td"
include "qlm/Dialect/QlmInterfaces.td"

class Qlm_Op<string opMnemonic, list<Trait> traits = []>
    : Op<Qlm_Dialect, opMnemonic, traits> {
  let hasVerifier = 1;
}

/// A model or quantization operation: pure, with a definition.
class Qlm_DefinedPureOp<string opMnemonic, list<Trait> traits = []>
    : Qlm_Op<opMnemonic, traits # [Pure,
        DeclareOpInterfaceMethods<Qlm_DefinedOp>]>;

def Qlm_FloatTensor : TensorOf<[F32, F16, BF16]>;
def Qlm_F32Tensor : TensorOf<[F32]>;
def Qlm_IndexTensor : TensorOf<[I32]>;
def Qlm_CodeTensor : TensorOf<[AnyTypeOf<[I8, UI8, I<4>, UI<4>, F8E4M3FN]>]>;
def Qlm_ScaleTensor : TensorOf<[F32, F16]>;
/// Packed scales; codes of scales are i8.
def Qlm_PackedScaleTensor : TensorOf<[F32, F16, I8]>;
def Qlm_WeightTensor
    : TensorOf<[F32, F16, BF16, AnyTypeOf<[I8, UI8, I<4>, UI<4>]>]>;

#endif // QLM_DIALECT_QLMOPBASE
