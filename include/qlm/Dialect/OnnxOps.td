//===- OnnxOps.td - An ONNX graph's nodes as they stand ----*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Declared apart from the dialect qlm (qlm/Dialect/Onnx.h): only Import makes
// these operations, and only the raising passes of Optimize read them.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_ONNXOPS
#define QLM_DIALECT_ONNXOPS

include "mlir/IR/OpBase.td"
include "mlir/IR/BuiltinAttributeInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Onnx_Dialect : Dialect {
  let name = "onnx";
  let cppNamespace = "::mlir::qlm::onnxir";
  let summary = "Nodes of an ONNX graph before they are raised";
  let description = [{
    One operation stands for a node of any operator, so that raising passes can
    match graphs of operators that have no operation of their own. A value has
    the type that the file declares for it, or `none`.

    Made by Import of a decoder (`quantc MODEL.onnx --tokenizer FOLDER`); none
    is left after `qlm-raise-decoder`.
  }];
}

class Onnx_Op<string opMnemonic, list<Trait> traits = []>
    : Op<Onnx_Dialect, opMnemonic, traits>;

def Onnx_NodeOp : Onnx_Op<"node", [Pure]> {
  let summary = "A node of an ONNX graph";
  let description = [{
    `kind` is the operator's name, after its domain and a dot where that isn't
    the standard's. Attributes are those of the node: whole numbers are i64,
    floats f32, lists dense arrays, tensors dense elements. The location is the
    node's name.

    ```mlir
    %y = onnx.node "Concat"(%a, %b) {axis = -1 : i64} : (tensor<?x4xf32>, none) -> none
    ```
  }];
  let arguments = (ins StrAttr:$kind, Variadic<AnyType>:$inputs);
  let results = (outs Variadic<AnyType>:$outputs);
  let assemblyFormat = [{
    $kind `(` $inputs `)` attr-dict `:` functional-type($inputs, $outputs)
  }];
  let extraClassDeclaration = [{
    /// Whether the operator is \p name.
    bool is(::llvm::StringRef name) { return getKind() == name; }
    /// An input, or null where it is absent.
    ::mlir::Value input(unsigned i);
    /// A whole number among the attributes.
    int64_t integer(::llvm::StringRef name, int64_t missing);
    double number(::llvm::StringRef name, double missing);
  }];
}

def Onnx_AbsentOp : Onnx_Op<"absent", [Pure]> {
  let summary = "An optional input that isn't there";
  let description = [{
    ```mlir
    %none = onnx.absent : none
    ```
  }];
  let results = (outs AnyType:$result);
  let assemblyFormat = "attr-dict `:` type($result)";
}

def Onnx_ConstantOp : Onnx_Op<"constant", [Pure,
    AllTypesMatch<["value", "result"]>]> {
  let summary = "A small tensor that the file holds";
  let description = [{
    That of an initializer says its name and place too, as `onnx.initializer`
    does.

    ```mlir
    %c = onnx.constant dense<[1, -1]> : tensor<2xi64>
    %w = onnx.constant "scale" from "model.onnx" at 96 dense<[1.0, 2.0]> : tensor<2xf32>
    ```
  }];
  let arguments = (ins TypedAttrInterface:$value, OptionalAttr<StrAttr>:$name,
                       OptionalAttr<StrAttr>:$file,
                       OptionalAttr<I64Attr>:$offset);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = [{
    ($name^ `from` $file `at` $offset)? $value attr-dict
  }];
}

def Onnx_InitializerOp : Onnx_Op<"initializer", [Pure]> {
  let summary = "A large tensor, which stays in its file";
  let description = [{
    `file` is relative to the folder that `qlm.source` names; the elements lie
    there from byte `offset` on, in order, little endian.

    ```mlir
    %w = onnx.initializer "model.norm.weight" from "model.onnx.data" at 4096 : tensor<2048xf32>
    ```
  }];
  let arguments = (ins StrAttr:$name, StrAttr:$file, I64Attr:$offset);
  let results = (outs AnyStaticShapeTensor:$result);
  let assemblyFormat = [{
    $name `from` $file `at` $offset attr-dict `:` type($result)
  }];
}

#endif // QLM_DIALECT_ONNXOPS
