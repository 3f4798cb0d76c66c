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

//===----------------------------------------------------------------------===//
// Images
//===----------------------------------------------------------------------===//

def Graph_ConvOp : Graph_Op<"conv", [Pure]> {
  let summary = "ONNX's Conv of images";
  let description = [{
    `result[n, m, y, x] = bias[m] + sum over c, i, j of weight[m, c, i, j] *
    input[n, first(m) + c, y * sy - top + i * dy, x * sx - left + j * dx]`,
    where what lies outside of the image is 0 and `first(m) = m / (maps /
    groups) * channels / groups`; no bias counts as 0. `pads` are top, left,
    bottom and right.

    Constraints:
    - (C1) `input` is `[n, c, h, w]`, of which n may be open, `weight` the
      static `[m, c / groups, kh, kw]`, `bias` `[m]`.
    - (C2) `pads` has four numbers that aren't negative, `strides` and
      `dilations` have two that are at least 1; `groups` divides c and m.
    - (C3) the result is `[n, m, y, x]` with as many places as windows fit, at
      least one.

    Removed by `qlm-lower-convolutions`.

    ```mlir
    %y = graph.conv %x, %w, %b {pads = array<i64: 1, 1, 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : (tensor<?x3x8x8xf32>, tensor<16x3x3x3xf32>, tensor<16xf32>) -> tensor<?x16x4x4xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32]>:$input, TensorOf<[F32]>:$weight,
                       Optional<TensorOf<[F32]>>:$bias,
                       DenseI64ArrayAttr:$pads, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$dilations,
                       DefaultValuedAttr<I64Attr, "1">:$groups);
  let results = (outs TensorOf<[F32]>:$result);
  let assemblyFormat = [{
    $input `,` $weight (`,` $bias^)? attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Graph_NormalizeOp : Graph_Op<"normalize", [Pure]> {
  let summary = "ONNX's BatchNormalization of a channel's elements";
  let description = [{
    `result = (input - mean[c]) / sqrt(variance[c] + epsilon) * scale[c] +
    shift[c]` for channel c, dimension 1.

    Constraints:
    - (C1) `input` and result have one type of rank 4; the others are `[c]`.

    Becomes part of the convolution before it in `qlm-lower-convolutions`, or
    is spelled out there.

    ```mlir
    %y = graph.normalize %x, %s, %b, %m, %v {epsilon = 1.0e-05 : f32} : (tensor<?x8x4x4xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<?x8x4x4xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32]>:$input, TensorOf<[F32]>:$scale,
                       TensorOf<[F32]>:$shift, TensorOf<[F32]>:$mean,
                       TensorOf<[F32]>:$variance, F32Attr:$epsilon);
  let results = (outs TensorOf<[F32]>:$result);
  let assemblyFormat = [{
    operands attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Graph_NormalizedWeightOp : Graph_Op<"normalized_weight", [Pure]> {
  let summary = "Weights of a convolution that normalizes its result";
  let description = [{
    `result[m, ...] = weight[m, ...] * scale[m] / sqrt(variance[m] + epsilon)`,
    in f64.

    Constraints:
    - (C1) `weight` is static and the result of its type; the others have an
      element for each index of its dimension 0.

    Made by `qlm-lower-convolutions`; evaluated with the other parameters.

    ```mlir
    %u = graph.normalized_weight %w, %s, %v {epsilon = 1.0e-05 : f32} : (tensor<8x4x3x3xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<8x4x3x3xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32]>:$weight, TensorOf<[F32]>:$scale,
                       TensorOf<[F32]>:$variance, F32Attr:$epsilon);
  let results = (outs TensorOf<[F32]>:$result);
  let assemblyFormat = [{
    operands attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Graph_NormalizedBiasOp : Graph_Op<"normalized_bias", [Pure]> {
  let summary = "Bias of a convolution that normalizes its result";
  let description = [{
    `result[m] = (bias[m] - mean[m]) * scale[m] / sqrt(variance[m] + epsilon) +
    shift[m]`, in f64; no bias counts as 0.

    Constraints:
    - (C1) all operands and the result have one static type of rank 1.

    ```mlir
    %c = graph.normalized_bias %s, %b, %m, %v, %a {epsilon = 1.0e-05 : f32} : (tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32]>:$scale, TensorOf<[F32]>:$shift,
                       TensorOf<[F32]>:$mean, TensorOf<[F32]>:$variance,
                       Optional<TensorOf<[F32]>>:$bias, F32Attr:$epsilon);
  let results = (outs TensorOf<[F32]>:$result);
  let assemblyFormat = [{
    operands attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Graph_PoolOp : Graph_Op<"pool", [Pure]> {
  let summary = "Maxima or means of windows of an image";
  let description = [{
    The largest element of each window (-infinity of an empty one), or, with
    `average`, the mean of those elements that lie in the image, or, with
    `countsPadding` too, in the image and its padding. The result may have one
    more place than whole windows fit (ONNX's ceil_mode).

    Constraints:
    - (C1) `input` is `[n, c, h, w]`, of which n may be open, the result
      `[n, c, y, x]`.
    - (C2) `kernel`, `strides` and `dilations` have two numbers, at least 1;
      `pads` has four (top, left, bottom, right) that aren't negative.

    Removed by `qlm-lower-convolutions`.

    ```mlir
    %y = graph.pool %x {kernel = array<i64: 3, 3>, pads = array<i64: 1, 1, 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<?x8x8x8xf32> -> tensor<?x8x4x4xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32]>:$input, DenseI64ArrayAttr:$kernel,
                       DenseI64ArrayAttr:$pads, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$dilations, UnitAttr:$average,
                       UnitAttr:$countsPadding);
  let results = (outs TensorOf<[F32]>:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
}

def Graph_WindowsOp : Graph_Op<"windows", [Pure]> {
  let summary = "Windows of an image, a row each";
  let description = [{
    Images lie a pixel a row, `input[(n * h + y) * w + x, c]`. Row `(n * Y + y)
    * X + x` of the result is the window at y, x: its elements by row, column
    and channel, `outside` where it leaves the image. A convolution is the
    product of these rows with its kernels.

    Constraints:
    - (C1) `input` is `[rows, c]` of f32 or i8, the result `[windows, kh * kw *
      c]`; `size` (h, w), `kernel`, `places` (Y, X), `strides` and `dilations`
      have two numbers, at least 1; `pads` (top, left) has two, not negative.
    - (C2) where rows are known they are images' and as many as the windows'.
    - (C3) `outside` is a code, 0 of f32.

    Made by `qlm-lower-convolutions`; part of the linear's launch in
    `qlm-emit-graph-kernels`.

    ```mlir
    %y = graph.windows %x {size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<?x8xf32> -> tensor<?x72xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32, I8]>:$input, DenseI64ArrayAttr:$size,
                       DenseI64ArrayAttr:$kernel, DenseI64ArrayAttr:$places,
                       DenseI64ArrayAttr:$pads, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$dilations,
                       DefaultValuedAttr<I64Attr, "0">:$outside);
  let results = (outs TensorOf<[F32, I8]>:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
}

def Graph_PoolRowsOp : Graph_Op<"pool_rows", [Pure]> {
  let summary = "graph.pool of images that lie a pixel a row";
  let description = [{
    As `graph.pool` of images in the order of `graph.windows`; `pads` has all
    four numbers.

    Constraints:
    - (C1), (C2) as those of `graph.windows`; the result is `[windows, c]`.
    - (C3) `average` takes f32.

    ```mlir
    %y = graph.pool_rows %x {size = array<i64: 8, 8>, kernel = array<i64: 3, 3>, places = array<i64: 4, 4>, pads = array<i64: 1, 1, 1, 1>, strides = array<i64: 2, 2>, dilations = array<i64: 1, 1>} : tensor<?x8xf32> -> tensor<?x8xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32, I8]>:$input, DenseI64ArrayAttr:$size,
                       DenseI64ArrayAttr:$kernel, DenseI64ArrayAttr:$places,
                       DenseI64ArrayAttr:$pads, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$dilations, UnitAttr:$average,
                       UnitAttr:$countsPadding);
  let results = (outs TensorOf<[F32, I8]>:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

def Graph_AttentionOp : Graph_Op<"attention",
    [Pure, AttrSizedOperandSegments]> {
  let summary = "Attention of queries to keys and values";
  let description = [{
    For query t of a head, over the keys u that it sees, in f32:

        s[u] = scale * (query[t] . key[u])
        s[u] = softcap * tanh(s[u] / softcap)   where softcap isn't 0
        s[u] = s[u] + mask[t, u]                of a mask of floats
        result[t] = sum of e^s[u] * value[u] / sum of e^s[u]

    Query t stands at place `first + t` among the keys (`first` is 0 where it
    isn't given), with `lengths` at `lengths[n] - queries + t`. It sees the keys
    that a mask of booleans shows, or a mask of floats covers, those below
    `lengths[n]`, with `causal` those up to its place, and no further than
    `left` before and `right` after it; -1 is no bound. What no key is left for
    is 0, or NaN with `emptyIsNan`, as the formula has it.

    `[n, heads, tokens, size]` is the order of each tensor; where
    `tokensFirst` is true for the queries and the result, the keys, the values,
    it is `[n, tokens, heads, size]`. Heads of keys serve as many consecutive
    heads of queries.

    Constraints:
    - (C1) all four are of rank 4 and one type of floats; heads and sizes are
      known and not 0, those of keys divide the queries'; queries and keys have
      one size, as have values and the result.
    - (C2) `mask` is i1 or floats, of one to four dimensions that broadcast to
      `[n, heads, queries, keys]`, but for the last, which may be shorter.
    - (C3) `lengths` has a number for each n.
    - (C4) `left` and `right` are at least -1, `tokensFirst` has three elements.

    Becomes a launch in `qlm-emit-graph-kernels`.

    ```mlir
    %y = graph.attention %q, %k, %v {scale = 0.125 : f64, causal, tokensFirst = array<i1: false, false, false>} : (tensor<?x8x?x64xf32>, tensor<?x2x?x64xf32>, tensor<?x2x?x64xf32>) -> tensor<?x8x?x64xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32, F16, BF16]>:$query,
                       TensorOf<[F32, F16, BF16]>:$key,
                       TensorOf<[F32, F16, BF16]>:$value,
                       Optional<TensorOf<[I1, F32, F16, BF16]>>:$mask,
                       Optional<TensorOf<[I64]>>:$lengths,
                       Optional<Index>:$first, F64Attr:$scale,
                       DefaultValuedAttr<F64Attr, "0.0">:$softcap,
                       DefaultValuedAttr<I64Attr, "-1">:$left,
                       DefaultValuedAttr<I64Attr, "-1">:$right,
                       UnitAttr:$causal, UnitAttr:$emptyIsNan,
                       DenseBoolArrayAttr:$tokensFirst);
  let results = (outs TensorOf<[F32, F16, BF16]>:$result);
  let assemblyFormat = [{
    $query `,` $key `,` $value (`mask` $mask^)? (`lengths` $lengths^)?
    (`first` $first^)? attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// Which dimension holds the heads, which the tokens, of the queries and
    /// the result (0), the keys (1), the values (2).
    int64_t getHeadsAxis(int64_t of) { return getTokensFirst()[of] ? 2 : 1; }
    int64_t getTokensAxis(int64_t of) { return getTokensFirst()[of] ? 1 : 2; }
  }];
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
