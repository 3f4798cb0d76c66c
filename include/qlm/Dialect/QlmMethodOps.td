//===- QlmMethodOps.td - Operations of calibrated methods --*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// How AWQ, SmoothQuant and static activations are spelled. Declared apart from
// the other operations (qlm/Dialect/MethodOps.h), since few files use them.
//
// Scales of columns: with `heads` = [queriesPerKey, headDim], the K columns of a
// weight are heads of headDim columns, queriesPerKey neighbours of which share
// their scales, so that K / queriesPerKey scales are enough; column k takes
// number `k / (queriesPerKey * headDim) * headDim + k % headDim`. Without,
// column k takes number k. That is what it takes to fold them into a value
// projection whose heads several query heads share.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMMETHODOPS
#define QLM_DIALECT_QLMMETHODOPS

include "qlm/Dialect/QlmOpBase.td"

def Qlm_ScaleColumnsOp : Qlm_DefinedPureOp<"scale_columns"> {
  let summary = "Multiplies the columns of a weight by scales";
  let description = [{
    `result[n, k] = f32(weight[n, k]) * scales[s(k)]` in f32, with `s(k)` the
    number of column k's scale (see the head of QlmMethodOps.td).

    Constraints:
    - (C1) `weight` is a static matrix `[rows, columns]`; the result has its
      shape and is f32.
    - (C2) `scales` is `[columns]`, or with `heads` `[columns / heads[0]]`;
      `heads[0] * heads[1]` divides the columns.

    Made by `qlm-migrate-scales`; evaluated by Package.

    ```mlir
    %v = qlm.scale_columns %w by %s : tensor<64x256xbf16>, tensor<256xf32> -> tensor<64x256xf32>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$weight, Qlm_F32Tensor:$scales,
                       OptionalAttr<DenseI64ArrayAttr>:$heads);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $weight `by` $scales (`heads` $heads^)? attr-dict `:` type($weight) `,`
    type($scales) `->` type($result)
  }];
}

def Qlm_TransposeOp : Qlm_DefinedPureOp<"transpose"> {
  let summary = "Swaps the rows and columns of a weight";
  let description = [{
    `result[n, k] = weight[k, n]`: ONNX graphs hold the weights of products as
    `[inFeatures, outFeatures]`.

    Constraints:
    - (C1) `weight` is a static matrix `[columns, rows]`, the result
      `[rows, columns]` of its element type.

    Made by `qlm-raise-decoder`; evaluated by Package.

    ```mlir
    %v = qlm.transpose %w : tensor<256x64xf32> -> tensor<64x256xf32>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$weight);
  let results = (outs Qlm_FloatTensor:$result);
  let assemblyFormat = "$weight attr-dict `:` type($weight) `->` type($result)";
}

def Qlm_ScaleRowsOp : Qlm_DefinedPureOp<"scale_rows"> {
  let summary = "Divides rows of a weight by scales";
  let description = [{
    `result[n, ...] = f32(weight[n, ...]) / scales[n - firstRow]` in f32 for the
    rows from `firstRow` on that have a scale; the others as they are.

    Constraints:
    - (C1) `weight` is static, of rank 1 or 2; the result has its shape and is
      f32.
    - (C2) `scales` is of rank 1 and fits: `0 <= firstRow` and
      `firstRow + size(scales) <= rows`.

    Made by `qlm-migrate-scales`; evaluated by Package.

    ```mlir
    %v = qlm.scale_rows %w by %s from 512 : tensor<1536x256xbf16>, tensor<256xf32> -> tensor<1536x256xf32>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$weight, Qlm_F32Tensor:$scales,
                       I64Attr:$firstRow);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $weight `by` $scales `from` $firstRow attr-dict `:`
    type($weight) `,` type($scales) `->` type($result)
  }];
}

def Qlm_ScaleMomentsOp : Qlm_DefinedPureOp<"scale_moments",
    [AllTypesMatch<["moments", "result"]>]> {
  let summary = "Second moments of inputs that are divided by scales";
  let description = [{
    `result[i, j] = moments[i, j] / (scales[s(i)] * scales[s(j)])` in f32.

    Constraints:
    - (C1) `moments` is a static square matrix, and the result has its type.
    - (C2) `scales` and `heads` are as in `qlm.scale_columns`.

    Made by `qlm-quantize-weights`; evaluated by Package.

    ```mlir
    %v = qlm.scale_moments %h by %s : tensor<256x256xf32>, tensor<256xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$moments, Qlm_F32Tensor:$scales,
                       OptionalAttr<DenseI64ArrayAttr>:$heads);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $moments `by` $scales (`heads` $heads^)? attr-dict `:` type($moments) `,`
    type($scales)
  }];
}

def Qlm_AwqScalesOp : Qlm_Op<"awq_scales", [Pure]> {
  let summary = "Searches for the scales of columns that lose least";
  let description = [{
    AWQ (Lin et al., arXiv 2306.00978, equations 4 and 5). With `m` the mean
    magnitudes of the inputs, `v` those of the weights' columns as parts of the
    largest in their row and group (both averaged over the columns that share a
    scale), and `H` the second moments of the inputs, tries for `a = i / steps`
    with `0 <= i < steps`:

    - `s = max(m^a, 1e-4)`, and after those `s = max(m^a / (v^(1 - a) + 1e-4),
      1e-4)`, each divided by `sqrt(max s * min s)`;
    - `d = Q(W * s) / s - W` by columns, `Q` what `qlm.rtn` and
      `qlm.dequantize` make with the scheme;
    - the loss is `sum_n d[n] H d[n]ᵀ`, which is `E |Q(W s) (x / s) - W x|^2`,
      summed over the weights; of more than 1,024 rows every r-th, with the
      smallest r that leaves no more.

    Gives the `s` of the least loss, of equal ones the first. `a = 0` is plain
    rounding, so the loss is not above its.

    Constraints:
    - (C1) `weights` are static matrices with the same columns; the result is
      `[columns]`, with `heads` `[columns / heads[0]]`.
    - (C2) `meanMagnitude` is `[columns]` and `secondMoments` `[columns,
      columns]`.
    - (C3) the scheme is by channel or by group; `steps` is positive.

    Made by `qlm-migrate-scales`; evaluated by Package, with
    `qlm/Quantize/Awq.h`.

    ```mlir
    %s = qlm.awq_scales %w mean %m moments %h {scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<64x256xbf16>, tensor<256xf32>, tensor<256x256xf32>) -> tensor<256xf32>
    ```
  }];
  let arguments = (ins Variadic<Qlm_FloatTensor>:$weights,
                       Qlm_F32Tensor:$meanMagnitude,
                       Qlm_F32Tensor:$secondMoments, Qlm_SchemeAttr:$scheme,
                       DefaultValuedAttr<I64Attr, "20">:$steps,
                       OptionalAttr<DenseI64ArrayAttr>:$heads);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $weights `mean` $meanMagnitude `moments` $secondMoments
    (`heads` $heads^)? attr-dict `:` functional-type(operands, results)
  }];
  let extraClassDeclaration = [{
    int64_t getColumns() {
      return cast<RankedTensorType>(getWeights().front().getType())
          .getDimSize(1);
    }
  }];
}

def Qlm_SmoothScalesOp : Qlm_Op<"smooth_scales", [Pure]> {
  let summary = "Shares the range of inputs with their weights";
  let description = [{
    SmoothQuant (Xiao et al., arXiv 2211.10438, equation 4): with `a` the
    largest magnitude of each input column and `w` of each weight column (both
    over the columns that share a scale, `w` at least 1e-5),
    `s = max(a^alpha / w^(1 - alpha), 1e-5)`, computed in f64 and rounded to
    f32. Where `a` is 0, `s` is 1.

    Constraints:
    - (C1) `weights` are static matrices with the same columns; the result is
      `[columns]`, with `heads` `[columns / heads[0]]`.
    - (C2) `absmax` is `[columns]`; `alpha` is from 0 to 1.

    Made by `qlm-migrate-scales`; evaluated by Package, with
    `qlm/Quantize/Awq.h`.

    ```mlir
    %s = qlm.smooth_scales %w absmax %a alpha 5.000000e-01 : (tensor<64x256xbf16>, tensor<256xf32>) -> tensor<256xf32>
    ```
  }];
  let arguments = (ins Variadic<Qlm_FloatTensor>:$weights,
                       Qlm_F32Tensor:$absmax, F32Attr:$alpha,
                       OptionalAttr<DenseI64ArrayAttr>:$heads);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $weights `absmax` $absmax `alpha` $alpha
    (`heads` $heads^)? attr-dict `:` functional-type(operands, results)
  }];
  let extraClassDeclaration = [{
    int64_t getColumns() {
      return cast<RankedTensorType>(getWeights().front().getType())
          .getDimSize(1);
    }
  }];
}

def Qlm_ClipOp : Qlm_Op<"clip", [Pure]> {
  let summary = "Clamps each group of a weight to the range that loses least";
  let description = [{
    AWQ's clipping. For each group of columns that share a scale, tries
    `c = (1 - i / 20) * max|w|` for `0 <= i < 10` and keeps the one whose
    `d = Q(clamp(w, -c, c)) - w` makes `d H dᵀ` least, with `H` the block of
    second moments of the group's columns and `Q` what `qlm.rtn` and
    `qlm.dequantize` make with the scheme; of equal ones the largest. The result
    is the clamped weight.

    Constraints:
    - (C1) `weight` is a static matrix `[rows, columns]`, `secondMoments`
      `[columns, columns]`; the result has the weight's shape and is f32.
    - (C2) the scheme is by group or by channel.

    Made by `qlm-quantize-weights`; evaluated by Package, with
    `qlm/Quantize/Awq.h`.

    ```mlir
    %v = qlm.clip %w moments %h {scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<64x256xbf16>, tensor<256x256xf32>) -> tensor<64x256xf32>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$weight, Qlm_F32Tensor:$secondMoments,
                       Qlm_SchemeAttr:$scheme);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $weight `moments` $secondMoments attr-dict `:`
    functional-type(operands, results)
  }];
}

def Qlm_KeepCodesOp : Qlm_Op<"keep_codes", [Pure]> {
  let summary = "The codes that a weight of known scales had";
  let description = [{
    For a weight that another tool dequantized: with the tool's scales (and zero
    points, whole numbers), `codes = clamp(round(w / scale) + zeroPoint, lo,
    hi)` are the tool's own. It is an error where `w` is not what its code
    stands for, to 1/128 of it, a scale of 0 for a weight that is not 0, and a
    zero point that is no code.

    Constraints:
    - (C1) `weight` is a static matrix; results are as those of `qlm.rtn`.
    - (C2) the scheme is uniform or f8E4M3FN, by channel or by group;
      `knownScales` and, if the scheme has them, `knownZeroPoints` have the shape
      of the scales, `[rows, groups]`, `[rows]` by channel, and are f32.

    Made by `qlm-quantize-weights`; evaluated by Package.

    ```mlir
    %c, %s = qlm.keep_codes %w scales %k {scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<64x256xf16>, tensor<64x2xf32>) -> (tensor<64x256xi4>, tensor<64x2xf16>)
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$weight, Qlm_F32Tensor:$knownScales,
                       Optional<Qlm_F32Tensor>:$knownZeroPoints,
                       Qlm_SchemeAttr:$scheme);
  let results = (outs Qlm_CodeTensor:$codes, Qlm_ScaleTensor:$scales,
                      Optional<Qlm_CodeTensor>:$zeroPoints);
  let assemblyFormat = [{
    $weight `scales` $knownScales (`zero_points` $knownZeroPoints^)? attr-dict
    `:` functional-type(operands, results)
  }];
}

def Qlm_StaticScaleOp : Qlm_DefinedPureOp<"static_scale"> {
  let summary = "The scale of inputs whose magnitudes a calibration saw";
  let description = [{
    `result[0] = max_k (|magnitudes[k]| / scales[s(k)]) / 127` in f32, 1 where
    that is 0; without `scales` nothing is divided by, and with `element` only
    that one counts.

    Constraints:
    - (C1) `magnitudes` is `[size]` and static; the result is `[1]`.
    - (C2) `scales` and `heads` are as in `qlm.scale_columns`.
    - (C3) `element` is below the size and goes without `scales`.

    Made by `qlm-quantize-activations`; evaluated by Package.

    ```mlir
    %s = qlm.static_scale %a : tensor<256xf32> -> tensor<1xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$magnitudes,
                       Optional<Qlm_F32Tensor>:$scales,
                       OptionalAttr<I64Attr>:$element,
                       OptionalAttr<DenseI64ArrayAttr>:$heads);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $magnitudes (`over` $scales^ `:` type($scales))? (`heads` $heads^)?
    attr-dict `:` type($magnitudes) `->` type($result)
  }];
}

def Qlm_StaticQuantizeOp : Qlm_DefinedPureOp<"static_quantize"> {
  let summary = "Quantizes activations with one scale known beforehand";
  let description = [{
    For each token, in f32: `scales[t] = scale[0]`,
    `codes[t, k] = clamp(round(input[t, k] / scale[0]), -127, 127)`; half to
    even. A scale for each token is what `qlm.packed_linear` multiplies by.

    Constraints:
    - (C1) `input` is `[tokens, features]` f32 and `codes` `[tokens, features]`
      i8.
    - (C2) `scale` is `[1]` f32, `scales` `[tokens]` f32.
    - (C3) the scheme is i8, row, symmetric, range [-127, 127], bound 127.

    Made by `qlm-quantize-activations`.

    ```mlir
    %c, %s = qlm.static_quantize %x scale %a {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>}
        : tensor<?x2048xf32>, tensor<1xf32> -> tensor<?x2048xi8>, tensor<?xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, Qlm_F32Tensor:$scale,
                       Qlm_SchemeAttr:$scheme);
  let results = (outs Qlm_CodeTensor:$codes, Qlm_F32Tensor:$scales);
  let assemblyFormat = [{
    $input `scale` $scale attr-dict `:` type($input) `,` type($scale) `->`
    type($codes) `,` type($scales)
  }];
}

#endif // QLM_DIALECT_QLMMETHODOPS
