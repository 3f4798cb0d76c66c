//===- GraphOps.td - What compiled graphs are made of ------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Declared apart from the dialect qlm (qlm/Dialect/Graph.h): only graphs of
// ONNX files have these operations.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_GRAPHOPS
#define QLM_DIALECT_GRAPHOPS

include "mlir/IR/OpBase.td"
include "mlir/Interfaces/DestinationStyleOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Graph_Dialect : Dialect {
  let name = "graph";
  let cppNamespace = "::mlir::qlm::graph";
  let summary = "Codes and launches of ONNX graphs";
  let description = [{
    What `func @graph` of an ONNX file holds beside linalg, tensor, scf and
    `qlm.linear`: operations that say what a loop nest would hide, so that
    passes can match and fold them.
  }];
}

class Graph_Op<string opMnemonic, list<Trait> traits = []>
    : Op<Graph_Dialect, opMnemonic, traits>;

def Graph_QuantizeOp : Graph_Op<"quantize", [Pure]> {
  let summary = "ONNX's QuantizeLinear to 8 bits";
  let description = [{
    `result[i] = clamp(round(input[i] / scale) + zeroPoint, lo, hi)`, half to
    even, NaN to lo; scale and zero point are one for all, or one for each
    index of dimension `axis`. Codes are -128 .. 127, or, with `unsignedCodes`,
    0 .. 255 in the bits of i8.

    Constraints:
    - (C1) `input` is f32, the result i8 of its shape.
    - (C2) `scale` is f32 and `zeroPoint`, if any, i8 of its shape: `[]`, `[1]`
      or the size of dimension `axis`.

    ```mlir
    %q = graph.quantize %x, %s, %z {axis = 1 : i64, unsignedCodes} : (tensor<?x8xf32>, tensor<f32>, tensor<i8>) -> tensor<?x8xi8>
    ```
  }];
  let arguments = (ins TensorOf<[F32]>:$input, TensorOf<[F32]>:$scale,
                       Optional<TensorOf<[I8]>>:$zeroPoint,
                       DefaultValuedAttr<I64Attr, "1">:$axis,
                       UnitAttr:$unsignedCodes);
  let results = (outs TensorOf<[I8]>:$result);
  let assemblyFormat = [{
    $input `,` $scale (`,` $zeroPoint^)? attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Graph_DequantizeOp : Graph_Op<"dequantize", [Pure]> {
  let summary = "ONNX's DequantizeLinear of 8 or 32 bits";
  let description = [{
    `result[i] = f32(input[i] - zeroPoint) * scale`, the difference exact.

    Constraints:
    - (C1) `input` is i8 (unsigned with `unsignedCodes`) or i32, the result f32
      of its shape.
    - (C2) as (C2) of `graph.quantize`; `zeroPoint` has the input's elements.

    ```mlir
    %x = graph.dequantize %q, %s, %z {axis = 0 : i64} : (tensor<16x8xi8>, tensor<16xf32>, tensor<16xi8>) -> tensor<16x8xf32>
    ```
  }];
  let arguments = (ins TensorOf<[I8, I32]>:$input, TensorOf<[F32]>:$scale,
                       Optional<TensorOf<[I8, I32]>>:$zeroPoint,
                       DefaultValuedAttr<I64Attr, "1">:$axis,
                       UnitAttr:$unsignedCodes);
  let results = (outs TensorOf<[F32]>:$result);
  let assemblyFormat = [{
    $input `,` $scale (`,` $zeroPoint^)? attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Graph_ShiftedBiasOp : Graph_Op<"shifted_bias", [Pure]> {
  let summary = "A bias less what the zero point of a linear's input adds";
  let description = [{
    `result[n] = bias[n] - shift * sum_k weight[n, k]`, summed in f64; no bias
    counts as 0. `shift` is the input's scale times its zero point.

    Constraints:
    - (C1) `weight` is a static matrix `[rows, columns]`, `bias`, if any, and
      the result are `[rows]`.

    Made by `qlm-fold-qdq`; evaluated with the other parameters.

    ```mlir
    %b = graph.shifted_bias %w, %a {shift = 0.5 : f32} : (tensor<16x8xf32>, tensor<16xf32>) -> tensor<16xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32]>:$weight, Optional<TensorOf<[F32]>>:$bias,
                       F32Attr:$shift);
  let results = (outs TensorOf<[F32]>:$result);
  let assemblyFormat = [{
    $weight (`,` $bias^)? attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Graph_LaunchOp : Graph_Op<"launch", [AttrSizedOperandSegments,
    DestinationStyleOpInterface,
    DeclareOpInterfaceMethods<MemoryEffectsOpInterface>]> {
  let summary = "Runs a kernel's tiles on the pool's threads";
  let description = [{
    `kernel` has the signature `::qlm::format::KernelFunction`; its buffers are
    `inputs`, then `outputs`, its size `tokens` is `rows`. Tiles 0 .. `tiles` -
    1 are computed, in any order and by any threads, and each thread has
    `scratchBytes` of its own.

    Made by `qlm-emit-graph-kernels`, on tensors; bufferization puts memory in
    their place, and the call of the runtime takes the operation's.

    ```mlir
    %y = graph.launch @packed_linear rows %n tiles %t ins(%x, %w : tensor<?x8xf32>, tensor<1x8x16xf32>) outs(%e : tensor<?x16xf32>) {scratchBytes = 0 : i64} -> tensor<?x16xf32>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel, Index:$rows, Index:$tiles,
                       I64Attr:$scratchBytes, Variadic<AnyType>:$inputs,
                       Variadic<AnyType>:$outputs);
  let results = (outs Variadic<AnyRankedTensor>:$results);
  let assemblyFormat = [{
    $kernel `rows` $rows `tiles` $tiles `ins` `(` $inputs `:` type($inputs) `)`
    `outs` `(` $outputs `:` type($outputs) `)` attr-dict
    (`->` type($results)^)?
  }];
  let extraClassDeclaration = [{
    ::mlir::MutableOperandRange getDpsInitsMutable() {
      return getOutputsMutable();
    }
  }];
}

#endif // QLM_DIALECT_GRAPHOPS
