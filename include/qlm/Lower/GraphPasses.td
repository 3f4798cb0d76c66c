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

def KeepGenerated : Pass<"qlm-keep-generated", "::mlir::ModuleOp"> {
  let summary = "Keeps tensors in memory whose elements are costly";
  let description = [{
    Canonicalizing puts the body of a `tensor.generate` where an element is
    extracted: what takes a loop is then computed again for each use, and a
    chain of such tensors takes loops inside of loops. A generated tensor whose
    elements take a loop or a function of `math` becomes a `linalg.map`, which
    is computed once; others stay.

    ```mlir
    %s = tensor.generate %n { ^bb0(%i: index): /* scf.for */ } : tensor<?xf32>
    ```
    becomes
    ```mlir
    %e = tensor.empty(%n) : tensor<?xf32>
    %s = linalg.map outs(%e : tensor<?xf32>) (%o: f32) { /* scf.for */ }
    ```
  }];
  let dependentDialects = [
    "::mlir::linalg::LinalgDialect", "::mlir::tensor::TensorDialect"
  ];
}

def LowerConvolutions : Pass<"qlm-lower-convolutions", "::mlir::ModuleOp"> {
  let summary = "Convolutions of images to linears of their windows";
  let description = [{
    Images lie a pixel a row, all channels of a pixel side by side, from one
    convolution to the next: a convolution is a `qlm.linear` of
    `graph.windows`, or of the pixels themselves when its kernel is one pixel
    and takes each, and its result is the next one's input. Operations element
    by element between them, and pools, are moved to rows too; what else uses
    an image gets it in the order of ONNX. Windows are taken of codes where the
    weight is quantized. `graph.normalize` becomes part of the weight and bias
    of the convolution before it. Convolutions in groups become loops.

    ```mlir
    %y = graph.conv %x, %w {pads = array<i64: 1, 1, 1, 1>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : (tensor<?x8x4x4xf32>, tensor<16x8x3x3xf32>) -> tensor<?x16x4x4xf32>
    ```
    becomes
    ```mlir
    %r = tensor.collapse_shape %turned [[0, 1, 2], [3]] : tensor<?x4x4x8xf32> into tensor<?x8xf32>
    %p = graph.windows %r {size = array<i64: 4, 4>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 1, 1>, dilations = array<i64: 1, 1>} : tensor<?x8xf32> -> tensor<?x72xf32>
    %l = qlm.linear %p, %v : tensor<?x72xf32>, tensor<16x72xf32> -> tensor<?x16xf32>
    ```
    and what turns `%l` back, if somebody wants that.
  }];
  let dependentDialects = [
    "::mlir::qlm::QlmDialect", "::mlir::qlm::graph::GraphDialect",
    "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::math::MathDialect", "::mlir::tensor::TensorDialect"
  ];
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
    Both, and `qlm.static_quantize`, become `linalg.generic` over their elements,
    by the formulas of their definitions; windows that are quantized become
    windows of codes.

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
    A `qlm.packed_linear` of `func @graph` becomes a `graph.launch` of the
    kernel that a step of a decoder would run, over blocks of rows that a core's
    cache holds. What makes a block's rows — `graph.windows`, a
    `qlm.dynamic_quantize`, a map of other rows' elements — and the maps that
    its result goes through are computed in the same launch, block by block. A
    3 x 3 convolution of f32 with strides of 1 is computed by Winograd's
    F(2 x 2, 3 x 3), where channels fill vectors and maps pairs of blocks, and an
    image has at least 16 quads of results.
    Windows, `graph.pool_rows` and roundings that no linear takes over become
    launches of their own. The kernels lie beside the graph as functions of the
    LLVM dialect.

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
           "native, x86-64-v3, alderlake, x86-64-v4, icelake-server or "
           "sapphirerapids">,
  ];
  let dependentDialects = [
    "::mlir::qlm::QlmDialect", "::mlir::qlm::graph::GraphDialect",
    "::mlir::LLVM::LLVMDialect", "::mlir::arith::ArithDialect",
    "::mlir::cf::ControlFlowDialect", "::mlir::func::FuncDialect",
    "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
    "::mlir::linalg::LinalgDialect", "::mlir::tensor::TensorDialect",
    "::mlir::vector::VectorDialect"
  ];
}

#endif // QLM_LOWER_GRAPHPASSES
