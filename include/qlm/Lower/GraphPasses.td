//===- GraphPasses.td - Passes of the Lower stage on graphs -*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_GRAPHPASSES
#define QLM_LOWER_GRAPHPASSES

include "mlir/Pass/PassBase.td"

def FuseGraphLinears : Pass<"qlm-fuse-graph-linears", "::mlir::ModuleOp"> {
  let summary = "Adds constant vectors inside of the linear before";
  let description = [{
    A sum of a `qlm.linear`, used once, and a constant of a value a feature, as
    ONNX's MatMul and Add spell it, becomes the linear's bias.

    ```mlir
    %h = qlm.linear %x, %w : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
    %y = linalg.generic {indexing_maps = [#id, #last, #id], iterator_types = ["parallel", "parallel"]} ins(%h, %b : tensor<?x16xf32>, tensor<16xf32>) outs(%e : tensor<?x16xf32>) { /* addf */ } -> tensor<?x16xf32>
    ```
    becomes
    ```mlir
    %y = qlm.linear %x, %w bias %b : tensor<16xf32> : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
    ```
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def FoldQdq : Pass<"qlm-fold-qdq", "::mlir::ModuleOp"> {
  let summary = "Multiplies codes instead of what they stand for";
  let description = [{
    A `qlm.linear` whose input and weight are both dequantized from 8 bits
    becomes a `qlm.quantized_linear` of their codes, summed in int32. The input
    has one scale and zero point; the weight has one scale, or one for each
    output feature, signed codes and no zero points. The input's zero point
    becomes part of the bias (`graph.shifted_bias`); unsigned codes become
    signed ones, 128 less. What quantizes the result follows element by element
    and is fused with ReLU by `linalg-fuse-elementwise-ops`.

    ```mlir
    %x = graph.dequantize %q, %s : (tensor<?x8xi8>, tensor<f32>) -> tensor<?x8xf32>
    %w = graph.dequantize %v, %t {axis = 0 : i64} : (tensor<16x8xi8>, tensor<16xf32>) -> tensor<16x8xf32>
    %y = qlm.linear %x, %w : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
    ```
    becomes
    ```mlir
    %c, %k = qlm.keep_codes %w scales %t {scheme = #qlm.scheme<i8, channel, range [-128, 127], bound 127.0, scales f32>} : (tensor<16x8xf32>, tensor<16xf32>) -> (tensor<16x8xi8>, tensor<16xf32>)
    %y = qlm.quantized_linear %q input_scales %r, %c scales %k {scheme = ...} : ...
    ```
  }];
  let dependentDialects = [
    "::mlir::qlm::QlmDialect", "::mlir::qlm::graph::GraphDialect",
    "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::tensor::TensorDialect"
  ];
}

def LowerGraphCodes : Pass<"qlm-lower-graph-codes", "::mlir::ModuleOp"> {
  let summary = "Spells graph.quantize and graph.dequantize out";
  let description = [{
    Both become `linalg.generic` over their elements, by the formulas of their
    definitions.

    ```mlir
    %q = graph.quantize %x, %s : (tensor<?x8xf32>, tensor<f32>) -> tensor<?x8xi8>
    ```
    becomes
    ```mlir
    %q = linalg.generic {...} ins(%x, %s : tensor<?x8xf32>, tensor<f32>) outs(%e : tensor<?x8xi8>) { /* divf, roundeven, maxnumf, minnumf, fptosi, trunci */ } -> tensor<?x8xi8>
    ```
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::math::MathDialect", "::mlir::tensor::TensorDialect"
  ];
}

def EmitGraphKernels : Pass<"qlm-emit-graph-kernels", "::mlir::ModuleOp"> {
  let summary = "Emits the kernels of a graph's linears and makes them launches";
  let description = [{
    `qlm.packed_linear`, `qlm.dynamic_quantize` and `qlm.static_quantize` of
    `func @graph` become `graph.launch` of the kernels that a step of a decoder
    would run. Linears are cut into blocks of rows that a core's cache holds;
    the kernels lie beside the graph as functions of the LLVM dialect.

    ```mlir
    %y = qlm.packed_linear %x, %w {inFeatures = 8, outFeatures = 16, layout = #qlm.layout<f32x16>} : (tensor<?x8xf32>, tensor<1x8x16xf32>) -> tensor<?x16xf32>
    ```
    becomes
    ```mlir
    %e = tensor.empty(%rows) : tensor<?x16xf32>
    %y = graph.launch @packed_linear_rows rows %rows tiles %t ins(%x, %w : tensor<?x8xf32>, tensor<1x8x16xf32>) outs(%e : tensor<?x16xf32>) {scratchBytes = 0 : i64} -> tensor<?x16xf32>
    ```
  }];
  let options = [
    Option<"targetCpu", "target-cpu", "std::string", /*default=*/"\"native\"",
           "native, x86-64-v3, x86-64-v4, icelake-server or "
          "sapphirerapids">,
  ];
  let dependentDialects = [
    "::mlir::qlm::QlmDialect", "::mlir::qlm::graph::GraphDialect",
    "::mlir::LLVM::LLVMDialect", "::mlir::arith::ArithDialect",
    "::mlir::cf::ControlFlowDialect", "::mlir::func::FuncDialect",
    "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
    "::mlir::tensor::TensorDialect", "::mlir::vector::VectorDialect"
  ];
}

#endif // QLM_LOWER_GRAPHPASSES
